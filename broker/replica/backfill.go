package replica

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// Backfill: when retention has taken the beginning of the leader's log, raft can not
// bring a new node up, and the log alone would be of no use: what the beginning made
// is only in the leader's checkpoint. So the new node fetches both, as files, before
// it opens its log:
//
//	joins                       leader: ErrTrimmed, and who it is
//	note: unfinished            from here on the log is not opened
//	backfill connection         -> wanted, <- offer | checkpoint | segments
//	note: complete              all of it is durable
//	opens the log, joins again  with its last index: raft can do the rest
//	snapshot of the membership  as of an entry that is there
//	member
//
// A node that is killed, or cut off, goes on behind the last whole segment, from
// whoever leads by then.

// Store is what a node has on disk beside what this package keeps.
type Store struct {
	LogDir string
	// OpenLog opens the log in LogDir, with Replicated.
	OpenLog func() (*commitlog.Log, error)
	// Checkpoint returns a checkpoint of the state that the log has led to, and the
	// position up to which; Restore makes one durable, and says up to where it is.
	Checkpoint func() ([]byte, record.Position, error)
	Restore    func([]byte) (record.Position, error)
	// SetAside moves all of this, which nobody has open, to a directory that is named
	// after directory, and returns its path. What is moved already stays.
	SetAside func(directory string) (string, error)
}

const (
	// backfillRate bounds what is sent, in bytes a second: about half of what a gigabit
	// takes, so that clients and replicas are still served.
	backfillRate = 64 << 20
	// backfillHold bounds how long retention's room stays taken for one connection. The
	// receiver comes again.
	backfillHold = 15 * time.Minute
	// backfillStall is how long the other side may take for the next part.
	backfillStall = time.Minute
	// backfillPart is how much is written at a time.
	backfillPart = 256 << 10
	// maxCheckpoint is what a receiver keeps in memory, in bytes.
	maxCheckpoint = 4 << 30
)

var backfill = peer.Purpose{Kind: peer.Backfill}

// wanted is what a receiver says first, as JSON behind its length (4 bytes).
type wanted struct {
	From record.Position // the base of the next segment, 0 = the first
}

// offer is the answer to it. Behind it come the checkpoint and the segments.
type offer struct {
	Refused    string          `json:",omitempty"` // why there is nothing; it may be otherwise soon
	From       record.Position // the base of the first segment that comes
	End        record.Position // where the last frame ends
	Checkpoint int             // bytes
	Membership membership
}

// membership is who the members were, as of an entry of the log that is sent.
type membership struct {
	Index, Term uint64
	Members     raft.Configuration
	Since       uint64 // index of the entry that made it so
}

// note is the file "backfill", JSON, from the first byte that is fetched until the
// node is a member.
type note struct {
	Cluster    uint64
	Complete   bool  // the log may be opened
	Segment    int64 // size of the log's segments
	Membership membership
}

const noteFile = "backfill"

func readNote(dir string) (n note, found bool, err error) {
	b, err := mmapfile.ReadFile(mmapfile.OS, filepath.Join(dir, noteFile))
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil {
		return n, false, fmt.Errorf("replica: %s: %w", filepath.Join(dir, noteFile), err)
	}
	return n, true, nil
}

func (n note) write(dir string) error {
	b, err := json.Marshal(n)
	if err == nil {
		err = mmapfile.WriteFile(mmapfile.OS, filepath.Join(dir, noteFile), b)
	}
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// removeFile removes one, if it is there.
func removeFile(dir, file string) error {
	err := mmapfile.OS.Remove(filepath.Join(dir, file))
	if err == nil {
		err = mmapfile.OS.SyncDir(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// enter makes this node a member, with a log that the leader can go on with, and
// opens that. It returns the cluster, and what was noted if the log was fetched.
func (p *parts) enter(ctx context.Context, opts *Options, logger *slog.Logger) (cluster uint64, fetched *note, err error) {
	n, begun, err := readNote(opts.Dir)
	if err != nil {
		return 0, nil, err
	}
	pause := opts.Timing.Heartbeat / 2
	for {
		last := uint64(0)
		if !begun || n.Complete {
			if err := opts.openLog(); err != nil {
				return 0, nil, err
			}
			last = opts.Log.LastIndex()
		}
		if last > 0 && !begun {
			return 0, nil, errors.New("replica: this node has a log of its own: it can be the first of a cluster, not join one")
		}
		if opts.Log != nil {
			n.Segment = opts.Log.SegmentSize()
		}
		a, err := p.persuade(ctx, opts.Join, question{Ask: askJoin, Node: p.id, Address: p.address, Last: last, Segment: n.Segment, Cluster: opts.cluster}, pause, logger)
		trimmed := errors.Is(err, ErrTrimmed) && opts.Store != nil
		switch {
		case err != nil && !trimmed:
			return 0, nil, err
		case begun && a.Cluster != n.Cluster:
			return 0, nil, fmt.Errorf("replica: this node has fetched the log of cluster %016x, it can not join %016x", n.Cluster, a.Cluster)
		case !trimmed && n.Complete:
			return a.Cluster, &n, nil
		case !trimmed && !begun:
			return a.Cluster, nil, nil
		}
		n.Cluster, n.Complete, begun = a.Cluster, false, true
		if err := n.write(opts.Dir); err != nil {
			return 0, nil, err
		}
		if opts.Log != nil {
			err := opts.Log.Close()
			if opts.Log = nil; err != nil {
				return 0, nil, err
			}
		}
		if err := p.fetch(ctx, opts, &n, a, logger); err != nil {
			logger.Warn("the log is not fetched yet", "from", a.Leader, "at", a.LeaderAddress, "error", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
				return 0, nil, fmt.Errorf("replica: not joined: %w: %w", context.Cause(ctx), err)
			}
		}
	}
}

// fetch gets what is missing from the leader.
func (p *parts) fetch(ctx context.Context, opts *Options, n *note, a answer, logger *slog.Logger) error {
	p.endpoint.SetCluster(a.Cluster)
	defer p.endpoint.SetCluster(0) // a node of none may ask anybody
	conn, err := p.endpoint.Dial(ctx, a.LeaderAddress, a.Leader, backfill)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	r, err := commitlog.NewReceiver(mmapfile.OS, opts.Store.LogDir)
	if err != nil {
		return err
	}
	defer r.Close()
	in := bufio.NewReader(patient{conn})
	began := time.Now()
	if err := writeJSON(conn, wanted{From: r.Next()}); err != nil {
		return err
	}
	var o offer
	if err := readJSON(in, &o); err != nil {
		return err
	}
	switch {
	case o.Refused != "":
		return fmt.Errorf("replica: the other node answers: %s", o.Refused)
	case o.Checkpoint <= 0 || o.Checkpoint > maxCheckpoint:
		return fmt.Errorf("replica: a checkpoint of %d bytes", o.Checkpoint)
	case o.From != r.Next(): // retention has taken what would follow, or nothing is here yet
		if err := r.Reset(); err != nil {
			return err
		}
	}
	logger.Info("the log is fetched", "from", a.Leader, "begins", o.From, "ends", o.End, "checkpoint_bytes", o.Checkpoint)
	state, err := readPart(in, o.Checkpoint)
	if err != nil {
		return fmt.Errorf("replica: the checkpoint did not arrive: %w", err)
	}
	at, err := opts.Store.Restore(state)
	if err != nil {
		return err
	}
	if at > o.End || o.Membership.Index == 0 {
		return fmt.Errorf("replica: the log that is offered ends at %d, the checkpoint is at %d, the membership of entry %d", o.End, at, o.Membership.Index)
	}
	if err := r.Receive(in, o.End); err != nil {
		return err
	}
	if err := r.Finish(); err != nil {
		return err
	}
	n.Membership, n.Complete = o.Membership, true
	if err := n.write(opts.Dir); err != nil {
		return err
	}
	logger.Info("the log is there", "ends", o.End, "took", time.Since(began).Round(time.Millisecond))
	return nil
}

// begin makes raft begin behind what was fetched, as if it had been there all the
// time. It may be called again.
func (p *parts) begin(log *commitlog.Log, m membership) error {
	snaps, err := p.snapshots.List()
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	if len(snaps) == 0 || snaps[0].Index < m.Index {
		sink, err := p.snapshots.Create(1, m.Index, m.Term, m.Members, m.Since, p.transport)
		if err == nil {
			err = sink.Close()
		}
		if err != nil {
			return fmt.Errorf("replica: %w", err)
		}
	}
	e, err := log.Entry(log.LastIndex())
	if err == nil {
		err = p.stable.SetUint64(keyTerm, e.Term)
	}
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}

// serveBackfill is the endpoint's handler for nodes that fetch. One is served at a
// time: two would take twice the room and the rate.
func (n *Node) serveBackfill(conn net.Conn, from string) {
	defer conn.Close()
	select {
	case n.sending <- struct{}{}:
		defer func() { <-n.sending }()
	default:
		writeJSON(conn, offer{Refused: "another node is being served"})
		return
	}
	began := time.Now()
	out := &paced{conn: conn, began: began}
	err := n.send(conn, out)
	if err != nil {
		n.log.Warn("a node that fetches the log was not sent all of it", "to", from, "bytes", out.sent, "error", err)
		return
	}
	n.log.Info("a node has fetched the log", "node", from, "bytes", out.sent, "took", time.Since(began).Round(time.Millisecond))
}

func (n *Node) send(conn net.Conn, out *paced) error {
	var w wanted
	if err := readJSON(patient{conn}, &w); err != nil {
		return err
	}
	o, state, held, err := n.offer(w)
	if err != nil {
		return errors.Join(err, writeJSON(out, offer{Refused: err.Error()}))
	}
	defer held.Close()
	if err := writeJSON(out, o); err != nil {
		return err
	}
	if _, err := out.Write(state); err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(out, backfillPart)
	if err := held.Send(buffered, o.From); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	// The other side closes when it has all of it.
	_, err = patient{conn}.Read(make([]byte, 1))
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("replica: it was not taken: %w", err)
	}
	return nil
}

// offer finds a checkpoint, a log and a membership that fit: both as of a place in
// the log that is sent.
func (n *Node) offer(w wanted) (o offer, state []byte, held *commitlog.Held, err error) {
	state, at, err := n.opts.Store.Checkpoint()
	if err != nil {
		return o, nil, nil, err
	}
	if err := n.Remember(); err != nil {
		return o, nil, nil, err
	}
	snaps, err := n.parts.snapshots.List()
	if err == nil && len(snaps) == 0 {
		err = errors.New("replica: there is no snapshot of the membership")
	}
	if err != nil {
		return o, nil, nil, err
	}
	s := snaps[0]
	held = n.opts.Log.Hold()
	if at < held.First() || at > held.End() || s.Index+1 < held.FirstIndex() || s.Index > held.Index() {
		defer held.Close()
		return o, nil, nil, fmt.Errorf("replica: the log is of [%d, %d), entries %d to %d; the checkpoint of %d, the membership of entry %d", held.First(), held.End(), held.FirstIndex(), held.Index(), at, s.Index)
	}
	return offer{
		From: held.Base(w.From), End: held.End(), Checkpoint: len(state),
		Membership: membership{Index: s.Index, Term: s.Term, Members: s.Configuration, Since: s.ConfigurationIndex},
	}, state, held, nil
}

// paced writes to a connection at backfillRate, and not for ever.
type paced struct {
	conn  net.Conn
	began time.Time
	sent  int64
}

func (p *paced) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		now := time.Now()
		if now.Sub(p.began) > backfillHold {
			return n, errors.New("replica: sending takes too long: retention needs the room")
		}
		time.Sleep(time.Duration(float64(p.sent)/backfillRate*float64(time.Second)) - now.Sub(p.began))
		p.conn.SetWriteDeadline(time.Now().Add(backfillStall))
		m, err := p.conn.Write(b[:min(len(b), backfillPart)])
		p.sent += int64(m)
		n += m
		if b = b[m:]; err != nil {
			return n, err
		}
	}
	return n, nil
}

// patient reads from a connection whose other side may stop for backfillStall.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	p.SetReadDeadline(time.Now().Add(backfillStall))
	return p.Conn.Read(b)
}

func writeJSON(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(append(le.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJSON(r io.Reader, v any) error {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	n := le.Uint32(head[:])
	if n > maxQuestion {
		return fmt.Errorf("replica: a message of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

// readPart reads n bytes. It takes memory as they come, not as they are announced.
func readPart(r io.Reader, n int) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, int64(n)))
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
