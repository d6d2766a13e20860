package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
)

func TestMessagesOfBothDoorsAreReadByOffset(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Mixed, 1)
	m := plain("t", "01ID", "theirs")
	m.SystemProperties.Tag, m.UserProperties = ptr("A"), map[string]string{"k": "v"}
	if _, err := f.SendMessage(as("p"), &v2.SendMessageRequest{Messages: []*v2.Message{m}}); err != nil {
		t.Fatal(err)
	}
	p := f.publisher(context.Background(), 1, "t")
	r := p.good(packOf("ours", "ours too"))
	c := f.consumer(context.Background(), "t", "", earliest())
	if len(c.opened.Queues) != 1 || c.opened.Queues[0].Offset != 0 {
		t.Fatalf("%v", c.opened)
	}
	got := c.take(3)
	if !slices.Equal(texts(got), []string{"theirs", "ours", "ours too"}) {
		t.Fatal(texts(got))
	}
	if v, _ := got[0].Properties.User("k"); got[0].id != "01ID" || string(v) != "v" || got[0].attempt != 0 {
		t.Errorf("theirs: %+v", got[0])
	}
	for i, want := range []uint64{r.Runs[0].Position, r.Runs[0].Position + uint64(record.Padded(64+len("ours")))} {
		if id := record.PositionID(p.opened.StoreId, record.Position(want)); got[i+1].id != id || got[i+1].offset != int64(i+1) {
			t.Errorf("ours %d: %+v, want %s", i, got[i+1], id)
		}
	}
	p.good(packOf("later")) // a consumer at the end is woken
	if f, ms := c.frame(); len(ms) != 1 || ms[0].offset != 3 || f.NextOffset != 4 || f.EndOffset != 4 {
		t.Fatalf("%+v", f)
	}
	c.close()
}

// What follows in the log is sent as one slice, and a filter cuts it.
func TestMatchingNeighboursAreOneRun(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	var pack []byte
	var want []string
	for i := range 100 {
		tag := "A"
		if i%10 == 9 {
			tag = "B"
		} else {
			want = append(want, fmt.Sprint(i))
		}
		pack = packed(pack, fmt.Sprint(i), field(record.FieldTag, tag), property("n", fmt.Sprint(i)))
	}
	f.publisher(context.Background(), 1, "t").good(pack)
	for _, c := range []struct {
		name   string
		filter func(*gantryv1.Subscribe)
		runs   int
		want   []string
	}{
		{"all", func(*gantryv1.Subscribe) {}, 1, nil},
		{"by tag", tagged("A"), 10, want},
		{"by SQL", func(s *gantryv1.Subscribe) { s.Filter = &gantryv1.Subscribe_Sql{Sql: "n >= 42 AND n < 44"} }, 1, []string{"42", "43"}},
		{"of two tags", tagged("B || C"), 10, []string{"9", "19", "29", "39", "49", "59", "69", "79", "89", "99"}},
	} {
		con := f.consumer(context.Background(), "t", "", earliest(), c.filter)
		frame, ms := con.frame()
		if len(frame.Runs) != c.runs || frame.NextOffset != 100 || c.want != nil && !slices.Equal(texts(ms), c.want) || c.want == nil && len(ms) != 100 {
			t.Errorf("%s: %d runs, next %d, %v", c.name, len(frame.Runs), frame.NextOffset, texts(ms))
		}
	}
}

func TestATagWithTheHashOfAnotherIsNotRead(t *testing.T) {
	const wanted, other = "liquid", "costarring"
	if record.Hash32(wanted) != record.Hash32(other) {
		t.Fatal("the two are told apart by their hashes")
	}
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	var pack []byte
	for i, tag := range []string{other, wanted, wanted, other, wanted, other} {
		pack = packed(pack, fmt.Sprint(i), field(record.FieldTag, tag))
	}
	f.publisher(context.Background(), 1, "t").good(pack)
	frame, ms := f.consumer(context.Background(), "t", "", earliest(), tagged(wanted)).frame()
	if got := texts(ms); !slices.Equal(got, []string{"1", "2", "4"}) || len(frame.Runs) != 2 {
		t.Fatalf("%v in %d runs", got, len(frame.Runs))
	}
}

func TestReadingBeginsWhereItIsAskedTo(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 2)
	at := func(a *gantryv1.StartAt) *gantryv1.OffsetMode { return &gantryv1.OffsetMode{Start: a} }
	policy := func(p gantryv1.StartPolicy) *gantryv1.StartAt {
		return &gantryv1.StartAt{At: &gantryv1.StartAt_Policy{Policy: p}}
	}
	pub := func(queue int64, bodies ...string) {
		pack := packOf(bodies...)
		pr, err := f.broker.Publish(context.Background(), &broker.Pack{Producer: 1, Sequence: uint64(time.Now().UnixNano()), Topic: record.Resource{Name: "t"}, Queue: queue, Records: [][]byte{pack}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pr.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	pub(0, "a", "b")
	time.Sleep(2 * time.Millisecond) // store times are in milliseconds
	between := time.Now()
	pub(0, "c")
	pub(1, "x", "y")
	c := f.consumer(context.Background(), "t", "g", offsets(at(policy(gantryv1.StartPolicy_START_COMMITTED))))
	if got := texts(c.take(5)); !slices.Equal(got, []string{"a", "b", "c", "x", "y"}) {
		t.Fatalf("without a committed offset: %v", got)
	}
	c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Commit{Commit: &gantryv1.CommitOffset{Id: 3, Queues: []*gantryv1.QueueOffset{{Queue: 0, Offset: 2}, {Queue: 1, Offset: 1}}}}})
	if r := c.receive().Other.GetCommitted(); r.GetId() != 3 || r.Status != nil {
		t.Fatalf("%v", r)
	}
	if r, err := f.GetOffset(as("c"), &v2.GetOffsetRequest{Group: &v2.Resource{Name: "g"}, MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}, Id: 1}}); err != nil || r.Offset != 1 {
		t.Fatalf("the other door says %v, %v", r, err)
	}
	for _, q := range []struct {
		name  string
		mode  *gantryv1.OffsetMode
		begin []int64
	}{
		{"committed", at(policy(gantryv1.StartPolicy_START_COMMITTED)), []int64{2, 1}},
		{"nothing said", &gantryv1.OffsetMode{}, []int64{2, 1}},
		{"earliest", at(policy(gantryv1.StartPolicy_START_EARLIEST)), []int64{0, 0}},
		{"latest", at(policy(gantryv1.StartPolicy_START_LATEST)), []int64{3, 2}},
		{"time", at(&gantryv1.StartAt{At: &gantryv1.StartAt_Time{Time: timestamppb.New(between)}}), []int64{2, 0}},
		{"queues", &gantryv1.OffsetMode{Queues: []*gantryv1.QueueStart{{Queue: 1, Start: &gantryv1.StartAt{At: &gantryv1.StartAt_Offset{Offset: 2}}}}}, []int64{2}},
	} {
		c := f.consumer(context.Background(), "t", "g", offsets(q.mode))
		var begin []int64
		for _, o := range c.opened.Queues {
			begin = append(begin, o.Offset)
		}
		if !slices.Equal(begin, q.begin) {
			t.Errorf("%s: begins at %v, want %v", q.name, begin, q.begin)
		}
	}
}

func TestSubscriptionsAreRefusedByName(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.consumer(context.Background(), "t", "taken", leases(&gantryv1.LeaseMode{}), tagged("A"))
	for _, c := range []struct {
		name, topic, group string
		change             []func(*gantryv1.Subscribe)
		code               v2.Code
		says               string
	}{
		{"no mode", "t", "g", nil, v2.Code_BAD_REQUEST, "neither"},
		{"no topic", "nowhere", "g", []func(*gantryv1.Subscribe){earliest()}, v2.Code_TOPIC_NOT_FOUND, "nowhere"},
		{"no group", "t", "", []func(*gantryv1.Subscribe){leases(&gantryv1.LeaseMode{})}, v2.Code_ILLEGAL_CONSUMER_GROUP, "group"},
		{"no such queue", "t", "g", []func(*gantryv1.Subscribe){offsets(&gantryv1.OffsetMode{Queues: []*gantryv1.QueueStart{{Queue: 1}}})}, v2.Code_BAD_REQUEST, "queue 1"},
		{"a queue twice", "t", "g", []func(*gantryv1.Subscribe){offsets(&gantryv1.OffsetMode{Queues: []*gantryv1.QueueStart{{}, {}}})}, v2.Code_BAD_REQUEST, "once"},
		{"beyond the queue", "t", "g", []func(*gantryv1.Subscribe){offsets(&gantryv1.OffsetMode{Start: &gantryv1.StartAt{At: &gantryv1.StartAt_Offset{Offset: 1}}})}, v2.Code_ILLEGAL_OFFSET, "0 to 0"},
		{"unknown policy", "t", "g", []func(*gantryv1.Subscribe){offsets(&gantryv1.OffsetMode{Start: &gantryv1.StartAt{At: &gantryv1.StartAt_Policy{Policy: 9}}})}, v2.Code_BAD_REQUEST, "policy"},
		{"bad SQL", "t", "g", []func(*gantryv1.Subscribe){earliest(), func(s *gantryv1.Subscribe) { s.Filter = &gantryv1.Subscribe_Sql{Sql: "a >"} }}, v2.Code_ILLEGAL_FILTER_EXPRESSION, "filter"},
		{"lease too short", "t", "g", []func(*gantryv1.Subscribe){leases(&gantryv1.LeaseMode{Invisible: durationpb.New(time.Second)})}, v2.Code_ILLEGAL_INVISIBLE_TIME, "10s"},
		{"another filter is in force", "t", "taken", []func(*gantryv1.Subscribe){leases(&gantryv1.LeaseMode{}), tagged("B")}, v2.Code_ILLEGAL_FILTER_EXPRESSION, "one filter per topic"},
		{"lite topics of a plain topic", "t", "g", []func(*gantryv1.Subscribe){leases(&gantryv1.LeaseMode{LiteTopics: []string{"l"}})}, v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "lite"},
	} {
		_, first := f.subscribe(context.Background(), c.topic, c.group, c.change...)
		if st := first.GetStatus(); v2.Code(st.GetCode()) != c.code || !strings.Contains(st.GetMessage(), c.says) {
			t.Errorf("%s: %v", c.name, first)
		}
	}
	for name, r := range map[string]*gantryv1.ConsumeRequest{
		"no subscribe": {Content: &gantryv1.ConsumeRequest_Stop{Stop: &gantryv1.StopConsuming{}}},
		"no client":    {Content: &gantryv1.ConsumeRequest_Subscribe{Subscribe: &gantryv1.Subscribe{}}},
	} {
		st, err := f.streamsClient().Consume(within(context.Background(), t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		st.Send(r)
		if _, err := st.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCreditBoundsWhatIsSent(t *testing.T) {
	for _, mode := range []struct {
		name string
		set  func(*gantryv1.Subscribe)
	}{{"by offset", earliest()}, {"leased", leases(&gantryv1.LeaseMode{})}} {
		t.Run(mode.name, func(t *testing.T) {
			f := start(t, Options{})
			f.topic("t", topic.Normal, 1)
			var bodies []string
			for i := range 100 {
				bodies = append(bodies, fmt.Sprintf("%01016d", i)) // a record of 1080 bytes
			}
			f.publisher(context.Background(), 1, "t").good(packOf(bodies...))
			const rec = 64 + 1016
			c := f.consumer(context.Background(), "t", "g", mode.set, credit(10*rec-1, 0))
			bytes, n := 0, 0
			for n < 10 {
				frame, ms := c.frame()
				bytes += len(frame.Records)
				n += len(ms)
			}
			if n != 10 { // the last message may go below 0, but no further
				t.Fatalf("%d messages of %d bytes for a credit of %d", n, bytes, 10*rec-1)
			}
			grant := func(bytes uint64, messages uint32) {
				c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Credit{Credit: &gantryv1.ConsumeCredit{Bytes: bytes, Messages: messages}}})
			}
			grant(1, 0) // pays what is owed
			grant(1, 0)
			if ms := c.take(1); string(ms[0].Body) != bodies[10] {
				t.Fatal("another message than the next")
			}
			d := f.consumer(context.Background(), "t", "g2", mode.set, credit(64<<20, 7))
			d.take(7)
			d.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Credit{Credit: &gantryv1.ConsumeCredit{Messages: 5}}})
			if ms := d.take(5); string(ms[4].Body) != bodies[11] {
				t.Fatal("another message than the next")
			}
			// Credit that is spent does not keep a stream from ending in good order.
			c.close()
			d.close()
		})
	}
}

func TestAFrameIsAsLargeAsAskedForAndOneMessageAlwaysFits(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(context.Background(), 1, "t")
	large := strings.Repeat("x", 2<<20)
	p.good(packOf("a", "b", large, "c"))
	for _, mode := range []func(*gantryv1.Subscribe){earliest(), leases(&gantryv1.LeaseMode{})} {
		c := f.consumer(context.Background(), "t", "g", mode, func(s *gantryv1.Subscribe) { s.FrameBytes = 1000 })
		if _, ms := c.frame(); len(ms) < 2 {
			t.Errorf("the first frame has %d messages", len(ms))
		} else if rest := c.take(4 - len(ms)); string(rest[len(rest)-1].Body) != "c" {
			t.Error("not all came")
		}
		c.close()
	}
}

func TestOneGroupConsumesThroughBothDoors(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 4)
	p := f.publisher(context.Background(), 1, "t")
	seen := map[string]int{}
	for i := range 10 {
		p.good(packOf(fmt.Sprint(i, "a"), fmt.Sprint(i, "b")))
	}
	c := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{}), credit(64<<20, 7))
	ours := c.take(7)
	for _, m := range ours {
		seen[string(m.Body)]++
	}
	for len(seen) < 20 {
		req := receiving("t", "g")
		_, theirs := f.receive(as("other"), req)
		if len(theirs) == 0 {
			break
		}
		for _, m := range theirs {
			seen[string(m.Body)]++
		}
	}
	for body, n := range seen {
		if n != 1 {
			t.Errorf("%q came %d times", body, n)
		}
	}
	if len(seen) != 20 {
		t.Errorf("%d of 20 messages came", len(seen))
	}
	// A handle of the one door is none of the other's, but its lease is.
	c.done(gantryv1.SettleAction_SETTLE_ACK, ours...)
	if n := f.inFlight("g"); n != 13 {
		t.Errorf("%d messages are in flight, want 13", n)
	}
}

// inFlight returns how many messages a group holds.
func (f *fixture) inFlight(name string) (n int) {
	f.t.Helper()
	f.barriers++
	f.group(group.Group{Name: record.Resource{Name: fmt.Sprint("barrier", f.barriers)}}) // what was durable before is applied after it
	_, queues, err := f.broker.GroupStatus(record.Resource{Name: name})
	if err != nil {
		f.t.Fatal(err)
	}
	for _, q := range queues {
		n += q.InFlight
	}
	return n
}

func TestLeasesLastAsLongAsTheirStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		p := f.publisher(t.Context(), 1, "t")
		p.good(packOf("a", "b"))
		c := f.consumer(t.Context(), "t", "g", leases(&gantryv1.LeaseMode{}))
		got := c.take(2)
		time.Sleep(10 * time.Minute) // far beyond any ordinary lease, and a client's expiry
		c.done(gantryv1.SettleAction_SETTLE_ACK, got[0])
		ended := time.Now()
		c.close()
		d := f.consumer(t.Context(), "t", "g", leases(&gantryv1.LeaseMode{}))
		again := d.take(1)
		if string(again[0].Body) != "b" || again[0].attempt != 2 || time.Since(ended) < broker.ReleaseDelay || time.Since(ended) > 2*broker.ReleaseDelay {
			t.Errorf("%v after %v", again, time.Since(ended))
		}
		d.close()
		p.close()
	})
}

func TestLeasesOfAFixedTimeEndByThemselves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		p := f.publisher(t.Context(), 1, "t")
		p.good(packOf("a"))
		began := time.Now()
		c := f.consumer(t.Context(), "t", "g", leases(&gantryv1.LeaseMode{Invisible: durationpb.New(30 * time.Second)}))
		frame, first := c.frame()
		if d := time.UnixMilli(frame.LeaseEnd).Sub(began); d < 29*time.Second || d > 31*time.Second {
			t.Errorf("the lease ends after %v", d)
		}
		second := c.take(1)
		if d := time.Since(began).Round(time.Second); second[0].attempt != 2 || d != 30*time.Second {
			t.Errorf("again after %v, attempt %d", d, second[0].attempt)
		}
		ack := &gantryv1.SettleEntry{Offset: 0, LeaseId: first[0].lease}
		if failures := c.settle(ack); len(failures) != 1 || v2.Code(failures[0].Status.Code) != v2.Code_INVALID_RECEIPT_HANDLE {
			t.Errorf("an old lease: %v", failures)
		}
		c.done(gantryv1.SettleAction_SETTLE_ACK, second...)
		c.done(gantryv1.SettleAction_SETTLE_ACK, second...) // twice is fine
		c.close()
		p.close()
	})
}

func TestMessagesAreSettledInRangesAndUpToAnOffset(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(context.Background(), 1, "t")
	var bodies []string
	for i := range 30 {
		bodies = append(bodies, fmt.Sprint(i))
	}
	p.good(packOf(bodies...))
	c := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{}))
	got := c.take(30)
	// One ack of ten messages, of which one is not held by that lease.
	wrong := &gantryv1.SettleEntry{Offset: 5, LeaseId: got[5].lease + 1}
	if failures := c.settle(wrong, &gantryv1.SettleEntry{Offset: 0, LeaseId: got[0].lease, Count: 10}); len(failures) != 1 || failures[0].Offset != 5 || failures[0].Count != 1 {
		t.Fatalf("%v", failures)
	}
	if n := f.inFlight("g"); n != 20 {
		t.Fatalf("%d in flight", n)
	}
	if failures := c.settle(&gantryv1.SettleEntry{Offset: 24, UpTo: true}); len(failures) != 0 {
		t.Fatalf("%v", failures)
	}
	if n := f.inFlight("g"); n != 5 {
		t.Fatalf("%d in flight", n)
	}
	// A range beyond what was handed out fails as one.
	if failures := c.settle(&gantryv1.SettleEntry{Offset: 30, LeaseId: 1, Count: 100}); len(failures) != 1 || failures[0].Offset != 30 || failures[0].Count != 100 {
		t.Fatalf("%v", failures)
	}
	c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Settle{Settle: &gantryv1.Settle{Id: 1, Entries: []*gantryv1.SettleEntry{{Action: 9}}}}})
	if r := c.receive().Other.GetSettled(); v2.Code(r.GetStatus().GetCode()) != v2.Code_BAD_REQUEST {
		t.Fatalf("%v", r)
	}
	c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Commit{Commit: &gantryv1.CommitOffset{Id: 1}}})
	if r := c.receive().Other.GetCommitted(); v2.Code(r.GetStatus().GetCode()) != v2.Code_BAD_REQUEST {
		t.Fatalf("%v", r)
	}
}

func TestMessagesAreRetriedHeldAndGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		f.group(group.Group{Name: record.Resource{Name: "g"}, MaxAttempts: 3, Retry: group.Retry{Steps: []time.Duration{5 * time.Second, 20 * time.Second}}})
		p := f.publisher(t.Context(), 1, "t")
		p.good(packOf("policy", "delay", "extend", "dead", "suspend"))
		c := f.consumer(t.Context(), "t", "g", leases(&gantryv1.LeaseMode{Invisible: durationpb.New(time.Minute)}))
		began := time.Now()
		got := c.take(5)
		entry := func(i int, a gantryv1.SettleAction, d time.Duration) *gantryv1.SettleEntry {
			e := &gantryv1.SettleEntry{Action: a, Offset: got[i].offset, LeaseId: got[i].lease, Suspend: i == 4}
			if d >= 0 {
				e.Delay = durationpb.New(d)
			}
			return e
		}
		if failures := c.settle(
			entry(0, gantryv1.SettleAction_SETTLE_RETRY, -1),
			entry(1, gantryv1.SettleAction_SETTLE_RETRY, 2*time.Second),
			entry(2, gantryv1.SettleAction_SETTLE_EXTEND, 100*time.Second),
			entry(3, gantryv1.SettleAction_SETTLE_DEAD_LETTER, -1),
			entry(4, gantryv1.SettleAction_SETTLE_RETRY, 3*time.Second),
		); len(failures) > 0 {
			t.Fatalf("%v", failures)
		}
		var log []string
		for range 4 {
			m := c.take(1)[0]
			log = append(log, fmt.Sprintf("%s#%d@%v", m.Body, m.attempt, time.Since(began).Round(time.Second)))
			c.done(gantryv1.SettleAction_SETTLE_ACK, m)
		}
		if got := strings.Join(log, " "); got != "delay#2@2s suspend#1@3s policy#2@5s extend#2@1m40s" {
			t.Errorf("%s", got)
		}
		// The dead letter, with where it came from, by offset and leased.
		for _, mode := range []func(*gantryv1.Subscribe){earliest(), leases(&gantryv1.LeaseMode{})} {
			d := f.consumer(t.Context(), broker.DLQPrefix+"g", "doctor", mode)
			m := d.take(1)[0]
			if want := (&gantryv1.StreamOrigin{Topic: "t", MessageId: got[3].id}); string(m.Body) != "dead" || !proto.Equal(m.origin, want) || m.id != got[3].id {
				t.Errorf("the dead letter is %+v", m)
			}
			d.close()
		}
		c.close()
		p.close()
	})
}

func TestMessageGroupsStayInOrderOverTheStream(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.FIFO, 2)
	f.group(group.Group{Name: record.Resource{Name: "g"}, FIFO: true})
	var pack []byte
	for i := range 12 {
		pack = packed(pack, fmt.Sprint(i), field(record.FieldGroup, fmt.Sprint("k", i%3)))
	}
	f.publisher(context.Background(), 1, "t").good(pack)
	c := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{}))
	next, held := map[string]int{}, map[string]bool{}
	var waiting []message
	frame := func(r *stream.ConsumeResponse) {
		for _, m := range c.messages(&r.Frame) {
			key, _ := m.Properties.Lookup(record.FieldGroup)
			var i int
			fmt.Sscan(string(m.Body), &i)
			if k := string(key); held[k] || i != 3*next[k]+int(k[1]-'0') {
				t.Fatalf("%s of %s came when %d were done, held: %v", m.Body, k, next[k], held[k])
			} else {
				held[k] = true
			}
			waiting = append(waiting, m)
		}
	}
	for range 12 {
		for len(waiting) == 0 {
			frame(c.receive())
		}
		m := waiting[0]
		waiting = waiting[1:]
		key, _ := m.Properties.Lookup(record.FieldGroup)
		next[string(key)]++
		held[string(key)] = false
		c.done(gantryv1.SettleAction_SETTLE_ACK, m)
	}
}

func TestDelayedAndCommittedMessagesReachAStreamThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Mixed, 1)
		p := f.publisher(t.Context(), 1, "t")
		var all []*consumer
		for _, mode := range []func(*gantryv1.Subscribe){earliest(), leases(&gantryv1.LeaseMode{})} {
			all = append(all, f.consumer(t.Context(), "t", "g", mode))
		}
		began := time.Now()
		pack := packed(nil, "later", func(m *record.Message) { m.DueTime = began.Add(90 * time.Second).UnixMilli() })
		pack = packed(pack, "half", func(m *record.Message) { m.Kind = record.KindHalf })
		r := p.good(pack)
		p.send(&stream.PublishRequest{Other: &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{TransactionId: r.Pending[1].TransactionId, Commit: true}}}})
		p.receive()
		for _, c := range all {
			if m := c.take(1)[0]; string(m.Body) != "half" || m.id != record.PositionID(p.opened.StoreId, record.Position(r.Pending[1].Position)) {
				t.Errorf("%+v", m)
			}
		}
		for _, c := range all {
			m := c.take(1)[0]
			if d := time.Since(began).Round(time.Second); string(m.Body) != "later" || m.offset != 1 || d != 90*time.Second {
				t.Errorf("%+v after %v", m, d)
			}
			c.close()
		}
		p.close()
	})
}

func TestLiteTopicsAreConsumedOverTheStream(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Lite, 1)
	lite := func(pack []byte, name, body string) []byte {
		return packed(pack, body, field(record.FieldLiteTopic, name))
	}
	f.publisher(context.Background(), 1, "t").good(lite(lite(lite(nil, "a", "a1"), "b", "b1"), "a", "a2"))
	c := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{LiteTopics: []string{"a"}}))
	for _, want := range []string{"a1", "a2"} {
		m := c.take(1)
		if string(m[0].Body) != want {
			t.Fatalf("%v, want %s", texts(m), want)
		}
		c.done(gantryv1.SettleAction_SETTLE_ACK, m...)
	}
}

func TestProgressOverUnwantedMessagesIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Normal, 1)
		p := f.publisher(t.Context(), 1, "t")
		c := f.consumer(t.Context(), "t", "", earliest(), tagged("A"))
		p.good(packOf("a", "b", "c"))
		began := time.Now()
		if frame, ms := c.frame(); len(ms) != 0 || frame.NextOffset != 3 || time.Since(began) > streamTouch {
			t.Errorf("%+v after %v", frame, time.Since(began))
		}
		c.close()
		p.close()
	})
}

// A consumer that does not read holds up nobody else, and gets everything when it
// reads on.
func TestASlowReaderHoldsUpNobody(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	slow := f.consumer(context.Background(), "t", "", earliest(), credit(1<<30, 0))
	quick := f.consumer(context.Background(), "t", "", earliest(), credit(1<<30, 0))
	p := f.publisher(context.Background(), 1, "t")
	body := strings.Repeat("x", 1000)
	var bodies []string
	for range 1000 {
		bodies = append(bodies, body)
	}
	pack := packOf(bodies...)
	const packs = 40 // 40 MB: far more than HTTP/2 holds for a stream
	for range packs {
		p.good(pack)
	}
	for _, c := range []*consumer{quick, slow} {
		next := int64(0)
		for next < packs*1000 {
			frame, ms := c.frame()
			for _, m := range ms {
				if m.offset != next {
					t.Fatalf("offset %d after %d", m.offset, next)
				}
				next++
			}
			frame.Buffer.Release()
		}
	}
}

func TestAStoppedStreamSettlesWhatItHas(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(context.Background(), 1, "t")
	p.good(packOf("a"))
	c := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{}))
	got := c.take(1)
	c.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Stop{Stop: &gantryv1.StopConsuming{}}})
	c.settle() // by now the stop has arrived
	p.good(packOf("b"))
	c.done(gantryv1.SettleAction_SETTLE_ACK, got...)
	c.close()
	// Another consumer of the group is told of what came meanwhile.
	if ms := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{})).take(1); string(ms[0].Body) != "b" {
		t.Fatal(texts(ms))
	}
}

func TestAStreamEndsWithItsTopicAndItsServer(t *testing.T) {
	f := start(t, Options{})
	f.topic("gone", topic.Normal, 1)
	f.topic("t", topic.Normal, 1)
	var bereft, all []*consumer
	for _, mode := range []func(*gantryv1.Subscribe){earliest(), leases(&gantryv1.LeaseMode{})} {
		bereft = append(bereft, f.consumer(context.Background(), "gone", "g", mode))
		all = append(all, f.consumer(context.Background(), "t", "g", mode))
	}
	if err := f.broker.DeleteTopic(context.Background(), record.Resource{Name: "gone"}); err != nil {
		t.Fatal(err)
	}
	for _, c := range bereft {
		if r := c.receive(); v2.Code(r.Other.GetStatus().GetCode()) != v2.Code_TOPIC_NOT_FOUND {
			t.Errorf("%v", r)
		}
		if _, err := c.stream.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last word: %v", err)
		}
	}
	if err := f.server.Shutdown(within(context.Background(), t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if _, err := c.stream.Recv(); status.Code(err) != codes.Unavailable {
			t.Errorf("after the shutdown: %v", err)
		}
	}
}

// Who leads next knows what became of what was under way.
func TestStreamsOfANodeThatTakesNoWritesEndWithoutAnAnswer(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Mixed, 1)
	publishing, deciding := f.publisher(context.Background(), 1, "t"), f.publisher(context.Background(), 2, "t")
	half := deciding.publish(packed(nil, "half", func(m *record.Message) { m.Kind = record.KindHalf }))
	publishing.good(packOf("a"))
	settling, reading := f.consumer(context.Background(), "t", "g", leases(&gantryv1.LeaseMode{})), f.consumer(context.Background(), "t", "r", earliest())
	held := settling.take(1)
	reading.take(1)
	if err := f.broker.Close(); err != nil {
		t.Fatal(err)
	}
	publishing.batch(packOf("b"))
	end := &gantryv1.EndTransaction{Id: 1, Topic: &gantryv1.StreamResource{Name: "t"}, TransactionId: half.Pending[0].TransactionId, Commit: true}
	deciding.send(&stream.PublishRequest{Other: &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: end}}})
	settle := &gantryv1.Settle{Id: 1, Entries: []*gantryv1.SettleEntry{{Queue: held[0].queue, Offset: held[0].offset, LeaseId: held[0].lease}}}
	settling.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Settle{Settle: settle}})
	commit := &gantryv1.CommitOffset{Id: 1, Queues: []*gantryv1.QueueOffset{{Offset: 1}}}
	reading.send(&gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Commit{Commit: commit}})
	for name, receive := range map[string]func() (any, error){
		"publish": func() (any, error) { return publishing.stream.Recv() },
		"decide":  func() (any, error) { return deciding.stream.Recv() },
		"settle":  func() (any, error) { return settling.stream.Recv() },
		"commit":  func() (any, error) { return reading.stream.Recv() },
	} {
		if r, err := receive(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v, %v", name, r, err)
		}
	}
}
