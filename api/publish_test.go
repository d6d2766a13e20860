package api

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
)

func TestPublishedMessagesComeOutOfTheOtherDoorAsTheyWentIn(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Mixed, 4)
	p := f.publisher(context.Background(), 1, "t")
	pack := packed(nil, "plain")
	pack = packed(pack, "everything", field(record.FieldMessageID, "01ID"), field(record.FieldTag, "A"), field(record.FieldKey, "k1"),
		field(record.FieldKey, "k2"), property("p", "v"), property("q", ""), field(record.FieldBornHost, "host"), field(record.FieldTrace, "00-01"),
		func(m *record.Message) { m.Flags = record.FlagGzip })
	r := p.good(pack)
	if len(r.Runs) != 1 || r.Runs[0].Count != 2 || r.Runs[0].Offset != 0 || r.Duplicate {
		t.Fatalf("%v", r)
	}
	_, got := f.receive(as("c"), receiving("t", "g"))
	born := timestamppb.New(time.UnixMilli(1_700_000_000_123))
	base := func(offset int64, body string) *v2.Message {
		return &v2.Message{Topic: &v2.Resource{Name: "t"}, Body: []byte(body), SystemProperties: &v2.SystemProperties{
			BodyEncoding: v2.Encoding_IDENTITY, MessageType: v2.MessageType_NORMAL, BornTimestamp: born, QueueId: int32(r.Runs[0].Queue),
			QueueOffset: proto.Int64(offset), DeliveryAttempt: proto.Int32(1),
		}}
	}
	plain, full := base(0, "plain"), base(1, "everything")
	plain.SystemProperties.MessageId = record.PositionID(p.opened.StoreId, record.Position(r.Runs[0].Position))
	full.UserProperties = map[string]string{"p": "v", "q": ""}
	s := full.SystemProperties
	s.MessageId, s.Tag, s.Keys, s.BornHost, s.TraceContext, s.BodyEncoding = "01ID", ptr("A"), []string{"k1", "k2"}, "host", ptr("00-01"), v2.Encoding_GZIP
	sameMessages(t, got, plain, full)
	if rest := p.close(); len(rest) != 0 {
		t.Errorf("unasked: %v", rest)
	}
}

// What the other door refuses is refused here with the same code, and holds back
// nothing else.
func TestARefusedEntryDoesNotHoldBackTheOthers(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.topic("fifo", topic.FIFO, 1)
	long := func(n int) string { return strings.Repeat("x", n) }
	many := func(m *record.Message) {
		for i := range 129 {
			m.Properties = record.AppendUser(m.Properties, fmt.Sprint("k", i), "v")
		}
	}
	for _, c := range []struct {
		name   string
		topic  string
		body   string
		change []func(*record.Message)
		code   v2.Code
		says   string
	}{
		{"empty body", "t", "", nil, v2.Code_MESSAGE_BODY_EMPTY, "empty"},
		{"body too large", "t", long(4<<20 + 1), nil, v2.Code_MESSAGE_BODY_TOO_LARGE, "4194304"},
		{"too many properties", "t", "b", []func(*record.Message){many}, v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, "128"},
		{"properties too large", "t", "b", []func(*record.Message){property("k", long(16<<10))}, v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, "16384"},
		{"reserved property", "t", "b", []func(*record.Message){property("UNIQ_KEY", "v")}, v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "UNIQ_KEY"},
		{"control character", "t", "b", []func(*record.Message){property("k", "\x00")}, v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, "control"},
		{"tag with a bar", "t", "b", []func(*record.Message){field(record.FieldTag, "a|b")}, v2.Code_ILLEGAL_MESSAGE_TAG, "bar"},
		{"tag without a value", "t", "b", []func(*record.Message){field(record.FieldTag, "")}, v2.Code_BAD_REQUEST, "property 2"},
		{"two tags", "t", "b", []func(*record.Message){field(record.FieldTag, "a"), field(record.FieldTag, "b")}, v2.Code_BAD_REQUEST, "twice"},
		{"blank key", "t", "b", []func(*record.Message){field(record.FieldKey, " ")}, v2.Code_ILLEGAL_MESSAGE_KEY, "key"},
		{"blank id", "t", "b", []func(*record.Message){field(record.FieldMessageID, "")}, v2.Code_ILLEGAL_MESSAGE_ID, "id"},
		{"digest", "t", "b", []func(*record.Message){field(record.FieldSHA1, long(20))}, v2.Code_BAD_REQUEST, "broker's own"},
		{"origin", "t", "b", []func(*record.Message){field(record.FieldOrigin, long(8))}, v2.Code_BAD_REQUEST, "broker's own"},
		{"unknown property", "t", "b", []func(*record.Message){field(11, "x")}, v2.Code_MESSAGE_CORRUPTED, "property field 11"},
		{"unknown flag", "t", "b", []func(*record.Message){func(m *record.Message) { m.Flags = 1 << 15 }}, v2.Code_BAD_REQUEST, "flags"},
		{"a copy", "t", "b", []func(*record.Message){func(m *record.Message) { m.Kind = record.KindCopy }}, v2.Code_BAD_REQUEST, "cannot be sent"},
		{"due in two years", "t", "b", []func(*record.Message){func(m *record.Message) { m.DueTime = time.Now().Add(2 * 366 * 24 * time.Hour).UnixMilli() }}, v2.Code_ILLEGAL_DELIVERY_TIME, broker.DefaultMaxDelay.String()},
		{"ordered to a plain topic", "t", "b", []func(*record.Message){field(record.FieldGroup, "g")}, v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "type"},
		{"plain to a fifo topic", "fifo", "b", nil, v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "type"},
		{"group too long", "fifo", "b", []func(*record.Message){field(record.FieldGroup, long(64))}, v2.Code_ILLEGAL_MESSAGE_GROUP, "63"},
		{"half to a plain topic", "t", "b", []func(*record.Message){func(m *record.Message) { m.Kind = record.KindHalf }}, v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "type"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := f.publisher(context.Background(), 1+uint64(len(c.name)), c.topic)
			p.t = t
			p.last = uint64(time.Now().UnixNano())
			good := func(pack []byte, body string) []byte {
				if c.topic == "fifo" {
					return packed(pack, body, field(record.FieldGroup, "mine"))
				}
				return packed(pack, body)
			}
			pack := good(nil, "before")
			pack = packed(pack, c.body, c.change...)
			pack = good(pack, "after")
			r := p.publish(pack)
			if r.Status != nil || len(r.Refused) != 1 || r.Refused[0].Entry != 1 || v2.Code(r.Refused[0].Status.GetCode()) != c.code || !strings.Contains(r.Refused[0].Status.Message, c.says) {
				t.Fatalf("%v", r)
			}
			if len(r.Runs) != 2 || r.Runs[0].Entry != 0 || r.Runs[1].Entry != 2 || r.Runs[1].Offset != r.Runs[0].Offset+1 {
				t.Fatalf("the others: %v", r.Runs)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			d, err := f.broker.Pull(ctx, broker.PullRequest{Topic: record.Resource{Name: c.topic}, Group: record.Resource{Name: "g"}, Offset: record.QueueOffset(r.Runs[0].Offset), Batch: 32})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Release()
			if len(d.Messages) != 2 || string(d.Messages[0].Message.Body) != "before" || string(d.Messages[1].Message.Body) != "after" || d.Messages[1].ID != record.PositionID(p.opened.StoreId, record.Position(r.Runs[1].Position)) {
				t.Fatalf("stored: %v", d.Messages)
			}
		})
	}
}

func TestABodyThatDoesNotMatchItsChecksumIsRefused(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(context.Background(), 1, "t")
	pack := packOf("first", "second")
	pack[record.Padded(record.SizeOf(pack))+64] ^= 1 // the second's body
	r := p.publish(pack)
	if len(r.Runs) != 1 || r.Runs[0].Count != 1 || len(r.Refused) != 1 || v2.Code(r.Refused[0].Status.Code) != v2.Code_MESSAGE_CORRUPTED {
		t.Fatalf("%v", r)
	}
	if r := p.publish(pack[record.Padded(record.SizeOf(pack)):]); r.Status != nil || len(r.Refused) != 1 || len(r.Runs) != 0 {
		t.Fatalf("a batch of which nothing is left: %v", r)
	}
}

func TestABatchThatIsNoneIsRefusedAsAWhole(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 2)
	p := f.publisher(context.Background(), 1, "t")
	whole := packOf("a", "b")
	for _, c := range []struct {
		name string
		b    stream.Batch
		code v2.Code
	}{
		{"no records", stream.Batch{Sequence: 1, Queue: stream.AnyQueue}, v2.Code_MESSAGE_CORRUPTED},
		{"no records at all", stream.Batch{Sequence: 1, Queue: stream.AnyQueue, Records: []byte("garbage, and more of it than a head is long, to be sure")}, v2.Code_MESSAGE_CORRUPTED},
		{"cut short", stream.Batch{Sequence: 1, Queue: stream.AnyQueue, Records: whole[:len(whole)-1]}, v2.Code_MESSAGE_CORRUPTED},
		{"no sequence", stream.Batch{Queue: stream.AnyQueue, Records: whole}, v2.Code_BAD_REQUEST},
		{"no such queue", stream.Batch{Sequence: 1, Queue: 2, Records: whole}, v2.Code_BAD_REQUEST},
		{"no such topic", stream.Batch{Sequence: 1, Topic: "nowhere", Queue: stream.AnyQueue, Records: whole}, v2.Code_TOPIC_NOT_FOUND},
		{"no topic", stream.Batch{Sequence: 1, Topic: "a b", Queue: stream.AnyQueue, Records: whole}, v2.Code_ILLEGAL_TOPIC},
		{"too large", stream.Batch{Sequence: 1, Queue: stream.AnyQueue, Records: make([]byte, broker.MaxPackBytes+8)}, v2.Code_MESSAGE_BODY_TOO_LARGE},
	} {
		c.b.Buffer = stream.GetBuffer(len(c.b.Records))
		c.b.Buffer.B = append(c.b.Buffer.B, c.b.Records...)
		c.b.Records = c.b.Buffer.B
		p.send(&stream.PublishRequest{Batch: c.b})
		r := p.receive().GetResult()
		if v2.Code(r.GetStatus().GetCode()) != c.code || r.Status.Message == "" || len(r.Runs)+len(r.Refused) > 0 {
			t.Errorf("%s: %v", c.name, r)
		}
	}
	if r := p.good(whole); r.Runs[0].Count != 2 || r.Runs[0].Offset != 0 {
		t.Fatalf("after all that: %v", r)
	}
}

func TestAStreamThatBreaksTheContractIsEnded(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	other := func(r *gantryv1.PublishRequest) *stream.PublishRequest { return &stream.PublishRequest{Other: r} }
	open := &gantryv1.PublishOpen{ProducerId: 1, ClientId: "c"}
	for name, c := range map[string]struct {
		send []*stream.PublishRequest
		code codes.Code
	}{
		"no open":     {[]*stream.PublishRequest{other(&gantryv1.PublishRequest{})}, codes.InvalidArgument},
		"no producer": {[]*stream.PublishRequest{other(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{ClientId: "c"}}})}, codes.InvalidArgument},
		"no client":   {[]*stream.PublishRequest{other(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{ProducerId: 1}}})}, codes.InvalidArgument},
		"open twice":  {[]*stream.PublishRequest{other(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: open}}), other(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: open}})}, codes.InvalidArgument},
		"empty":       {[]*stream.PublishRequest{other(&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Open{Open: open}}), other(&gantryv1.PublishRequest{})}, codes.InvalidArgument},
	} {
		st, err := f.dialPublish(within(context.Background(), t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range c.send {
			if err := st.SendMsg(r); err != nil {
				t.Fatal(err)
			}
		}
		for err == nil {
			_, err = st.Recv()
		}
		if status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMoreInFlightThanTheWindowEndsTheStream(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(within(context.Background(), t, 60*time.Second), 1, "t")
	// Answers are not read, and so not written for long: HTTP/2 holds them back.
	pack := packOf("x")
	var err error
	for i := uint64(1); err == nil && i < 100_000; i++ {
		b := stream.GetBuffer(len(pack))
		b.B = append(b.B, pack...)
		err = p.stream.SendMsg(&stream.PublishRequest{Batch: stream.Batch{Sequence: i, Queue: stream.AnyQueue, Records: b.B, Buffer: b}})
		b.Release()
	}
	for err = nil; err == nil; {
		_, err = p.stream.Recv()
	}
	// Without HTTP/2 who goes on for a second without listening is cut off unheard.
	if code := status.Code(err); code != codes.ResourceExhausted && !(f.plain && code == codes.Unknown) {
		t.Fatal(err)
	}
}

func TestABatchSentTwiceIsStoredOnceAndAnsweredAlike(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Mixed, 3)
	p := f.publisher(context.Background(), 77, "t")
	pack := packOf("a", "b")
	pack = packed(pack, "", field(record.FieldTag, "refused"))
	pack = packed(pack, "c", field(record.FieldGroup, "m"))
	pack = packed(pack, "later", func(m *record.Message) { m.DueTime = time.Now().Add(time.Hour).UnixMilli() })
	pack = packed(pack, "half", func(m *record.Message) { m.Kind = record.KindHalf })
	first := p.publish(pack)
	if len(first.Refused) != 1 || len(first.Pending) != 2 || first.Pending[0].RecallHandle == "" || first.Pending[1].TransactionId == "" || first.Duplicate {
		t.Fatalf("%v", first)
	}
	first.Duplicate = true
	check := func(p *publisher) {
		t.Helper()
		p.again(1, pack)
		if r := p.receive().GetResult(); !proto.Equal(r, first) {
			t.Fatalf("got  %v\nwant %v", r, first)
		}
	}
	check(p)
	check(f.publisher(context.Background(), 77, "t"))
	if other := f.publisher(context.Background(), 78, "t").publish(pack); other.Duplicate {
		t.Fatal("another producer's batch was taken for it")
	}
	if _, got := f.receive(as("c"), receiving("t", "g")); len(got) != 6 {
		t.Fatalf("received %v", bodies(got))
	}
}

func TestHalfAndDelayedMessagesAreDecidedOverTheStream(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Mixed, 1)
	p := f.publisher(context.Background(), 1, "t")
	half := func(m *record.Message) { m.Kind = record.KindHalf }
	pack := packed(nil, "committed", half)
	pack = packed(pack, "rolled back", half)
	pack = packed(pack, "recalled", func(m *record.Message) { m.DueTime = time.Now().Add(time.Hour).UnixMilli() })
	r := p.good(pack)
	if len(r.Runs) != 0 || len(r.Pending) != 3 {
		t.Fatalf("%v", r)
	}
	for i, want := range []struct {
		request *gantryv1.PublishRequest
		code    v2.Code
	}{
		{&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{TransactionId: r.Pending[0].TransactionId, Commit: true}}}, 0},
		{&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{TransactionId: r.Pending[0].TransactionId}}}, v2.Code_PRECONDITION_FAILED},
		{&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{TransactionId: r.Pending[1].TransactionId}}}, 0},
		{&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{TransactionId: "made up"}}}, v2.Code_INVALID_TRANSACTION_ID},
		{&gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_Recall{Recall: &gantryv1.RecallMessage{RecallHandle: r.Pending[2].RecallHandle}}}, 0},
	} {
		if e := want.request.GetEnd(); e != nil {
			e.Id = uint64(i)
		} else {
			want.request.GetRecall().Id = uint64(i)
		}
		p.send(&stream.PublishRequest{Other: want.request})
		d := p.receive().GetDone()
		if d.GetId() != uint64(i) || v2.Code(d.GetStatus().GetCode()) != want.code {
			t.Errorf("request %d: %v", i, d)
		}
	}
	if _, got := f.receive(as("c"), receiving("t", "g")); len(got) != 1 || string(got[0].Body) != "committed" ||
		got[0].SystemProperties.MessageId != record.PositionID(p.opened.StoreId, record.Position(r.Pending[0].Position)) {
		t.Fatalf("received %v", got)
	}
}

func TestAPublisherIsAskedAboutItsTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("t", topic.Transaction, 1)
		p := f.publisher(t.Context(), 1, "t")
		r := p.good(packed(nil, "body", field(record.FieldTag, "A"), func(m *record.Message) { m.Kind = record.KindHalf }))
		c := p.receive().GetCheck()
		id := record.PositionID(p.opened.StoreId, record.Position(r.Pending[0].Position))
		if c.GetTransactionId() != r.Pending[0].TransactionId || c.Topic.GetName() != "t" || c.MessageId != id {
			t.Fatalf("%v", c)
		}
		rec, _, err := record.CutMessage(c.Record)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := record.ParseMessage(rec); err != nil || string(m.Body) != "body" || m.Kind != record.KindHalf || m.VerifyBody() != nil || record.Verify(rec) != nil {
			t.Fatalf("%v, %v", m, err)
		}
		p.send(&stream.PublishRequest{Other: &gantryv1.PublishRequest{Content: &gantryv1.PublishRequest_End{End: &gantryv1.EndTransaction{TransactionId: c.TransactionId, Commit: true}}}})
		if d := p.receive().GetDone(); d == nil || d.Status != nil {
			t.Fatalf("%v", d)
		}
		if _, got := f.receive(as("c"), receiving("t", "g")); len(got) != 1 {
			t.Fatalf("received %v", got)
		}
		p.close()
	})
}

// Every batch that was in flight when the server began to shut down is answered,
// or stored once when it is sent again.
func TestShutdownLosesNoBatchAndStoresNoneTwice(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	p := f.publisher(context.Background(), 1, "t")
	sent, under := make(chan uint64), make(chan struct{})
	go func() {
		var n uint64
		defer func() { sent <- n }()
		for ; n < 1_000_000; n++ {
			b := stream.GetBuffer(4096)
			b.B = packed(b.B, fmt.Sprint(n+1))
			err := p.stream.SendMsg(&stream.PublishRequest{Batch: stream.Batch{Sequence: n + 1, Queue: stream.AnyQueue, Records: b.B, Buffer: b}})
			b.Release()
			if err != nil {
				return
			}
			if n == 100 {
				close(under)
			}
			if n%16 == 15 { // what the window has room for, at worst
				for range 16 {
					if _, err := p.stream.Recv(); err != nil {
						n++
						return
					}
				}
			}
		}
	}()
	<-under
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := f.server.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	last := <-sent
	for sequence := uint64(1); sequence <= last; sequence++ {
		pub, err := f.broker.Publish(context.Background(), &broker.Pack{Producer: 1, Sequence: sequence, Topic: record.Resource{Name: "t"}, Queue: -1, Records: [][]byte{packOf(fmt.Sprint(sequence))}})
		if status := broker.ReasonOf(err); err != nil && status == broker.PreconditionFailed {
			continue // older than what is remembered, and answered long ago
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pub.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	st, err := f.broker.TopicStatus(record.Resource{Name: "t"})
	if err != nil || st.Queues[0].Max != record.QueueOffset(last) {
		t.Fatalf("%d messages were sent, %v are stored, %v", last, st.Queues, err)
	}
}
