// Package node is the life of one node of a cluster: it takes part in the agreement
// about the log, follows it with a broker, and serves clients while it leads.
//
//	log ── replica.Node ── Term
//	 │                      │ Submit
//	 └── Broker (follows) ──┴── leads: api.Server
//
// A broker decides from memory, and what it has decided is good for one term. So
// each term has a broker of its own: opened as a follower, made the leader, closed
// when the term is over. Meanwhile the port for clients leads to whoever leads.
package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Options of a node. Broker.Log, Remember and NewGroup, Replica.Store, Dir, Full and
// Order, and Server.Cluster and Shards are set by Run.
type Options struct {
	Broker  broker.Options
	Replica replica.Options
	Server  api.Options
	Clients net.Listener // closed by Run
	Drain   time.Duration
	Logger  *slog.Logger
	// Show is told which broker there is to look at, with its server if it leads, and
	// nil before either ends.
	Show func(*broker.Broker, *api.Server)
	// Prepare is called when the node leads, before clients are served. Nil: nothing.
	Prepare func(context.Context, *broker.Broker) error
	// Calls answers operators' calls by HTTP that other nodes pass on, as if they led.
	Calls http.Handler
	// Ready is called once, when the node is a member of its cluster. leader is whoever
	// leads, for operators' calls, while this node does not.
	Ready func(n *replica.Node, leader http.Handler)

	// Shard is which of the shards of its cluster the node is of, Shards are all that
	// this process runs; nil: there is one.
	Shard  int
	Shards *Shards
	// SpreadAfter is how long a node leads before it hands over to the one that is to
	// lead its shard; 0 = SpreadAfter.
	SpreadAfter time.Duration
}

// SpreadAfter is how long the leader of one of several shards stays so at least.
const SpreadAfter = time.Minute

// Dir is where in its data directory a node has what it needs besides the log.
const Dir = "replica"

// Damaged is where in it the files are kept that a node had before it repaired itself,
// each time in a directory of its own.
const Damaged = "damaged"

// abort is how long the calls of a term that is over have to hear of it.
const abort = 500 * time.Millisecond

// fullEvery is how often a leader looks whether its disk is full; the broker looks as
// often.
const fullEvery = time.Second

// handover bounds how long a leader that is told to stop looks for another one.
const handover = 5 * time.Second

// Run is a node until ctx ends, then a nil error, or until it cannot go on.
func Run(ctx context.Context, o Options) error {
	defer o.Clients.Close()
	run, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	o.Replica.Dir = filepath.Join(o.Broker.Dir, Dir)
	o.SpreadAfter = cmp.Or(o.SpreadAfter, SpreadAfter)
	l := &life{Options: o, badLog: make(chan error, 1), badIndex: make(chan error, 1)}
	l.Broker.Damaged = l.damaged
	if o.Shard > 0 {
		l.Broker.NewGroup = l.newGroup
	}
	// What the log or the broker finds damaged later ends the process: the next start repairs it.
	var opened atomic.Pointer[replica.Node]
	if fatal := o.Broker.Fatal; fatal != nil {
		l.Broker.Fatal = func(err error) {
			if n := opened.Load(); n != nil {
				n.Damaged(err)
			}
			fatal(err)
		}
	}
	l.Replica.Store = store(l.Broker)
	l.Replica.Digest, l.Replica.Full, l.Replica.Order = l.digest, l.full, l.obey
	n, err := replica.Open(ctx, l.Replica)
	if err != nil {
		return err
	}
	opened.Store(n)
	l.Broker.Log, l.Broker.Remember, l.node = n.Log(), n.Remember, n
	l.front = newFront(o.Clients, n.DialLeader, n.Moved, o.Logger)
	n.HandleClients(l.front.fromPeer)
	if o.Shards != nil {
		o.Shards.all[o.Shard].Store(l)
	}
	passed := answer(o.Calls, o.Logger)
	defer passed.close()
	n.HandleOperators(passed.take)
	o.Ready(n, passOn(n.DialOperator, o.Logger))
	var mending sync.WaitGroup
	var damage error
	mending.Go(func() { damage = l.mend(run, stop) })
	for err == nil && run.Err() == nil {
		err = l.term(run)
	}
	stop(nil)
	mending.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	if errors.Is(err, broker.ErrDamaged) {
		err = fmt.Errorf("%w: %w", replica.ErrDamaged, err)
	}
	if damage != nil {
		err = damage // and the rest follows from that
	} else if err != nil {
		n.Damaged(err)
	}
	l.front.close()
	return errors.Join(err, n.Close(), n.Log().Close())
}

// store is where a broker has what a node that joins may have to fetch.
func store(o broker.Options) *replica.Store {
	return &replica.Store{
		LogDir:     o.LogDir(),
		OpenLog:    func() (*commitlog.Log, error) { return broker.OpenLog(o) },
		Checkpoint: func() ([]byte, record.Position, error) { return broker.ReadCheckpoint(o) },
		Restore:    func(b []byte) (record.Position, error) { return broker.WriteCheckpoint(o, b) },
		SetAside: func(directory string) (string, error) {
			to := filepath.Join(o.Dir, Damaged, directory)
			return to, broker.SetAside(o, to)
		},
	}
}

// life is what all terms of a node share.
type life struct {
	Options
	node    *replica.Node
	front   *front
	state   atomic.Pointer[broker.Broker]           // of the present term, or the one before
	end     atomic.Pointer[context.CancelCauseFunc] // of the present term's context
	leading leading

	badLog, badIndex chan error // damage that was found
}

// term follows the log until this node leads, and then serves until it does no more.
func (l *life) term(life context.Context) (err error) {
	ctx, end := context.WithCancelCause(life)
	defer end(nil)
	l.end.Store(&end)
	b, err := broker.Open(ctx, l.Broker)
	if errors.Is(context.Cause(ctx), errAgain) && err != nil {
		return nil
	}
	if err != nil {
		return err
	}
	l.state.Store(b)
	l.Show(b, nil)
	defer func() {
		l.Show(nil, nil)
		err = errors.Join(err, b.Close())
	}()
	t, err := l.node.Lead(ctx)
	if errors.Is(err, errAgain) {
		return nil
	}
	if err != nil {
		return err
	}
	leads, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel()
	watch.Go(func() {
		l.relieve(leads, t)
		select { // a broker that waits for disk space does not lead any more either
		case <-t.Over():
			cancel()
		case <-leads.Done():
		}
	})
	began := time.Now()
	if err := b.Lead(leads, t); err != nil {
		if ready := b.Ready(); ready != nil {
			return err
		}
		return nil // the term was over before it began
	}
	if l.Prepare != nil {
		if err := l.Prepare(leads, b); err != nil {
			return ended(t, err)
		}
	}
	l.leading.set(b)
	defer l.leading.set(nil)
	o := l.Server
	o.Cluster, o.Shards = members{l.node, b, t}, l.of()
	server := api.New(b, o)
	served := make(chan error, 1)
	handed := l.front.lead()
	go func() { served <- server.Serve(handed) }()
	l.Show(b, server)
	l.Logger.Info("this node leads", "term", t.Number(), "serving_after", time.Since(began).Round(time.Millisecond))

	if l.of() != nil {
		watch.Go(func() { l.spread(leads) })
	}
	if l.Shard > 0 {
		watch.Go(func() { l.mirror(leads, b) })
	}

	drain := abort
	select {
	case <-t.Over():
		l.Logger.Info("this node leads no more", "term", t.Number())
	case err = <-served:
		return fmt.Errorf("clients are not served: %w", err)
	case <-ctx.Done():
		if !l.handOver(t) {
			drain = l.Drain
		}
	}
	cancel()
	l.front.follow()
	stop, done := context.WithTimeout(context.Background(), drain)
	defer done()
	err = server.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = nil // clients were cut off
	}
	return errors.Join(err, <-served)
}

// ended is err, unless the term is over: what fails then fails because of it.
func ended(t *replica.Term, err error) error {
	select {
	case <-t.Over():
		return nil
	default:
		return err
	}
}

// handOver has another node lead, if there is one, before this one stops.
func (l *life) handOver(t *replica.Term) bool {
	if len(l.node.Members()) == 1 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), handover)
	defer cancel()
	if err := l.node.Transfer(ctx, ""); err != nil {
		l.Logger.Warn("leadership could not be handed over", "error", err)
		return false
	}
	select {
	case <-t.Over():
		return true
	case <-ctx.Done():
		return false
	}
}

// relieve hands the leadership over when this node's disk is full and another's is
// not.
func (l *life) relieve(ctx context.Context, t *replica.Term) {
	tick := time.NewTicker(fullEvery)
	defer tick.Stop()
	for told := false; ; {
		select {
		case <-tick.C:
		case <-t.Over():
			return
		case <-ctx.Done():
			return
		}
		switch handed, err := l.node.Relieve(); {
		case handed:
			l.Logger.Warn("this node has no disk space for messages and handed the leadership to one that has", "term", t.Number())
			return
		case err != nil && !told:
			l.Logger.Warn("this node has no disk space for messages, and the leadership could not be handed over", "error", err)
			told = true
		}
	}
}

// full says whether messages are refused here for want of disk space.
func (l *life) full() bool {
	b := l.state.Load()
	return b != nil && b.DiskFull()
}

// digest is the state at a position, for other nodes.
func (l *life) digest(ctx context.Context, at record.Position) (out replica.Digest, err error) {
	b := l.state.Load()
	if b == nil {
		return nil, errors.New("this node has just started")
	}
	sections, err := b.Digest(ctx, at)
	for _, s := range sections {
		out = append(out, replica.Section(s))
	}
	return out, err
}

// members is the cluster as the server sees it.
type members struct {
	*replica.Node
	broker *broker.Broker // which leads
	term   *replica.Term
}

// Verify is about this term: the node may have led in two, and another between them.
func (m members) Verify() error {
	if err := m.Node.Verify(); err != nil {
		return err
	}
	if m.State().Term != m.term.Number() {
		return replica.ErrNotLeading
	}
	select {
	case <-m.term.Over(): // of one of raft's terms there may be several
		return replica.ErrNotLeading
	default:
		return nil
	}
}

func (m members) Digest(ctx context.Context) (at record.Position, out []api.NodeDigest, err error) {
	index := m.Log().Index() // of a frame before
	if at, err = m.broker.MarkDigest(); err != nil {
		return 0, nil, err
	}
	for _, d := range m.Digests(ctx, at, index) {
		n := api.NodeDigest{Name: d.Name, Err: d.Err}
		for _, s := range d.Digest {
			n.Sections = append(n.Sections, broker.Section(s))
		}
		out = append(out, n)
	}
	return at, out, nil
}

func (m members) Nodes(ctx context.Context) (out []api.Node) {
	for _, s := range m.Status(ctx) {
		out = append(out, api.Node{
			Name: s.Name, ID: s.ID, Peer: s.Peer, Client: s.Client, Leader: s.Leader, Voter: s.Voter,
			Err: s.Err, Term: s.State.Term, Last: s.State.Last, Committed: s.State.Committed, Lag: s.Lag, Contact: s.State.Contact,
		})
	}
	return out
}

func (m members) Transfer(ctx context.Context, name string) error {
	m.Hold(ctx)
	return m.Node.Transfer(ctx, name)
}

func (m members) Route() []string { return route(m.Node) }

// route is where clients find the leader now and after it.
func route(node *replica.Node) (out []string) {
	for _, n := range node.Members() {
		if n.Leader {
			out = append([]string{n.Client}, out...)
		} else {
			out = append(out, n.Client)
		}
	}
	return out
}
