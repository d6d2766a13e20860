package broker

import (
	"flag"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/replica"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
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
		Dir: filepath.Join(opts.Dir, "replica"), Log: log, Name: "n1", Listen: "127.0.0.1:0", Client: "127.0.0.1:1",
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
