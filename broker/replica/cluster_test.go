package replica

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/broker/replica/stable"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the cluster tests; 0 means a new one each time")
	faultsFlag = flag.Int("faults", 12, "faults of a run")
)

func newRNG(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// A record of these tests: its number among all records, which sequence gives,
// and whose it is.
const recordLen = 24

func sequenced(next uint64) func(int64, *commitlog.Batch) {
	return func(_ int64, b *commitlog.Batch) {
		for i := range b.Len() {
			binary.LittleEndian.PutUint64(b.Head(i), next)
			next++
		}
	}
}

func batchOf(ids ...uint64) *commitlog.Batch {
	b := new(commitlog.Batch)
	for _, id := range ids {
		head := make([]byte, recordLen)
		binary.LittleEndian.PutUint64(head[8:], id)
		b.Add(head, nil)
	}
	return b
}

// wire is a network in memory that has no pipeline either: see peer.Transport.
type wire struct {
	*raft.InmemTransport
	weather func(to raft.ServerAddress) weather // nil: always good
	dark    func(to raft.ServerAddress) bool    // an end of the line has no power
}

// weather is what a call meets on its way there and its answer on the way back.
type weather struct{ there, back leg }

type leg struct {
	takes time.Duration
	lost  bool
}

var errLost = errors.New("nothing came back")

func (w wire) call(to raft.ServerAddress, f func() error) error {
	var now weather
	if w.weather != nil {
		now = w.weather(to)
	}
	if time.Sleep(now.there.takes); now.there.lost || w.dark(to) {
		return errLost
	}
	err := f()
	if time.Sleep(now.back.takes); now.back.lost || w.dark(to) {
		return errLost
	}
	return err
}

func (w wire) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	return w.call(to, func() error { return w.InmemTransport.AppendEntries(id, to, req, resp) })
}

func (w wire) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return w.call(to, func() error { return w.InmemTransport.RequestVote(id, to, req, resp) })
}

func (w wire) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return w.call(to, func() error { return w.InmemTransport.RequestPreVote(id, to, req, resp) })
}

func (w wire) InstallSnapshot(id raft.ServerID, to raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return w.call(to, func() error { return w.InmemTransport.InstallSnapshot(id, to, req, resp, data) })
}

func (w wire) TimeoutNow(id raft.ServerID, to raft.ServerAddress, req *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return w.call(to, func() error { return w.InmemTransport.TimeoutNow(id, to, req, resp) })
}

func (wire) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// host is the machine of a node: what is there when the node is not.
type host struct {
	t      *testing.T
	name   string
	disk   atomic.Uint64 // number of its directory
	fs     *crashtest.FS
	stable *votes
	snaps  raft.SnapshotStore

	off      atomic.Bool   // what is left of the process may complain
	dark     atomic.Bool   // without power; nothing leaves it
	died     chan error    // what it said first
	patience time.Duration // Timing.Disk

	log  *commitlog.Log
	node *Node
	wire wire
	led  sync.WaitGroup
}

func newHost(t *testing.T, name string) *host {
	h := &host{t: t, name: name, died: make(chan error, 1)}
	h.replaceDisk()
	return h
}

// replaceDisk makes the host forget everything.
func (h *host) replaceDisk() {
	h.disk.Add(1)
	h.fs, h.snaps = crashtest.New(), raft.NewInmemSnapshotStore()
}

func (h *host) id() string { return peer.NewID(h.name, h.disk.Load()) }

func (h *host) fatal(err error) {
	if !h.off.Load() {
		h.t.Errorf("%s: %v", h.name, err)
	}
	select {
	case h.died <- err:
	default:
	}
}

// cluster is hosts on a network.
type cluster struct {
	t     *testing.T
	hosts []*host

	mu    sync.Mutex
	nodes map[string]*Node // that are there, by their ID
	cut   map[string]bool  // names of hosts that are alone
	term  *Term            // of whoever leads, or did last
}

func newCluster(t *testing.T, n int) *cluster {
	c := &cluster{t: t, nodes: map[string]*Node{}, cut: map[string]bool{}}
	for i := range n {
		c.hosts = append(c.hosts, newHost(t, fmt.Sprint("n", i+1)))
	}
	return c
}

func (h *host) options() Options {
	return Options{
		Log:    h.log,
		Timing: Timing{Heartbeat: 150 * time.Millisecond, Lease: 100 * time.Millisecond, Commit: 5 * time.Millisecond, Compare: 20 * time.Millisecond, Disk: h.patience},
		Fatal:  h.fatal,
	}
}

func (c *cluster) parts(h *host) parts {
	self := h.id()
	return parts{
		id: self, stable: h.stable, snapshots: h.snaps, transport: h.wire, address: string(h.address()),
		consult: func(_ context.Context, id, _ string, q question) (answer, error) {
			c.mu.Lock()
			to := c.nodes[id]
			if c.cut[h.name] || c.cut[peer.NameOf(id)] {
				to = nil
			}
			c.mu.Unlock()
			if to == nil {
				return answer{}, fmt.Errorf("%s does not reach %s", h.name, id)
			}
			return to.answer(q, self), nil
		},
	}
}

func (h *host) address() raft.ServerAddress {
	return raft.ServerAddress(peer.Address{Peer: h.name + ":1", Client: h.name + ":2"}.String())
}

func (h *host) openLog() *commitlog.Log {
	l, err := commitlog.Open(commitlog.Options{
		Dir: "/log", FS: h.fs, SegmentSize: 64 << 10, Replicated: true, Logger: slog.New(slog.DiscardHandler), Fatal: h.fatal,
	})
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	return l
}

// votes is raft's stable store. raft panics when that fails, which ends the process; of a
// host without power nobody hears what it votes.
type votes struct {
	*stable.Store
	dark *atomic.Bool
}

func (v *votes) Set(key, value []byte) error { return v.unlessDark(v.Store.Set(key, value)) }

func (v *votes) SetUint64(key []byte, value uint64) error {
	return v.unlessDark(v.Store.SetUint64(key, value))
}

func (v *votes) unlessDark(err error) error {
	if v.dark.Load() {
		return nil
	}
	return err
}

// openStable opens raft's votes, which are on the disk too.
func (h *host) openStable() {
	const name = "/vote"
	store, err := stable.Open(h.fs, name, slog.New(slog.DiscardHandler))
	if errors.Is(err, fs.ErrNotExist) {
		store, err = stable.Create(h.fs, name)
	}
	if err != nil {
		h.t.Fatalf("%s: %v", h.name, err)
	}
	h.stable = &votes{store, &h.dark}
}

// up starts a host's node; the first time, the first host makes the cluster.
func (c *cluster) up(h *host, bootstrap bool) {
	c.t.Helper()
	h.log = h.openLog()
	h.openStable()
	h.wire.dark = func(to raft.ServerAddress) bool {
		return h.dark.Load() || slices.ContainsFunc(c.hosts, func(o *host) bool { return o.address() == to && o.dark.Load() })
	}
	_, h.wire.InmemTransport = raft.NewInmemTransportWithTimeout(h.address(), 50*time.Millisecond)
	p := c.parts(h)
	if bootstrap {
		if err := p.bootstrap(h.log); err != nil {
			c.t.Fatal(err)
		}
	}
	node, err := start(h.options(), p)
	if err != nil {
		c.t.Fatalf("%s: %v", h.name, err)
	}
	h.node = node
	c.mu.Lock()
	c.nodes[h.id()] = h.node
	c.mu.Unlock()
	h.led.Go(func() { c.lead(h) })
	c.connect()
}

// lead serves whenever the host's node leads: its state is how many records there
// are.
func (c *cluster) lead(h *host) {
	for {
		t, err := h.node.Lead(context.Background())
		if errors.Is(err, ErrClosed) {
			return
		}
		all, err := records(h.log)
		if err != nil {
			h.fatal(err)
			return
		}
		t.Begin(func() int64 { return time.Now().UnixNano() }, sequenced(uint64(len(all))))
		c.mu.Lock()
		c.term = t
		c.mu.Unlock()
		<-t.Over()
	}
}

// connect makes the network as cut says.
func (c *cluster) connect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.hosts {
		if a.wire.InmemTransport == nil {
			continue
		}
		for _, b := range c.hosts {
			if b.wire.InmemTransport == nil || a == b {
				continue
			}
			if c.cut[a.name] || c.cut[b.name] {
				a.wire.Disconnect(b.address())
			} else {
				a.wire.Connect(b.address(), b.wire.InmemTransport)
			}
		}
	}
}

// stop ends a host's node.
func (c *cluster) stop(h *host) {
	if err := h.node.Close(); err != nil {
		h.fatal(err)
	}
	c.mu.Lock()
	delete(c.nodes, h.id())
	c.mu.Unlock()
	h.led.Wait()
	if err := h.log.Close(); err != nil {
		h.fatal(err)
	}
}

// powerOff ends a host in the middle of whatever it does.
func (c *cluster) powerOff(h *host, s crashtest.Survival, rng *rand.Rand) {
	h.off.Store(true)
	h.dark.Store(true)
	image := h.fs.PowerOff(s, rng)
	c.stop(h)
	h.fs = image
	h.off.Store(false)
	h.dark.Store(false)
}

func (c *cluster) current() *Term {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.term
}

// submit has whoever leads append a batch, and returns where it is, or !ok when
// that is not known.
func (c *cluster) submit(ctx context.Context, b *commitlog.Batch) (ok bool) {
	t := c.current()
	if t == nil || t.Submit(b) != nil {
		time.Sleep(time.Millisecond) // nobody leads: a moment for the election
		return false
	}
	err := b.Wait(ctx)
	if err != nil && !errors.Is(err, ErrUnknown) && !errors.Is(err, ErrNotLeading) {
		c.t.Errorf("%v", err)
	}
	return err == nil
}

type numbered struct {
	pos    record.Position
	number uint64
	id     uint64
}

// records returns what is committed in a log.
func records(l *commitlog.Log) (out []numbered, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for r := l.Reader(l.First()); ; {
		f, err := r.Next(ctx)
		if errors.Is(err, context.Canceled) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(f.Payload); i += recordLen {
			b := f.Payload[i:]
			out = append(out, numbered{f.Base() + record.Position(i), binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])})
		}
		f.Release()
	}
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 3000 {
		if f() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("in half a minute: not %s", what)
}

// join has the leader take h in and waits until it counts.
func (c *cluster) join(h *host) {
	c.t.Helper()
	eventually(c.t, h.name+" joined", func() bool {
		for _, l := range c.hosts {
			ask := func(a asked) bool {
				q := question{Ask: a, Node: h.id(), Address: string(h.address()), Last: h.log.LastIndex(), Segment: h.log.SegmentSize()}
				return l.node.decide(q).Verdict == granted
			}
			if l.node != nil && ask(askJoin) && ask(askUpdate) {
				m, err := l.node.member(h.name)
				return err == nil && m.Voter
			}
		}
		return false
	})
	// The library votes for nobody of whose promotion it has not heard: when the leader
	// ends before the others have, and does not come back, nobody can lead.
	eventually(c.t, "all know that "+h.name+" votes", func() bool {
		for _, l := range c.hosts {
			if l.node == nil {
				continue
			}
			if m, err := l.node.member(h.name); err != nil || !m.Voter || m.ID != h.id() {
				return false
			}
		}
		return true
	})
}

// assemble makes the hosts a cluster.
func (c *cluster) assemble() {
	c.t.Helper()
	for i, h := range c.hosts {
		c.up(h, i == 0)
		if i > 0 {
			c.join(h)
		}
	}
}

// remove has the leader take out the one that h was.
func (c *cluster) remove(h *host) {
	c.t.Helper()
	eventually(c.t, h.name+" removed", func() bool {
		for _, l := range c.hosts {
			if v := l.node.decide(question{Ask: askRemove, Node: h.name}).Verdict; v == granted || v == noMember {
				return true
			}
		}
		return false
	})
}

// workload is senders whose appends are judged in the end: what was acknowledged must
// be where it was said to be, once; numbers must have no gaps; all logs must be equal.
type workload struct {
	c    *cluster
	ids  atomic.Uint64
	run  sync.WaitGroup
	stop context.CancelFunc

	mu      sync.Mutex
	acked   map[uint64]record.Position
	end     record.Position // of what was acknowledged
	refused int
}

// load begins to send; pause is between two appends of a sender.
func (c *cluster) load(senders int, pause time.Duration) *workload {
	ctx, cancel := context.WithCancel(context.Background())
	w := &workload{c: c, stop: cancel, acked: map[uint64]record.Position{}}
	for range senders {
		w.run.Go(func() {
			for ctx.Err() == nil {
				w.append(3)
				time.Sleep(pause)
			}
		})
	}
	w.progress("the start")
	return w
}

// append appends n records and reports whether they are acknowledged.
func (w *workload) append(n int) (end record.Position, ok bool) {
	last := w.ids.Add(uint64(n))
	var ids []uint64
	for i := range n {
		ids = append(ids, last-uint64(n-1-i))
	}
	b := batchOf(ids...)
	ok = w.c.submit(context.Background(), b)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ok {
		w.refused++
		return 0, false
	}
	for i, id := range ids {
		w.acked[id] = b.Position(i)
	}
	w.end = max(w.end, b.End())
	return b.End(), true
}

// progress waits for an append that is acknowledged from now on.
func (w *workload) progress(what string) {
	w.c.t.Helper()
	w.mu.Lock()
	before := len(w.acked)
	w.mu.Unlock()
	eventually(w.c.t, "going on after "+what, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked) > before
	})
}

// judge ends the load, when all hosts are up and reach each other, and holds what
// is there against what was said.
func (w *workload) judge() {
	c, t := w.c, w.c.t
	t.Helper()
	w.stop()
	w.run.Wait()
	// What was unknown may be committed yet; nothing is any more once this is.
	var end record.Position
	eventually(t, "a last append", func() (ok bool) {
		end, ok = w.append(1)
		return ok
	})
	var want []numbered
	eventually(t, "all logs equally long", func() bool {
		for _, h := range c.hosts {
			if at := h.log.Committed(); at < end || at != c.hosts[0].log.Committed() {
				return false
			}
		}
		return true
	})
	for i, h := range c.hosts {
		got, err := records(h.log)
		if err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
		if i == 0 {
			want = got
		} else if len(got) != len(want) {
			t.Fatalf("%s has %d records, %s has %d", h.name, len(got), c.hosts[0].name, len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s has %+v, %s has %+v", h.name, got[i], c.hosts[0].name, want[i])
			}
		}
	}
	seen := map[uint64]bool{}
	for i, r := range want {
		if r.number != uint64(i) {
			t.Fatalf("record %d has number %d", i, r.number)
		}
		if seen[r.id] {
			t.Fatalf("%d is there twice", r.id)
		}
		seen[r.id] = true
		if pos, ok := w.acked[r.id]; ok && pos != r.pos {
			t.Fatalf("%d was acknowledged at %d, is at %d", r.id, pos, r.pos)
		}
	}
	for id := range w.acked {
		if !seen[id] {
			t.Errorf("%d was acknowledged and is lost", id)
		}
	}
	t.Logf("%d records, %d acknowledged, %d appends refused or unknown", len(want), len(w.acked), w.refused)
	for _, h := range c.hosts {
		c.stop(h)
		if n := h.log.Stats().Views; n != 0 {
			t.Errorf("%s: %d views are open", h.name, n)
		}
	}
}

// alone cuts a host off, or ends that.
func (c *cluster) alone(h *host, alone bool) {
	c.mu.Lock()
	c.cut[h.name] = alone
	c.mu.Unlock()
	c.connect()
}

// pick is one of the hosts; more often, the one that leads.
func (c *cluster) pick(rng *rand.Rand) *host {
	h := c.hosts[rng.IntN(len(c.hosts))]
	if rng.IntN(2) == 0 {
		for _, l := range c.hosts {
			if m, ok := l.node.Leader(); ok && m.ID == l.id() {
				h = l
			}
		}
	}
	return h
}

// fail does something bad to a host, for so long, and says what.
func (c *cluster) fail(h *host, pause time.Duration, rng *rand.Rand) (what string) {
	if rng.IntN(3) == 0 { // some start from a snapshot then; there may be nothing new for one
		h.node.ask(func() raft.Future { return h.node.raft.Snapshot() })
	}
	faults := 6
	if len(c.hosts) < 3 {
		faults = 5 // without a majority nobody takes it in again
	}
	switch rng.IntN(faults) {
	case 0, 1:
		what = fmt.Sprintf("%s was alone for %v", h.name, pause)
		c.alone(h, true)
		time.Sleep(pause)
		c.alone(h, false)
	case 2:
		what = h.name + " was restarted"
		c.stop(h)
		time.Sleep(pause)
		c.up(h, false)
	case 3:
		s := crashtest.Survivals[rng.IntN(len(crashtest.Survivals))]
		what = fmt.Sprintf("%s lost power (%v)", h.name, s)
		c.powerOff(h, s, rng)
		time.Sleep(pause)
		c.up(h, false)
	case 4:
		to := c.hosts[rng.IntN(len(c.hosts))].name
		what = "leadership was to be handed to " + to
		h.node.transfer(to) // which only a leader can
	case 5:
		what = h.name + " lost its disk"
		c.powerOff(h, crashtest.None, rng)
		h.replaceDisk()
		c.remove(h)
		time.Sleep(pause)
		c.up(h, false)
		c.join(h)
	}
	return what
}

// TestNothingAcknowledgedIsLostWhateverFails cuts, kills, unplugs, replaces and
// restarts the nodes of a cluster under load, in real time. TestSimulation does more
// of it.
func TestNothingAcknowledgedIsLostWhateverFails(t *testing.T) {
	rng := newRNG(t)
	c := newCluster(t, 3)
	c.assemble()
	load := c.load(4, 0)
	for range *faultsFlag {
		pause := time.Duration(rng.IntN(400)) * time.Millisecond
		what := c.fail(c.pick(rng), pause, rng)
		t.Log(what)
		load.progress(what)
	}
	c.powerCut(rng)
	load.progress("all lost power")
	load.judge()
}

// powerCut ends all hosts at once, with what they have not synced.
func (c *cluster) powerCut(rng *rand.Rand) {
	for _, h := range c.hosts {
		c.powerOff(h, crashtest.None, rng)
	}
	for _, h := range c.hosts {
		c.up(h, false)
	}
}

// A leader whose disk hangs still sends heartbeats, so that nobody stands against
// it: it must end by itself.
func TestANodeWhoseDiskHangsEnds(t *testing.T) {
	c := newCluster(t, 3)
	for _, h := range c.hosts {
		h.patience = 300 * time.Millisecond
	}
	c.assemble()
	appended := func() bool { return c.submit(context.Background(), batchOf(1)) }
	eventually(t, "an append", appended)
	var h *host
	eventually(t, "a leader", func() bool {
		for _, h = range c.hosts {
			if h.node.Verify() == nil {
				return true
			}
		}
		return false
	})
	hung := c.current()
	h.off.Store(true) // it may complain
	repaired := make(chan struct{})
	h.fs.Hook(func(call crashtest.Call) error {
		if call.Op == crashtest.Sync {
			<-repaired
		}
		return nil
	})
	var load sync.WaitGroup
	load.Go(func() { appended() }) // its answer has to wait
	if err := <-h.died; !errors.Is(err, ErrDiskHung) {
		t.Errorf("it ended with: %v", err)
	}
	c.mu.Lock()
	c.cut[h.name] = true // as it is when the process is gone
	c.mu.Unlock()
	c.connect()
	eventually(t, "another leader", func() bool { return c.current() != hung })
	eventually(t, "an append", appended)
	close(repaired)
	load.Wait()
	for _, h := range c.hosts {
		c.stop(h)
	}
}

// TestANodeThatHasDivergedEnds gives a node a log in which one frame is another. The
// other two must go on, also when that node leads: raft sees nothing wrong with it.
func TestANodeThatHasDivergedEnds(t *testing.T) {
	for _, leads := range []bool{false, true} {
		t.Run(fmt.Sprintf("leads=%t", leads), func(t *testing.T) {
			c := newCluster(t, 3)
			c.assemble()
			for range 50 {
				eventually(t, "an append", func() bool { return c.submit(context.Background(), batchOf(1)) })
			}
			h := c.hosts[2]
			c.stop(h)
			const other = 30
			h.forge(c.hosts[0].log, other)
			h.off.Store(true) // it may complain
			if leads {
				c.stop(c.hosts[0])
			}
			c.up(h, false)
			if leads { // one against one: neither may end
				eventually(t, "led by the diverged node", func() bool {
					c.hosts[1].node.Transfer(context.Background(), h.name)
					l, ok := c.hosts[1].node.Leader()
					return ok && l.Name == h.name
				})
				c.up(c.hosts[0], false)
			}
			if err := <-h.died; !errors.Is(err, ErrDiverged) || !strings.Contains(err.Error(), fmt.Sprintf("frame %d on", other)) {
				t.Errorf("it ended with: %v", err)
			}
			for _, h := range c.hosts {
				c.stop(h)
			}
		})
	}
}

// forge gives a host a new disk with a log as the other, but for one entry.
func (h *host) forge(from *commitlog.Log, other uint64) {
	h.t.Helper()
	h.fs = crashtest.New()
	forged := h.openLog()
	for i := uint64(1); i <= from.Index(); i++ {
		e, err := from.Entry(i)
		if err != nil {
			h.t.Fatal(err)
		}
		if i == other {
			e.Payload[len(e.Payload)-1] ^= 1
		}
		if err := forged.Store([]commitlog.Entry{e}); err != nil {
			h.t.Fatal(err)
		}
	}
	if err := forged.Close(); err != nil {
		h.t.Fatal(err)
	}
}

// raft ends without answering what is still in its channels: a node must not end
// raft before that is answered.
func TestCloseAnswersEverythingThatWasSubmitted(t *testing.T) {
	for range 5 {
		c := newCluster(t, 1)
		h := c.hosts[0]
		c.up(h, true)
		eventually(t, "an append", func() bool { return c.submit(context.Background(), batchOf(0)) })
		var load sync.WaitGroup
		var acked atomic.Int64
		for range 8 {
			load.Go(func() {
				for ; ; acked.Add(1) {
					b := batchOf(1)
					err := c.current().Submit(b)
					if err == nil {
						err = b.Wait(context.Background())
					}
					if err != nil {
						if !errors.Is(err, ErrNotLeading) {
							t.Errorf("nothing stands against the append, but %v", err)
						}
						return
					}
				}
			})
		}
		eventually(t, "load", func() bool { return acked.Load() > 100 })
		if err := h.node.Close(); err != nil {
			t.Error(err)
		}
		load.Wait()
		if err := h.node.Verify(); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		c.stop(h)
	}
}

// TestTheLogStoreKeepsWhatRaftExpects compares with the library's own store in
// memory, over what raft does with one.
func TestTheLogStoreKeepsWhatRaftExpects(t *testing.T) {
	rng := newRNG(t)
	l, err := commitlog.Open(commitlog.Options{Dir: "/log", FS: crashtest.New(), SegmentSize: 64 << 10, Replicated: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, theirs := &logStore{log: l, fatal: func(err error) { t.Error(err) }}, raft.NewInmemStore()
	next, term := uint64(1), uint64(1)
	for range 300 {
		if rng.IntN(4) > 0 || next < 3 {
			var logs []*raft.Log
			for range 1 + rng.IntN(5) {
				e := &raft.Log{Index: next, Term: term, Type: []raft.LogType{raft.LogCommand, raft.LogNoop, raft.LogBarrier, raft.LogConfiguration}[rng.IntN(4)], Data: make([]byte, 8*rng.IntN(300))}
				if e.Type != raft.LogCommand {
					e.Data = make([]byte, rng.IntN(300))
				}
				for i := range e.Data {
					e.Data[i] = byte(rng.Uint32())
				}
				logs = append(logs, e)
				next++
			}
			if err := errors.Join(ours.StoreLogs(logs), theirs.StoreLogs(logs)); err != nil {
				t.Fatal(err)
			}
		} else {
			from := 1 + rng.Uint64N(next-1)
			if err := errors.Join(ours.DeleteRange(from, next-1), theirs.DeleteRange(from, next-1)); err != nil {
				t.Fatal(err)
			}
			next = from
			term++
		}
		for range 5 {
			i := rng.Uint64N(next + 2)
			var a, b raft.Log
			errA, errB := ours.GetLog(i, &a), theirs.GetLog(i, &b)
			if errA != errB || errA == nil && (a.Index != b.Index || a.Term != b.Term || a.Type != b.Type || !bytes.Equal(a.Data, b.Data)) {
				t.Fatalf("entry %d: %+v, %v; want %+v, %v", i, a, errA, b, errB)
			}
		}
		lastA, _ := ours.LastIndex()
		if lastA != next-1 {
			t.Fatalf("the last index is %d, want %d", lastA, next-1)
		}
	}
}

func TestProposalsOutOfTheirTermOrOrderAreNotStored(t *testing.T) {
	l, err := commitlog.Open(commitlog.Options{Dir: "/log", FS: crashtest.New(), SegmentSize: 64 << 10, Replicated: true, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &logStore{log: l}
	for i, tt := range []struct {
		term, proposed, serial, number uint64
		stored                         bool
	}{
		{3, 3, 1, 2, false}, // the first was turned away
		{3, 3, 1, 1, true},
		{3, 3, 1, 3, false}, // the second was
		{3, 3, 1, 2, true},
		{5, 3, 1, 3, false}, // led, lost and led again meanwhile
		{5, 5, 2, 1, true},
		{5, 5, 3, 2, false}, // begun anew in the same term: the first was turned away
		{5, 5, 3, 1, true},
		{5, 5, 2, 2, false}, // of before
		{5, 5, 3, 2, true},
	} {
		last, _ := s.LastIndex()
		err := s.StoreLog(&raft.Log{Index: last + 1, Term: tt.term, Data: make([]byte, recordLen), Extensions: stamp(1, tt.proposed, tt.serial, tt.number)})
		if (err == nil) != tt.stored {
			t.Errorf("%d, %+v: %v", i, tt, err)
		}
	}
}
