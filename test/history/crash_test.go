package history

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/test/history/check"
)

var (
	rounds     = flag.Int("rounds", 2, "rounds, each on a new data directory; durabilities take turns")
	roundTime  = flag.Duration("round-time", 9*time.Second, "how long a round kills")
	seed       = flag.Uint64("seed", uint64(time.Now().UnixNano()), "what the clients and the killer do")
	keep       = flag.String("history", "", "write the histories to files that begin with this; without it those with violations are kept, in the folder for temporary files")
	serverRace = flag.Bool("server-race", false, "build the server with the race detector")
)

const (
	queues     = 4
	plainTopic = "plain"
	fifoTopic  = "ordered"
	mixedTopic = "all-kinds" // with a deduplication window
	dyingTopic = "poisoned"  // with a deduplication window; many of its messages become dead letters and are redriven
	dyingGroup = "dying"
	liteTopic  = "parent"
)

// drainLimit is for how long there may be no less to drain: a busy machine is slow, and
// what is stuck stays.
const drainLimit = 2 * time.Minute

var liteNames = []string{"a", "b", "c", "d", "e", "f", "g", "h"}

var groups = []check.Consumers{
	{Name: "everything", Topic: plainTopic},
	{Name: "some-tags", Topic: plainTopic, Tags: []string{"A", "C"}},
	{Name: "in-order", Topic: fifoTopic, FIFO: true},
	{Name: "lite", Topic: liteTopic, FIFO: true},
	{Name: "streaming", Topic: streamTopic, FIFO: true},
	{Name: "streaming-tags", Topic: streamTopic, Tags: []string{"A", "C"}},
	{Name: "any-kind", Topic: mixedTopic},
	{Name: dyingGroup, Topic: dyingTopic},
}

// tally is what the killer did.
type tally struct{ kills, early, terms, wipes int }

func (t tally) String() string {
	return fmt.Sprintf("kill-9=%d (%d of them during recovery) sigterm=%d consumequeue-wiped=%d", t.kills, t.early, t.terms, t.wipes)
}

func TestNothingIsLostWhenTheServerIsKilled(t *testing.T) {
	binary := build(t)
	var all tally
	var sum check.Report
	for i := range *rounds {
		durability := []string{"sync", "unsafe-async"}[i%2]
		t.Run(fmt.Sprintf("%d-%s", i, durability), func(t *testing.T) {
			t.Logf("-seed %d", *seed)
			did, report := round(t, binary, durability, *seed+uint64(i))
			t.Logf("%v\n%v", did, report)
			all = tally{all.kills + did.kills, all.early + did.early, all.terms + did.terms, all.wipes + did.wipes}
			sum.Add(report)
		})
	}
	t.Logf("in all: %v\n%v", all, &sum)
}

func round(t *testing.T, binary, durability string, seed uint64) (tally, *check.Report) {
	r := rand.New(rand.NewPCG(seed, 0))
	s := newServer(t, binary, durability)
	must(t, s.start())
	must(t, s.await())
	var did tally
	report := underLoad(t, s, seed, func() { did = torment(t, s, r) })
	must(t, s.stop())
	must(t, s.check())
	for _, line := range s.complaints() {
		t.Errorf("the server logged %s", line)
	}
	return did, report
}

// dialler makes connections to what is tested.
type dialler interface {
	dial(*testing.T) *grpc.ClientConn
	servers() []string // their addresses
}

// underLoad has clients work while trouble runs, and until all they sent is settled,
// and judges what they saw.
func underLoad(t *testing.T, s dialler, seed uint64, trouble func()) *check.Report {
	createAll(t, gantryv1.NewManagementClient(s.dial(t)))
	return underLoadOf(t, s, seed, []string{plainTopic, plainTopic, fifoTopic, fifoTopic, mixedTopic, mixedTopic, mixedTopic, dyingTopic, liteTopic, liteTopic, streamTopic, streamTopic}, trouble)
}

// underLoadOf is underLoad with a producer for each of the topics, which are there, as
// are their groups.
func underLoadOf(t *testing.T, s dialler, seed uint64, topics []string, trouble func()) *check.Report {
	admin := gantryv1.NewManagementClient(s.dial(t))
	rec := &recorder{began: time.Now()}
	rec.Groups = slices.DeleteFunc(slices.Clone(groups), func(g check.Consumers) bool { return !slices.Contains(topics, g.Topic) })
	stop := make(chan struct{})
	enough := sync.OnceFunc(func() { close(stop) })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var producers, consumers sync.WaitGroup
	for i, topic := range topics {
		name := fmt.Sprint("p", i)
		if topic == streamTopic {
			st := newStreamer(t, rec, s.servers(), name, seed)
			producers.Go(func() { st.produce(t, stop) })
			continue
		}
		p := producer{client: newClient(rec, s.dial(t), name, seed), topic: topic, fifo: topic == fifoTopic}
		p.once = topic == mixedTopic || topic == dyingTopic
		run := p.run
		if p.once {
			run = p.runOnce
		}
		producers.Go(func() { run(ctx, stop) })
	}
	var drain atomic.Bool
	for _, g := range rec.Groups {
		for i := range 2 {
			name := fmt.Sprintf("%s@%d", g.Name, i)
			if g.Topic == streamTopic {
				st := newStreamer(t, rec, s.servers(), name, seed)
				consumers.Go(func() { st.consume(ctx, t, g, drain.Load) })
				continue
			}
			c := consumer{client: newClient(rec, s.dial(t), name, seed), group: g, drain: &drain}
			consumers.Go(func() { c.run(ctx) })
		}
	}
	letters := gantryv1.NewDeadLettersClient(s.dial(t))
	consumers.Go(func() { redrive(ctx, letters) })
	// Whatever fails, nobody writes the history any more when this returns.
	finish := func() {
		cancel()
		enough()
		producers.Wait()
		consumers.Wait()
	}
	defer finish()

	trouble()
	enough()
	producers.Wait()
	drain.Store(true)
	awaitDrained(t, admin, letters, rec)
	finish()
	return judge(t, &rec.History)
}

// torment kills the server at random moments for the time of a round, and leaves
// it running.
func torment(t *testing.T, s *server, r *rand.Rand) (did tally) {
	upTo := func(d time.Duration) {
		<-time.After(time.Duration(r.Int64N(int64(d))))
	}
	for began := time.Now(); time.Since(began) < *roundTime; {
		upTo(1500 * time.Millisecond)
		if r.IntN(6) == 0 {
			must(t, s.stop())
			did.terms++
		} else {
			must(t, s.kill())
			did.kills++
		}
		if r.IntN(4) == 0 {
			must(t, os.RemoveAll(filepath.Join(s.data(), "consumequeue")))
			did.wipes++
		}
		must(t, s.start())
		for r.IntN(3) == 0 {
			upTo(60 * time.Millisecond)
			must(t, s.kill())
			did.kills++
			did.early++
			must(t, s.start())
		}
		must(t, s.await())
	}
	return did
}

// redrive moves dead letters back again and again, slowly enough to be killed
// within.
func redrive(ctx context.Context, letters gantryv1.DeadLettersClient) {
	for ctx.Err() == nil {
		stream, err := letters.Redrive(ctx, &gantryv1.RedriveRequest{Group: dyingGroup, Rate: 50})
		for err == nil {
			_, err = stream.Recv()
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// awaitDrained waits until nothing is delayed or dead any more and every group has
// settled all that its topic holds.
func awaitDrained(t *testing.T, admin gantryv1.ManagementClient, letters gantryv1.DeadLettersClient, rec *recorder) {
	awaitNone(t, func() (int, any, error) {
		r, err := admin.ListTimers(t.Context(), &gantryv1.ListTimersRequest{Topic: mixedTopic})
		return len(r.GetTimers()), "delayed", err
	})
	awaitSettled(t, admin, rec.Groups)
	awaitNone(t, func() (int, any, error) {
		stream, err := letters.Redrive(t.Context(), &gantryv1.RedriveRequest{Group: dyingGroup, DryRun: true})
		n := 0
		for err == nil {
			var p *gantryv1.DeadLetterProgress
			if p, err = stream.Recv(); err == nil {
				n = int(p.GetMatched())
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		return n, "dead", err
	})
	awaitSettled(t, admin, rec.Groups) // what was redriven too
	awaitNone(t, func() (int, any, error) { return rec.Missing(liteTopic), "not received from their lite topics", nil })
}

// awaitNone waits until none are left of the messages that count counts and describes.
func awaitNone(t *testing.T, count func() (n int, which any, err error)) {
	least, since := math.MaxInt, time.Now()
	for {
		n, which, err := count()
		if err == nil && n == 0 {
			return
		}
		mayBeLater(t, err)
		if err == nil && n < least {
			least, since = n, time.Now()
		}
		if time.Since(since) > drainLimit {
			t.Fatalf("%d messages are left, and no fewer than %d for %v: %v, %v", n, least, drainLimit, which, err)
		}
		<-time.After(50 * time.Millisecond)
	}
}

// mayBeLater fails for an error but that of a node that has just lost the leadership: on a
// busy machine that happens without a fault.
func mayBeLater(t *testing.T, err error) {
	t.Helper()
	if status.Code(err) != codes.Unavailable {
		must(t, err)
	}
}

func awaitSettled(t *testing.T, admin gantryv1.ManagementClient, groups []check.Consumers) {
	for _, g := range groups {
		if g.Topic == liteTopic {
			continue // its queues come and go
		}
		awaitNone(t, func() (int, any, error) {
			d, err := admin.DescribeGroup(t.Context(), &gantryv1.DescribeGroupRequest{Name: g.Name})
			open := math.MaxInt // of a topic that the group does not know yet
			if topics := d.GetTopics(); len(topics) == 1 {
				open = queues - len(topics[0].GetQueues())
				for _, q := range topics[0].GetQueues() {
					open += int(q.GetMaxOffset() - q.GetCursor() + q.GetInFlight() + q.GetReady())
				}
			}
			return open, d, err
		})
	}
}

func judge(t *testing.T, h *check.History) *check.Report {
	report := check.Check(h)
	prefix := *keep
	if prefix == "" && len(report.Violations) > 0 {
		dir, err := os.MkdirTemp("", "gantry-history-") // it stays, with what was wrong
		must(t, err)
		prefix = filepath.Join(dir, "history")
	}
	if prefix != "" {
		f, err := os.Create(prefix + "." + filepath.Base(t.Name()) + ".jsonl")
		must(t, err)
		defer f.Close()
		must(t, h.WriteJSON(f))
		t.Logf("the history is in %s", f.Name())
	}
	for i, v := range report.Violations {
		if i == 20 {
			t.Errorf("and %d more", len(report.Violations)-i)
			break
		}
		t.Error(v)
	}
	if report.Acknowledged == 0 || report.Redelivered == 0 || report.Acks == 0 || report.Delayed == 0 ||
		report.Committed == 0 || report.RolledBack == 0 || report.Repeats == 0 || report.Dead == 0 {
		t.Errorf("nothing was tested: %v", report)
	}
	for _, g := range h.Groups {
		if !slices.ContainsFunc(h.Acks, func(a check.Ack) bool { return a.OK && a.Consumers == g.Name }) {
			t.Errorf("group %s settled nothing", g.Name)
		}
	}
	return report
}

func createAll(t *testing.T, admin gantryv1.ManagementClient) {
	for name, kind := range map[string]gantryv1.TopicType{plainTopic: gantryv1.TopicType_NORMAL, fifoTopic: gantryv1.TopicType_FIFO, streamTopic: gantryv1.TopicType_FIFO, liteTopic: gantryv1.TopicType_LITE} {
		_, err := admin.CreateTopic(t.Context(), &gantryv1.CreateTopicRequest{Name: name, Type: kind, Queues: queues})
		must(t, err)
	}
	for name, kind := range map[string]gantryv1.TopicType{mixedTopic: gantryv1.TopicType_MIXED, dyingTopic: gantryv1.TopicType_NORMAL} {
		_, err := admin.CreateTopic(t.Context(), &gantryv1.CreateTopicRequest{Name: name, Type: kind, Queues: queues, DedupWindow: durationpb.New(time.Hour)})
		must(t, err)
	}
	for _, g := range groups {
		// No dead letters: every delivery that kills cost counts as an attempt.
		req := &gantryv1.CreateGroupRequest{Name: g.Name, Fifo: g.FIFO, MaxAttempts: 1000}
		if g.Topic == liteTopic {
			req.LiteTopic = liteTopic
		}
		_, err := admin.CreateGroup(t.Context(), req)
		must(t, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
