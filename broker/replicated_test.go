package broker

import (
	"flag"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/replica"
)

var replicated = flag.Bool("replicated", false, "all brokers of the feature tests lead a cluster of one node")

// openReplicated is Open for the leader of a cluster of one node, whose log was
// written by a broker on its own before, perhaps. closeReplicated closes it.
func openReplicated(t testing.TB, opts Options) (*Broker, error) {
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
			err = b.Lead(t.Context(), term)
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
