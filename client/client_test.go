package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/internal/brokertest"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// deadline ends a test that hangs, with a stack of what it was waiting in.
func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func dial(t testing.TB, addr string, o client.Options) *client.Client {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := client.Dial(deadline(t), []string{addr}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(deadline(t)) })
	return c
}

func producer(t testing.TB, c *client.Client, o client.ProducerOptions) *client.Producer {
	t.Helper()
	p, err := c.NewProducer(o)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// readAll reads the bodies of n messages of a topic, by queue.
func readAll(t testing.TB, c *client.Client, topic string, n int) map[uint32][]string {
	t.Helper()
	r, err := c.NewReader(client.ReaderOptions{Topic: topic, Start: client.Earliest})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close(deadline(t))
	out := map[uint32][]string{}
	for range n {
		m, err := r.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if want := int64(len(out[m.Queue()])); m.Offset() != want {
			t.Fatalf("queue %d: offset %d, want %d", m.Queue(), m.Offset(), want)
		}
		out[m.Queue()] = append(out[m.Queue()], string(m.Body()))
	}
	return out
}

func TestASentMessageArrivesAsItWas(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("mixed", gantryv1.TopicType_MIXED, 4)
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "mixed"})
	ctx := deadline(t)
	before := time.Now().Truncate(time.Millisecond)
	sent := client.Message{
		Body: []byte("body"), Tag: "tag", Keys: []string{"k1", "k2"}, Properties: map[string]string{"colour": "red", "größe": "10"},
		Group: "g", TraceContext: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	res, err := p.Send(ctx, &sent)
	if err != nil {
		t.Fatal(err)
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "mixed"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := co.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if string(d.Body()) != "body" || d.Tag() != "tag" || !slices.Equal(d.Keys(), sent.Keys) || d.Group() != "g" || d.TraceContext() != sent.TraceContext {
		t.Errorf("got %q %q %q %q %q", d.Body(), d.Tag(), d.Keys(), d.Group(), d.TraceContext())
	}
	got := map[string]string{}
	for k, v := range d.Properties() {
		got[k] = v
	}
	if len(got) != 2 || got["colour"] != "red" || got["größe"] != "10" {
		t.Errorf("properties %v", got)
	}
	if v, ok := d.Property("colour"); !ok || v != "red" {
		t.Errorf("property %q %v", v, ok)
	}
	if d.ID() != res.MessageID() || d.Queue() != res.Queue || d.Offset() != res.Offset || d.Topic() != "mixed" || d.Attempt() != 1 {
		t.Errorf("got %s %d/%d, sent %s %d/%d", d.ID(), d.Queue(), d.Offset(), res.MessageID(), res.Queue, res.Offset)
	}
	if d.BornAt().Before(before) || d.StoredAt().Before(before) || !d.DeliverAt().IsZero() || d.Origin() != nil {
		t.Errorf("born %v stored %v due %v origin %v", d.BornAt(), d.StoredAt(), d.DeliverAt(), d.Origin())
	}
	if err := d.Ack(ctx); err != nil {
		t.Fatal(err)
	}
	if err := d.Retry(ctx, 0); !errors.Is(err, client.ErrLeaseLost) {
		t.Errorf("giving it back after its ack: %v", err)
	}
}

func TestOneBadMessageDoesNotHoldBackTheOthers(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "hello", Linger: time.Second})
	ctx := deadline(t)
	good, bad, other := p.SendAsync(ctx, &client.Message{Body: []byte("1")}), p.SendAsync(ctx, &client.Message{}), p.SendAsync(ctx, &client.Message{Body: []byte("2"), ID: "mine"})
	p.Publish(ctx, &client.Message{Body: []byte("3"), Tag: "a|b"}, nil)
	if err := p.Flush(ctx); !errors.Is(err, &client.Error{Code: 40004}) {
		t.Errorf("Flush says %v of a bad tag that nobody waited for", err)
	}
	if err := p.Flush(ctx); err != nil {
		t.Errorf("Flush says it twice: %v", err)
	}
	if r, err := good.Wait(ctx); err != nil || r.Offset != 0 {
		t.Errorf("the first: %+v %v", r, err)
	}
	if _, err := bad.Wait(ctx); !errors.Is(err, &client.Error{Code: client.CodeBodyEmpty}) {
		t.Errorf("the empty one: %v", err)
	}
	if r, err := other.Wait(ctx); err != nil || r.Offset != 1 || r.MessageID() != "mine" {
		t.Errorf("the last: %+v %v", r, err)
	}
	if _, err := p.Send(ctx, &client.Message{Topic: "nowhere", Body: []byte("x")}); !errors.Is(err, client.ErrTopicNotFound) {
		t.Errorf("an unknown topic: %v", err)
	}
	if _, err := p.Send(ctx, &client.Message{Body: []byte("x"), Group: "g"}); !errors.Is(err, &client.Error{Code: client.CodeTypeConflict}) {
		t.Errorf("a message group in a normal topic: %v", err)
	}
}

// TestBrokenConnectionsLoseAndRepeatNothing cuts all connections again and again
// while many messages are under way, and restarts the broker once.
func TestAMessageSentAgainIsToldAboutTheFirst(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	_, err := s.Admin.CreateTopic(deadline(t), &gantryv1.CreateTopicRequest{
		Name: "once", Type: gantryv1.TopicType_NORMAL, Queues: 4, DedupWindow: durationpb.New(time.Minute), DedupKey: "key",
	}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	var first client.Result
	for i := range 3 { // each by another producer
		p := producer(t, dial(t, s.Addr, client.Options{}), client.ProducerOptions{Topic: "once"})
		res, err := p.Send(deadline(t), &client.Message{Body: []byte("x"), Keys: []string{"order 7"}})
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			first = res
		}
		if res.Duplicate != (i > 0) || res.MessageID() != first.MessageID() || res.Queue != first.Queue || res.Offset != first.Offset {
			t.Errorf("sent again it got %+v, the first time %+v", res, first)
		}
		if other, err := p.Send(deadline(t), &client.Message{Body: []byte("x")}); err != nil || other.Duplicate {
			t.Errorf("a message without a key: %+v, %v", other, err)
		}
	}
}

func TestBrokenConnectionsLoseAndRepeatNothing(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	proxy := brokertest.NewProxy(t, s.Addr)
	c := dial(t, proxy.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "hello", BatchMessages: 50})
	ctx := deadline(t)
	const n = 20_000
	var answered atomic.Int64
	for i := range n {
		err := p.Publish(ctx, &client.Message{Body: fmt.Appendf(nil, "%d", i)}, func(_ client.Result, err error) {
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			answered.Add(1)
		})
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case i == n/2:
			s.Restart()
		case i%1500 == 1499:
			proxy.Cut()
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if answered.Load() != n {
		t.Fatalf("%d answers to %d messages", answered.Load(), n)
	}
	got := readAll(t, dial(t, s.Addr, client.Options{}), "hello", n)[0]
	for i, body := range got {
		if body != fmt.Sprint(i) {
			t.Fatalf("message %d is %q", i, body)
		}
	}
	topic, err := s.Admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	if q := topic.Queues[0]; q.MaxOffset-q.MinOffset != n {
		t.Errorf("the queue has %d to %d of %d messages", q.MinOffset, q.MaxOffset, n)
	}
}

func TestCloseWaitsForAnswers(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "hello", Linger: time.Hour})
	ctx := deadline(t)
	const n = 1000
	var stored atomic.Int64
	for range n {
		p.Publish(ctx, &client.Message{Body: []byte("x")}, func(_ client.Result, err error) {
			if err == nil {
				stored.Add(1)
			}
		})
	}
	if err := p.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if stored.Load() != n {
		t.Errorf("%d of %d were stored", stored.Load(), n)
	}
	if err := p.Publish(ctx, &client.Message{Body: []byte("x")}, nil); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestSendingWaitsForRoomAndForItsContext(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "hello", MaxBuffered: 1000, Linger: time.Hour})
	ctx := deadline(t)
	for range 100 { // far more than fits: answers make room
		if err := p.Publish(ctx, &client.Message{Body: make([]byte, 600)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(ctx)
	cancel()
	p.Publish(ctx, &client.Message{Body: make([]byte, 600)}, nil)
	for {
		err := p.Publish(over, &client.Message{Body: make([]byte, 600)}, nil)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestTheRoomThatAProducerTakesGrowsWithItsTopics(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	proxy := brokertest.NewProxy(t, s.Addr)
	c := dial(t, proxy.Addr, client.Options{})
	proxy.Close() // nobody answers: what fits is what there is room for
	over, cancel := context.WithCancel(context.Background())
	cancel()
	for name, o := range map[string]struct {
		topics   int
		max      int
		from, to int // MiB
	}{
		"one topic":   {topics: 1, from: 8, to: 12},
		"many topics": {topics: 1250, from: 30, to: 32},
		"asked for":   {topics: 1250, max: 4 << 20, from: 3, to: 4},
	} {
		t.Run(name, func(t *testing.T) {
			p := producer(t, c, client.ProducerOptions{MaxBuffered: o.max, Linger: time.Hour})
			const size = 16 << 10
			sent := 0
			for ; sent < 64<<20; sent += size {
				err := p.Publish(over, &client.Message{Topic: fmt.Sprint("t", sent/size%o.topics), Body: make([]byte, size)}, nil)
				if errors.Is(err, context.Canceled) {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if sent < o.from<<20 || sent > o.to<<20 {
				t.Errorf("%d bytes were taken, want %d to %d MiB", sent, o.from, o.to)
			}
			p.Close(over)
		})
	}
}

func TestMessagesToManyTopicsInTurnArriveEachInOrder(t *testing.T) {
	const topics, messages = 60, 40
	s := brokertest.Start(t, broker.Options{})
	c := dial(t, s.Addr, client.Options{})
	for name, o := range map[string]client.ProducerOptions{
		"much room":      {},
		"little room":    {MaxBuffered: 20_000},
		"small batches":  {BatchMessages: 3},
		"without linger": {Linger: -1},
		"long linger":    {Linger: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			topic := func(i int) string { return fmt.Sprintf("%s-%d", strings.ReplaceAll(name, " ", "-"), i) }
			for i := range topics {
				s.CreateTopic(topic(i), gantryv1.TopicType_NORMAL, 1)
			}
			p := producer(t, c, o)
			ctx := deadline(t)
			for m := range messages {
				for i := range topics {
					if err := p.Publish(ctx, &client.Message{Topic: topic(i), Body: fmt.Appendf(nil, "%d of %d", m, i)}, nil); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := p.Close(ctx); err != nil {
				t.Fatal(err)
			}
			for i := range topics {
				for m, body := range readAll(t, c, topic(i), messages)[0] {
					if want := fmt.Sprintf("%d of %d", m, i); body != want {
						t.Fatalf("%s has %q as message %d, want %q", topic(i), body, m, want)
					}
				}
			}
		})
	}
}

func TestTransactions(t *testing.T) {
	s := brokertest.Start(t, broker.Options{TransactionCheckAfter: time.Second, TransactionCheckEvery: time.Second})
	s.CreateTopic("orders", gantryv1.TopicType_TRANSACTION, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx := deadline(t)
	asked := make(chan string, 16)
	p := producer(t, c, client.ProducerOptions{Topic: "orders", Check: func(_ context.Context, m *client.Open) client.Decision {
		asked <- m.ID()
		if m.Tag() == "keep" {
			return client.Commit
		}
		return client.Rollback
	}})
	begin := func(body, tag string) *client.Transaction {
		tx, err := p.Begin(ctx, &client.Message{Body: []byte(body), Tag: tag}, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return tx
	}
	committed, rolledBack := begin("committed", ""), begin("rolled back", "")
	if err := committed.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if err := rolledBack.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	if err := committed.Commit(ctx); err != nil {
		t.Errorf("a second commit: %v", err)
	}
	if err := rolledBack.Commit(ctx); !errors.Is(err, client.ErrDecided) {
		t.Errorf("a commit after a rollback: %v", err)
	}
	kept, dropped := begin("kept by the check", "keep"), begin("dropped by the check", "drop")
	want := map[string]bool{kept.MessageID(): true, dropped.MessageID(): true}
	for len(want) > 0 {
		select {
		case id := <-asked:
			delete(want, id)
		case <-ctx.Done():
			t.Fatal("the broker does not ask")
		}
	}
	if got := readAll(t, c, "orders", 2)[0]; !slices.Equal(got, []string{"committed", "kept by the check"}) {
		t.Errorf("visible: %q", got)
	}
	if err := dropped.Commit(ctx); err == nil {
		t.Error("the dropped transaction was committed")
	}
}

func TestADelayedMessageCanBeTakenBack(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("later", gantryv1.TopicType_DELAY, 1)
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "later"})
	ctx := deadline(t)
	due := time.Now().Add(300 * time.Millisecond)
	gone, err := p.Send(ctx, &client.Message{Body: []byte("gone"), DeliverAt: due})
	if err != nil {
		t.Fatal(err)
	}
	if gone.Offset != -1 || gone.RecallHandle == "" {
		t.Fatalf("%+v", gone)
	}
	if err := p.Recall(ctx, "later", gone.RecallHandle); err != nil {
		t.Fatal(err)
	}
	if err := p.Recall(ctx, "later", gone.RecallHandle); err == nil {
		t.Error("it was taken back twice")
	}
	if _, err := p.Send(ctx, &client.Message{Body: []byte("there"), DeliverAt: due}); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, "later", 1)[0]; got[0] != "there" {
		t.Errorf("got %q", got)
	}
	if time.Now().Before(due.Truncate(time.Millisecond)) {
		t.Error("it came early")
	}
}

func TestWhatIsNotDoneComesAgain(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx := deadline(t)
	p := producer(t, c, client.ProducerOptions{Topic: "hello"})
	for _, body := range []string{"retry", "dead", "fine"} {
		if _, err := p.Send(ctx, &client.Message{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for d, err := range co.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		body := string(d.Body())
		if seen[body]++; seen[body] != d.Attempt() {
			t.Errorf("%q: attempt %d, seen %d times", body, d.Attempt(), seen[body])
		}
		switch {
		case body == "retry" && d.Attempt() < 3:
			err = d.Retry(ctx, 0)
		case body == "dead":
			err = d.DeadLetter(ctx)
		default:
			err = errors.Join(d.Extend(ctx, time.Minute), d.Ack(ctx))
		}
		if err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if seen["retry"] == 3 && seen["fine"] == 1 && seen["dead"] == 1 {
			break
		}
	}
	dead, err := c.NewConsumer(client.ConsumerOptions{Group: "menders", Topic: "%DLQ%readers"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := dead.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if string(d.Body()) != "dead" || d.Origin() == nil || d.Origin().Topic != "hello" {
		t.Errorf("dead letter %q from %+v", d.Body(), d.Origin())
	}
}

// Who acknowledges a lease that is over hears whether another has it, or it is done with:
// test/history counts the latter as late.
func TestAnAcknowledgementThatComesLateIsToldWhetherTheMessageIsDone(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx := deadline(t)
	if _, err := producer(t, c, client.ProducerOptions{Topic: "hello"}).Send(ctx, &client.Message{Body: []byte("once")}); err != nil {
		t.Fatal(err)
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := co.Receive(ctx)
	if err == nil {
		err = first.Retry(ctx, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := co.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Ack(ctx); !errors.Is(err, client.ErrLeaseLost) {
		t.Errorf("while attempt %d is out: %v, want ErrLeaseLost", second.Attempt(), err)
	}
	if err := second.Ack(ctx); err != nil {
		t.Fatal(err)
	}
	if err := first.Ack(ctx); err != nil {
		t.Errorf("when attempt %d is acknowledged: %v", second.Attempt(), err)
	}
}

func TestWhatIsRefusedOfAMessageIsToldAndHoldsBackNoOther(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx := deadline(t)
	p := producer(t, c, client.ProducerOptions{Topic: "hello"})
	const count = 100
	for range count {
		if err := p.Publish(ctx, &client.Message{Body: []byte("hello")}, nil); err != nil {
			t.Fatal(err)
		}
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	acked := make(chan error, count)
	for range count / 2 {
		var pair [2]*client.Delivery
		for i := range pair {
			if pair[i], err = co.Receive(ctx); err != nil {
				t.Fatal(err)
			}
		}
		pair[0].AckAsync(func(err error) { acked <- err })
		if err := pair[1].Extend(ctx, 100*time.Hour); !errors.As(err, new(*client.Error)) {
			t.Fatalf("holding a message for 100 hours: %v", err)
		}
		pair[1].AckAsync(func(err error) { acked <- err })
	}
	for range count {
		if err := <-acked; err != nil {
			t.Fatal(err)
		}
	}
}

func TestAHandlersErrorPanicAndDiscard(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 2)
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	var mu sync.Mutex
	var hooked []string
	c := dial(t, s.Addr, client.Options{Hooks: client.Hooks{
		Send: func(_ context.Context, m *client.Message) func(client.Result, error) {
			m.TraceContext = "trace of " + string(m.Body)
			return nil
		},
		Receive: func(ctx context.Context, d *client.Delivery) (context.Context, func(error)) {
			return ctx, func(err error) {
				mu.Lock()
				defer mu.Unlock()
				hooked = append(hooked, fmt.Sprintf("%s, %v", d.TraceContext(), err != nil))
			}
		},
	}})
	p := producer(t, c, client.ProducerOptions{Topic: "hello"})
	for _, body := range []string{"error", "panic", "discard", "fine"} {
		if _, err := p.Send(ctx, &client.Message{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	err = co.Run(ctx, func(_ context.Context, d *client.Delivery) error {
		mu.Lock()
		seen[string(d.Body())] = d.Attempt()
		if seen["error"] == 2 && seen["panic"] == 2 && seen["discard"] == 1 && seen["fine"] == 1 {
			cancel()
		}
		mu.Unlock()
		switch body := string(d.Body()); {
		case body == "error" && d.Attempt() == 1:
			return client.RetryAfter(0, errors.New("not yet"))
		case body == "panic" && d.Attempt() == 1:
			panic("oh")
		case body == "discard":
			return client.Discard(errors.New("never"))
		}
		return nil
	}, client.RunOptions{Concurrency: 4})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(hooked, "trace of error, true") || !slices.Contains(hooked, "trace of fine, false") {
		t.Errorf("hooks saw %q", hooked)
	}
	if got := readAll(t, c, "%DLQ%readers", 1); len(got) != 1 {
		t.Errorf("dead letters %v", got)
	}
}

func TestOrderedHandlersKeepKeysInOrder(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("fifo", gantryv1.TopicType_FIFO, 4)
	if _, err := s.Admin.CreateGroup(deadline(t), &gantryv1.CreateGroupRequest{Name: "ordered", Fifo: true}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "fifo"})
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	const keys, each = 8, 100
	for i := range keys * each {
		if err := p.Publish(ctx, &client.Message{Body: fmt.Appendf(nil, "%d", i/keys), Group: fmt.Sprint(i % keys)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "ordered", Topic: "fifo"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	done := map[string]int{}
	total := 0
	err = co.Run(ctx, func(_ context.Context, d *client.Delivery) error {
		mu.Lock()
		defer mu.Unlock()
		if want := fmt.Sprint(done[d.Group()]); string(d.Body()) != want {
			t.Errorf("group %s: %s, want %s", d.Group(), d.Body(), want)
		}
		if d.Attempt() == 1 && d.Group() == "3" && strings.HasSuffix(string(d.Body()), "7") {
			return client.RetryAfter(0, errors.New("again")) // those behind it wait
		}
		done[d.Group()]++
		if total++; total == keys*each {
			cancel()
		}
		return nil
	}, client.RunOptions{Concurrency: 8, Ordered: true})
	if err != nil {
		t.Fatal(err)
	}
}

func TestConsumersGoOnAfterABrokenConnection(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 4)
	proxy := brokertest.NewProxy(t, s.Addr)
	direct, broken := dial(t, s.Addr, client.Options{}), dial(t, proxy.Addr, client.Options{})
	p := producer(t, direct, client.ProducerOptions{Topic: "hello"})
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	const n = 5000
	for i := range n {
		if err := p.Publish(ctx, &client.Message{Body: fmt.Appendf(nil, "%d", i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	co, err := broken.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello", Prefetch: 64})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acked := map[string]bool{}
	received := 0
	for d, err := range co.Messages(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		body := string(d.Body())
		mu.Lock()
		if acked[body] {
			t.Errorf("%s came again after its ack was answered", body)
		}
		mu.Unlock()
		if received++; received%1000 == 0 {
			proxy.Cut()
		}
		d.AckAsync(func(err error) {
			if err != nil {
				return // its outcome is unknown: it may come again
			}
			mu.Lock()
			defer mu.Unlock()
			if acked[body] = true; len(acked) == n {
				cancel()
			}
		})
	}
	if len(acked) != n {
		t.Errorf("%d of %d were acknowledged", len(acked), n)
	}
}

func TestClosingAConsumerGivesBackWhatNobodyTook(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "hello"})
	ctx := deadline(t)
	const n = 100
	for i := range n {
		if _, err := p.Send(ctx, &client.Message{Body: fmt.Appendf(nil, "%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	first, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello", Invisible: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	d, err := first.Receive(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Ack(ctx); err != nil {
		t.Fatal(err)
	}
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Receive(ctx); !errors.Is(err, client.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	second, err := c.NewConsumer(client.ConsumerOptions{Group: "readers", Topic: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	for range n - 1 {
		d, err := second.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if d.Attempt() != 1 {
			t.Errorf("message %s: attempt %d, though nobody had it", d.Body(), d.Attempt())
		}
	}
}

func TestAReaderGoesOnWhereItsGroupCommitted(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	proxy := brokertest.NewProxy(t, s.Addr)
	c := dial(t, proxy.Addr, client.Options{})
	p := producer(t, c, client.ProducerOptions{Topic: "hello"})
	ctx := deadline(t)
	const n = 1000
	for i := range n {
		m := &client.Message{Body: fmt.Appendf(nil, "%d", i), Tag: "even", Properties: map[string]string{"i": fmt.Sprint(i)}}
		if i%2 == 1 {
			m.Tag = "odd"
		}
		if err := p.Publish(ctx, m, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	read := func(o client.ReaderOptions, count int, want func(int) int) (next int64) {
		t.Helper()
		o.Topic, o.FrameBytes = "hello", 4096
		r, err := c.NewReader(o)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close(ctx)
		for i := range count {
			if i == count/2 {
				proxy.Cut()
			}
			m, err := r.Next(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if string(m.Body()) != fmt.Sprint(want(i)) || m.Offset() != int64(want(i)) {
				t.Fatalf("message %d is %q at %d, want %d", i, m.Body(), m.Offset(), want(i))
			}
			next = m.Offset() + 1
		}
		if o.Group != "" {
			if err := r.Commit(ctx, map[uint32]int64{0: next}); err != nil {
				t.Fatal(err)
			}
		}
		return next
	}
	read(client.ReaderOptions{Start: client.Earliest}, n, func(i int) int { return i })
	read(client.ReaderOptions{Start: client.Earliest, Tag: "odd"}, n/2, func(i int) int { return 2*i + 1 })
	read(client.ReaderOptions{Start: client.Earliest, SQL: "i >= 900"}, 100, func(i int) int { return 900 + i })
	read(client.ReaderOptions{Offsets: map[uint32]int64{0: 700}}, 300, func(i int) int { return 700 + i })
	read(client.ReaderOptions{Group: "g"}, 400, func(i int) int { return i })
	read(client.ReaderOptions{Group: "g"}, 600, func(i int) int { return 400 + i })
	if _, err := c.NewReader(client.ReaderOptions{Topic: "hello", Tag: "a", SQL: "TRUE"}); err == nil {
		t.Error("two filters were taken")
	}
	r, err := c.NewReader(client.ReaderOptions{Topic: "hello", SQL: "i >"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Next(ctx); !errors.Is(err, &client.Error{Code: client.CodeIllegalFilter}) {
		t.Errorf("a broken filter: %v", err)
	}
}

func TestReadersGoOverGRPCWhereNothingElsePasses(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("hello", gantryv1.TopicType_NORMAL, 1)
	if _, err := producer(t, dial(t, s.Addr, client.Options{}), client.ProducerOptions{Topic: "hello"}).Send(deadline(t), &client.Message{Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var refused atomic.Int32
	go func() { // passes on what begins like HTTP/2
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				first := make([]byte, 1)
				if _, err := io.ReadFull(c, first); err != nil || first[0] != 'P' {
					refused.Add(1)
					return
				}
				to, err := net.Dial("tcp", s.Addr)
				if err != nil {
					return
				}
				defer to.Close()
				to.Write(first)
				go io.Copy(c, to)
				io.Copy(to, c)
			}()
		}
	}()
	c := dial(t, l.Addr().String(), client.Options{})
	for range 2 {
		readAll(t, c, "hello", 1)
	}
	readAll(t, dial(t, l.Addr().String(), client.Options{DialOptions: []grpc.DialOption{grpc.WithUserAgent("ours")}}), "hello", 1)
	if n := refused.Load(); n != 1 {
		t.Errorf("%d attempts without HTTP/2, want 1 of the first reader", n)
	}
}
