package broker

import (
	"flag"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/dispatch"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

var replicated = flag.Bool("replicated", false, "all brokers of the feature tests lead a cluster of one node")

// openReplicated is Open for the leader of a cluster of one node, whose log was
// written by a broker on its own before, perhaps. closeReplicated closes it.
func openReplicated(t testing.TB, opts Options) (*Broker, error) {
	t.Helper()
	return openReplicatedAs(t, opts, func(term *replica.Term) Term { return term })
}

func openReplicatedAs(t testing.TB, opts Options, as func(*replica.Term) Term) (*Broker, error) {
	t.Helper()
	log, err := OpenLog(opts)
	if err != nil {
		return nil, err
	}
	n, err := replica.Open(t.Context(), replica.Options{
		Dir: filepath.Join(opts.Dir, "replica"), Log: log, Store: storeOf(opts), Name: "n1", Listen: "127.0.0.1:0", Client: "127.0.0.1:1",
		Bootstrap: true, Timing: replica.Timing{Heartbeat: 100 * time.Millisecond}, Fatal: opts.Fatal,
	})
	if err != nil {
		log.Close()
		return nil, err
	}
	opts.Log, opts.Remember = log, n.Remember
	b, err := Open(t.Context(), opts)
	if err == nil {
		var term *replica.Term
		if term, err = n.Lead(t.Context()); err == nil {
			err = b.Lead(t.Context(), as(term))
		}
	}
	if err != nil {
		n.Close()
		log.Close()
		return nil, err
	}
	nodes[b] = n
	return b, nil
}

// storeOf is as package node has it.
func storeOf(opts Options) *replica.Store {
	return &replica.Store{
		LogDir:     opts.LogDir(),
		OpenLog:    func() (*commitlog.Log, error) { return OpenLog(opts) },
		Checkpoint: func() ([]byte, record.Position, error) { return ReadCheckpoint(opts) },
		Restore:    func(b []byte) (record.Position, error) { return WriteCheckpoint(opts, b) },
	}
}

var nodes = map[*Broker]*replica.Node{}

func closeReplicated(t testing.TB, b *Broker) {
	n := nodes[b]
	if n == nil {
		return
	}
	delete(nodes, b)
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if err := b.wal.Close(); err != nil {
		t.Error(err)
	}
}

// What a broker on its own has written, a cluster goes on with, term after term.
func TestAReplicatedBrokerGoesOnWithWhatWasWrittenBefore(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", 0, 1)
	send(t, b, "T", msg("a", "alone"))
	closeBroker(t, b)
	for _, body := range []string{"first", "second"} {
		b, err := openReplicated(t, Options{Dir: dir, SegmentSize: 1 << 20, AutoCreateGroups: true, Fatal: func(err error) { t.Error(err) }})
		if err != nil {
			t.Fatal(err)
		}
		send(t, b, "T", msg(body, body))
		closeBroker(t, b)
	}
	b, err := openReplicated(t, Options{Dir: dir, SegmentSize: 1 << 20, AutoCreateGroups: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeBroker(t, b)
	var got []string
	for len(got) < 3 {
		ds := receive(t, b, "T", "G")
		if len(ds) == 0 {
			break
		}
		for _, d := range ds {
			got = append(got, string(d.Message.Body))
		}
		ack(t, b, "T", "G", ds...)
	}
	if want := []string{"alone", "first", "second"}; !slices.Equal(got, want) {
		t.Fatalf("received %q, want %q", got, want)
	}
}

// lost is a term that ends when a delayed message is put into its queue: whether it
// was, nobody knows.
type lost struct {
	*replica.Term
	over chan struct{}
}

func (l *lost) Submit(b *commitlog.Batch) error {
	if record.KindOf(b.Head(0)) != record.KindTimerFired {
		return l.Term.Submit(b)
	}
	if err := b.Claim(); err != nil {
		return err
	}
	close(l.over)
	b.Finish(replica.ErrUnknown)
	return nil
}

func (l *lost) Over() <-chan struct{} { return l.over }

// Losing the leadership is nothing to die of, whatever is under way.
func TestTheTermMayEndWhileDelayedMessagesComeDue(t *testing.T) {
	dir := t.TempDir()
	opts := Options{Dir: dir, SegmentSize: 1 << 20, AutoCreateGroups: true, Fatal: func(err error) { t.Errorf("the broker would end the process: %v", err) }}
	var term *lost
	b, err := openReplicatedAs(t, opts, func(real *replica.Term) Term {
		term = &lost{real, make(chan struct{})}
		return term
	})
	if err != nil {
		t.Fatal(err)
	}
	makeTopic(t, b, "D", topic.Delay, 1)
	send(t, b, "D", delayed("m", "m", time.Now().Add(50*time.Millisecond)))
	<-term.over
	closeBroker(t, b)
	b, err = openReplicated(t, opts)
	if err != nil {
		t.Fatal(err)
	}
	defer closeBroker(t, b)
	want(t, []Delivered{receiveNext(t, b, "D", "G")}, "m#1")
}

// What the beginning of the log made is in the checkpoint alone by then.
func TestABrokerThatJoinsAfterRetentionLeadsAndServesAllThereIs(t *testing.T) {
	opts := func() Options {
		return Options{Dir: t.TempDir(), SegmentSize: 64 << 10, CheckpointEvery: 32 << 10, RetentionSize: 192 << 10, Fatal: func(err error) { t.Error(err) }}
	}
	b1, err := openReplicated(t, opts())
	if err != nil {
		t.Fatal(err)
	}
	defer closeBroker(t, b1)
	n1 := nodes[b1]
	makeTopic(t, b1, "T", topic.Normal, 1)
	makeTopic(t, b1, "Later", topic.Delay, 1)
	if _, err := b1.CreateGroup(t.Context(), group.Group{Name: name("G"), MaxAttempts: 7}); err != nil {
		t.Fatal(err)
	}
	makeTopic(t, b1, "Filler", topic.Normal, 1)
	for i := 0; !b1.wal.Trimmed(); i++ {
		if i == 1000 {
			t.Fatal("retention drops nothing")
		}
		send(t, b1, "Filler", Outgoing{ID: "x", Body: make([]byte, 30<<10)})
		b1.retain(time.Now())
	}
	before := send(t, b1, "T", msg("1", "one"), msg("2", "two"), msg("3", "three"))
	send(t, b1, "Later", Outgoing{ID: "d", Body: []byte("late"), DueTime: time.Now().Add(2 * time.Second).UnixMilli()})
	got := receive(t, b1, "T", "G", func(r *ReceiveRequest) { r.Batch = 1 })
	want(t, got, "one#1")
	ack(t, b1, "T", "G", got...)

	o := opts()
	n2, err := replica.Open(t.Context(), replica.Options{
		Dir: filepath.Join(o.Dir, "replica"), Store: storeOf(o), Name: "n2", Listen: "127.0.0.1:0", Client: "127.0.0.1:2",
		Join: n1.Members()[0].Peer, Timing: replica.Timing{Heartbeat: 100 * time.Millisecond}, Fatal: o.Fatal,
	})
	if err != nil {
		t.Fatal(err)
	}
	o.Log, o.Remember = n2.Log(), n2.Remember
	b2, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	nodes[b2] = n2
	defer closeBroker(t, b2)
	if !b2.wal.Trimmed() || b2.wal.First() != b1.wal.First() {
		t.Errorf("the log begins at %d, the leader's at %d", b2.wal.First(), b1.wal.First())
	}
	lead := make(chan error, 1)
	go func() {
		term, err := n2.Lead(t.Context())
		if err == nil {
			err = b2.Lead(t.Context(), term)
		}
		lead <- err
	}()
	for i := 0; n1.Transfer(t.Context(), "n2") != nil; i++ { // not before it has all of the log
		if i == 3000 {
			t.Fatal("no transfer")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := <-lead; err != nil {
		t.Fatal(err)
	}
	if g, ok := b2.groups.Lookup(name("G")); !ok || g.MaxAttempts != 7 {
		t.Errorf("group %+v", g)
	}
	after := send(t, b2, "T", msg("4", "four"))
	if after[0].Offset != before[2].Offset+1 {
		t.Errorf("offset %d behind %d", after[0].Offset, before[2].Offset)
	}
	want(t, receive(t, b2, "T", "G"), "two#1", "three#1", "four#1")
	var late []Delivered
	for i := 0; len(late) == 0 && i < 100; i++ {
		late = receive(t, b2, "Later", "G", func(r *ReceiveRequest) { r.Wait = 100 * time.Millisecond })
	}
	want(t, late, "late#1")
}

// What one replica refuses all do, so a node that starts from a checkpoint must know
// where the log begins though it has not dropped a segment yet.
func TestWhereTheLogBeginsOutlivesARestart(t *testing.T) {
	opts := Options{Dir: t.TempDir(), SegmentSize: 1 << 20, AutoCreateGroups: true, Fatal: func(err error) { t.Error(err) }}
	b, err := openReplicated(t, opts)
	if err != nil {
		t.Fatal(err)
	}
	makeTopic(t, b, "T", topic.Normal, 1)
	send(t, b, "T", msg("1", "before"), msg("2", "behind"))
	var sent [2]consumequeue.Entry
	tp, _ := b.topics.Lookup(name("T"))
	if n, err := b.index.Read(record.Key(tp.ID, 0), 0, sent[:]); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	if err := b.commit(record1(appendLogBegin(nil, sent[1].Position))); err != nil {
		t.Fatal(err)
	}
	got := receive(t, b, "T", "G1")
	want(t, got, "behind#1")
	release(got)
	closeBroker(t, b) // writes a checkpoint, behind the record
	if b, err = openReplicated(t, opts); err != nil {
		t.Fatal(err)
	}
	if first := b.wal.First(); first > sent[0].Position {
		t.Fatalf("the log begins at %d: the message before was dropped, nothing is tested", first)
	}
	got = receive(t, b, "T", "G2")
	want(t, got, "behind#1")
	release(got)

	// A build before this one wrote no such section.
	older := b.snapshot(quiet(t, b))
	older.Sections = older.Sections[:sectionLogBegin]
	closeBroker(t, b)
	if _, err := WriteCheckpoint(opts, dispatch.AppendCheckpoint(nil, older)); err != nil {
		t.Fatal(err)
	}
	if b, err = openReplicated(t, opts); err != nil {
		t.Fatal(err)
	}
	closeBroker(t, b)
}
