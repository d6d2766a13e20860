package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/logging"
	"github.com/gantry-mq/gantry/internal/pki"
)

// ErrClosed: the node was closed.
var ErrClosed = errors.New("replica: the node is closed")

// Options of a node. Dir, Log or Store, Name, Listen and Client must be given.
type Options struct {
	Dir   string         // for the node's own files: who it is, its vote, raft's snapshots
	Log   *commitlog.Log // opened with Replicated
	Store *Store         // opens the log, and lets nodes fetch it; nil = none may
	Name  string         // see pki.CheckName; up to 46 characters

	Listen       string        // the address for other nodes
	Advertise    string        // under which they reach it; "" = the one that is listened on
	Client       string        // under which clients reach this node
	Certificates *pki.Identity // nil = plaintext, on loopback only

	// How a node that is no member yet becomes one, see the package.
	Bootstrap bool
	Join      string // the peer addresses of any members, with commas between them
	Learner   bool   // it does not count when it has caught up, but when somebody says so: Promote

	// NoRepair has a node that is damaged end with the error, and stay as it is.
	NoRepair bool
	cluster  uint64 // the only one to join, 0 = any

	// Digest returns the digest of the state at a position; nil = nobody knows.
	Digest func(ctx context.Context, at record.Position) (Digest, error)

	// Order does what another node wants of the broker that leads here; ErrNotLeading when
	// none does. nil = nothing. See Node.Order.
	Order func(ctx context.Context, order []byte) ([]byte, error)

	// Full says whether this node has no disk space for messages; nil = it always has.
	Full func() bool

	Timing Timing
	Logger *slog.Logger // nil = none
	// Fatal is called when this node can not go on: ErrDiskHung, ErrDiverged, ErrBehind,
	// or what the log says. nil ends the process. One of the node's goroutines calls
	// it, so it must not wait for Close.
	Fatal func(error)
}

// Timing is how long a node waits. Zero means the default.
type Timing struct {
	// Heartbeat is how long a follower hears nothing until it stands for election; 1 s.
	// raft looks at that at random moments, once or twice as long apart, so a leader is
	// missed after one to three times as long. And a heartbeat waits for the disk of the
	// follower: syncs must be shorter.
	Heartbeat time.Duration
	Lease     time.Duration // without a majority for so long, a leader steps down; as Heartbeat
	Commit    time.Duration // how late a follower may learn of the last commit when idle; 20 ms
	Compare   time.Duration // how often a follower's log is held against those of the others; 10 s
	Disk      time.Duration // when a write of the log takes so long, the node ends with ErrDiskHung; 15 s
}

// Node is this process's part in the agreement. All methods may be called
// concurrently.
type Node struct {
	opts  Options
	parts parts
	raft  *raft.Raft
	log   *slog.Logger

	ctx     context.Context // until Close
	cancel  context.CancelFunc
	once    sync.Once
	notify  chan bool     // raft's: whether this node leads
	down    chan struct{} // raft has ended
	removed chan struct{}
	run     sync.WaitGroup // until ctx ends
	watcher sync.WaitGroup // until raft has
	asking  sync.WaitGroup // see ask
	terms   uint64         // how many Terms Lead has made
	sending chan struct{}  // a slot for a node that fetches the log
	knows   known          // what is in the file "peers"; report's

	mu      sync.Mutex
	closed  bool
	leading chan struct{} // closed while this node leads, replaced when it does no more
	term    *Term         // the one that was handed out last
	moved   chan struct{} // closed when another node leads, and replaced
	held    time.Time     // until then the leadership stays where it is, see Prefer
}

// parts is what a node is made of, beside its options.
type parts struct {
	id        string
	cluster   uint64
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	transport raft.Transport // closed with raft
	address   string         // raft's, of this node
	consult   func(ctx context.Context, id, address string, q question) (answer, error)
	endpoint  *peer.Endpoint // nil in tests that have none
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &o.Timing
	t.Heartbeat = cmp.Or(t.Heartbeat, time.Second)
	t.Lease = cmp.Or(t.Lease, t.Heartbeat)
	t.Commit = cmp.Or(t.Commit, 20*time.Millisecond)
	t.Compare = cmp.Or(t.Compare, 10*time.Second)
	t.Disk = cmp.Or(t.Disk, 15*time.Second)
}

// start lets a node take part that is a member.
func start(opts Options, p parts) (*Node, error) {
	opts.setDefaults()
	n := &Node{
		opts: opts, parts: p, log: opts.Logger.With("node", p.id, logging.Component, "replica"), notify: make(chan bool, 64),
		down: make(chan struct{}), removed: make(chan struct{}), leading: make(chan struct{}),
		moved:   make(chan struct{}),
		sending: make(chan struct{}, 1),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	// What a snapshot stands for is committed, whatever the log itself can prove.
	snaps, err := p.snapshots.List()
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if len(snaps) > 0 && snaps[0].Index > opts.Log.Index() {
		if _, _, err := opts.Log.Commit(snaps[0].Index); err != nil {
			return nil, fmt.Errorf("%w: the log does not reach the snapshot of its membership: %w", ErrDamaged, err)
		}
	}
	reaches := uint64(0)
	if len(snaps) > 0 {
		reaches = snaps[0].Index
	}
	if first := opts.Log.FirstIndex(); first > reaches+1 { // raft would have to read what is between
		return nil, fmt.Errorf("%w: the log begins with entry %d, and the newest snapshot of the membership that can be read is of entry %d", ErrDamaged, first, reaches)
	}
	store := &logStore{log: opts.Log, fatal: n.fatal}
	n.raft, err = newRaft(n.config(), &fsm{log: opts.Log, fatal: n.fatal}, store, p.stable, p.snapshots, p.transport)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	observer, led := leaders()
	n.raft.RegisterObserver(observer)
	n.watcher.Go(func() { n.observe(led) })
	n.watcher.Go(n.watch)
	n.watcher.Go(func() { n.guard(&store.calls) })
	if p.endpoint != nil {
		p.endpoint.Handle(control, n.serve)
		if opts.Store != nil {
			p.endpoint.Handle(backfill, n.serveBackfill)
		}
	}
	n.run.Go(n.report)
	n.run.Go(n.compare)
	return n, nil
}

// newRaft is raft's, which panics when it cannot read an entry. Nothing of it runs yet
// then, so a damaged log is an error as elsewhere.
func newRaft(c *raft.Config, f raft.FSM, l raft.LogStore, s raft.StableStore, snaps raft.SnapshotStore, t raft.Transport) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(error)
			if !ok || !damaged(e) {
				panic(p)
			}
			err = e
		}
	}()
	return raft.NewRaft(c, f, l, s, snaps, t)
}

func (n *Node) config() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.parts.id)
	c.HeartbeatTimeout = n.opts.Timing.Heartbeat
	c.ElectionTimeout = n.opts.Timing.Heartbeat
	c.LeaderLeaseTimeout = n.opts.Timing.Lease
	c.CommitTimeout = n.opts.Timing.Commit
	c.BatchApplyCh = true
	c.MaxAppendEntries = 32 // of up to 512 KiB each
	// A snapshot holds nothing but the membership, and no entry goes when one is
	// made. What it is good for: raft reads all entries behind it when it starts.
	c.TrailingLogs = 1 << 62
	c.SnapshotInterval = 30 * time.Second
	c.SnapshotThreshold = 256
	c.NoSnapshotRestoreOnStart = true
	c.ShutdownOnRemove = false // raft ends in Close alone: see ask
	c.NoLegacyTelemetry = true
	c.NotifyCh = n.notify
	c.Logger = raftLogger(n.opts.Logger, n.parts.id)
	return c
}

func (n *Node) fatal(err error) {
	n.Damaged(err)
	if n.opts.Fatal != nil {
		n.opts.Fatal(err)
		return
	}
	panic(err)
}

// ask has raft do something and waits for the answer. While it runs, raft answers
// everything: what it can not decide, when it has lost its leadership. But it ends
// without answering what is still in its channels. So it ends only after all that
// it was asked is answered: Close waits for this, and for the terms.
func (n *Node) ask(f func() raft.Future) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return ErrClosed
	}
	n.asking.Add(1)
	n.mu.Unlock()
	defer n.asking.Done()
	return f().Error()
}

// Removed is closed when this node has heard that it is no member any more. It has
// to be closed then.
func (n *Node) Removed() <-chan struct{} { return n.removed }

// Log is the node's log.
func (n *Node) Log() *commitlog.Log { return n.opts.Log }

// Close takes this node out of the agreement, not out of the cluster. Nothing new
// is proposed from then on; what was proposed is decided, which takes a leader
// without a majority its lease; then a leader hands its leadership over, if
// another node can take it. The log is the caller's to close, after this.
func (n *Node) Close() (err error) {
	n.once.Do(func() {
		n.mu.Lock()
		n.closed = true
		term := n.term
		n.mu.Unlock()
		n.cancel()
		n.run.Wait()
		if term != nil {
			term.end(ErrClosed)
			term.run.Wait()
		}
		n.asking.Wait()
		n.abdicate()
		n.raft.Shutdown().Error() // never one
		close(n.down)
		n.watcher.Wait()
		err = n.parts.close()
	})
	return err
}
