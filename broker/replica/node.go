package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/commitlog"
)

// ErrClosed: the node was closed.
var ErrClosed = errors.New("replica: the node is closed")

// Options of a node. All but Timing, Logger and Fatal must be given.
type Options struct {
	ID        string         // the node's name, never given to another
	Log       *commitlog.Log // opened with Replicated
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
	Transport raft.Transport // closed with the node if it has a Close
	Timing    Timing
	Logger    *slog.Logger
	// Fatal is called when this node can not go on; nil ends the process.
	Fatal func(error)
}

// Timing is how long a node waits for others. Zero means the default.
type Timing struct {
	Heartbeat time.Duration // without one for so long, a follower stands for election; 2 s
	Lease     time.Duration // without a majority for so long, a leader steps down; 1.5 s
	Commit    time.Duration // how late a follower may learn of the last commit when idle; 20 ms
}

// Node is this process's part in the agreement. All methods may be called
// concurrently.
type Node struct {
	opts Options
	raft *raft.Raft
	log  *slog.Logger

	notify  chan bool // raft's: whether this node leads
	closing chan struct{}
	down    chan struct{} // raft has ended
	once    sync.Once
	watcher sync.WaitGroup
	asking  sync.WaitGroup // see ask

	mu      sync.Mutex
	closed  bool          // closing is closed
	leading chan struct{} // closed while this node leads, replaced when it does no more
	term    *Term         // the one that was handed out last
}

// Open lets the node take part, in a cluster that exists: see Bootstrap for the
// first node of one.
func Open(opts Options) (*Node, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	n := &Node{
		opts: opts, log: opts.Logger.With("node", opts.ID), notify: make(chan bool, 64),
		closing: make(chan struct{}), down: make(chan struct{}), leading: make(chan struct{}),
	}
	// What a snapshot stands for is committed, whatever the log itself can prove.
	snaps, err := opts.Snapshots.List()
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	if len(snaps) > 0 && snaps[0].Index > opts.Log.Index() {
		if _, _, err := opts.Log.Commit(snaps[0].Index); err != nil {
			return nil, fmt.Errorf("replica: the log does not reach the snapshot of its membership: %w", err)
		}
	}
	store := &logStore{log: opts.Log, fatal: n.fatal}
	n.raft, err = raft.NewRaft(n.config(), &fsm{log: opts.Log, fatal: n.fatal}, store, opts.Stable, opts.Snapshots, opts.Transport)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	n.watcher.Go(n.watch)
	return n, nil
}

func (n *Node) config() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.opts.ID)
	c.HeartbeatTimeout = 2 * time.Second
	c.LeaderLeaseTimeout = 1500 * time.Millisecond
	c.CommitTimeout = 20 * time.Millisecond
	if t := n.opts.Timing; t.Heartbeat > 0 {
		c.HeartbeatTimeout, c.LeaderLeaseTimeout, c.CommitTimeout = t.Heartbeat, t.Lease, t.Commit
	}
	c.ElectionTimeout = c.HeartbeatTimeout
	c.BatchApplyCh = true
	c.MaxAppendEntries = 32 // of up to 512 KiB each
	c.TrailingLogs = 1 << 62
	c.ShutdownOnRemove = false // raft ends in Close alone: see ask
	c.NoSnapshotRestoreOnStart = true
	c.NoLegacyTelemetry = true
	c.NotifyCh = n.notify
	c.Logger = raftLogger(n.log)
	return c
}

func (n *Node) fatal(err error) {
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

// Close takes this node out of the agreement, not out of the cluster. Nothing new
// is proposed from then on; what was proposed is decided, which takes a leader
// without a majority its lease; then a leader hands its leadership over, if
// another node can take it.
func (n *Node) Close() error {
	n.once.Do(func() {
		n.mu.Lock()
		n.closed = true
		close(n.closing)
		term := n.term
		n.mu.Unlock()
		if term != nil {
			term.end(ErrClosed)
			term.run.Wait()
		}
		n.asking.Wait()
		if n.raft.State() == raft.Leader && n.voters() > 1 {
			if err := n.raft.LeadershipTransfer().Error(); err != nil {
				n.log.Warn("leadership could not be handed over", "error", err)
			}
		}
		n.raft.Shutdown().Error() // never one
		close(n.down)
		n.watcher.Wait()
	})
	return nil
}
