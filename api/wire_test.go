package api

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// The requests that are read on the wire format, each with what protobuf's own
// decoder makes of the same bytes. Both are given as text, errors as "refused":
// which fault of several is found first is not part of any contract.
var readers = []struct {
	name       string
	ours, them func([]byte) string
	seeds      []proto.Message
}{
	{
		name: "send",
		ours: func(b []byte) string {
			r := newSendRequest()
			err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(b)})
			defer r.free()
			return describe(r.messages, err)
		},
		them: func(b []byte) string {
			var req v2.SendMessageRequest
			err := proto.Unmarshal(b, &req)
			var out []broker.Outgoing
			for _, m := range req.Messages {
				out = append(out, outgoingByProto(context.Background(), m))
			}
			return describe(out, err)
		},
		seeds: []proto.Message{
			&v2.SendMessageRequest{Messages: []*v2.Message{{}, fullMessage()}},
			&v2.SendMessageRequest{Messages: []*v2.Message{{SystemProperties: &v2.SystemProperties{
				Tag: ptr(""), Keys: []string{"", "k"}, MessageGroup: ptr(""), LiteTopic: ptr("l"), Priority: ptr(int32(-1)),
				DeliveryTimestamp:                   &timestamppb.Timestamp{Seconds: math.MaxInt64, Nanos: -1},
				BornTimestamp:                       &timestamppb.Timestamp{Seconds: -62135596801},
				OrphanedTransactionRecoveryDuration: &durationpb.Duration{Seconds: math.MinInt64, Nanos: math.MinInt32},
				BodyDigest:                          &v2.Digest{Type: v2.DigestType_CRC32, Checksum: "0"},
				DeadLetterQueue:                     &v2.DeadLetterQueue{Topic: "t", MessageId: "m"},
			}}}},
		},
	},
	{
		name: "receive",
		ours: func(b []byte) string {
			var r receiveRequest
			err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(b)})
			return describe(r, err)
		},
		them: func(b []byte) string {
			var req v2.ReceiveMessageRequest
			err := proto.Unmarshal(b, &req)
			span := func(d *durationpb.Duration) timespan {
				return timespan{set: d != nil, seconds: d.GetSeconds(), nanos: d.GetNanos()}
			}
			return describe(receiveRequest{
				group: resource(req.Group), topic: resource(req.GetMessageQueue().GetTopic()), queue: req.GetMessageQueue().GetId(),
				filterType: req.GetFilterExpression().GetType(), filter: req.GetFilterExpression().GetExpression(),
				batch: req.BatchSize, invisible: span(req.InvisibleDuration), polling: span(req.LongPollingTimeout),
				autoRenew: req.AutoRenew, attempt: req.GetAttemptId(),
			}, err)
		},
		seeds: []proto.Message{&v2.ReceiveMessageRequest{
			Group: &v2.Resource{ResourceNamespace: "n", Name: "g"},
			MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}, Id: -1, Permission: v2.Permission_READ,
				Broker:             &v2.Broker{Name: "b", Endpoints: &v2.Endpoints{Scheme: 1, Addresses: []*v2.Address{{Host: "h", Port: 1}}}},
				AcceptMessageTypes: []v2.MessageType{v2.MessageType_NORMAL, v2.MessageType_FIFO}},
			FilterExpression: &v2.FilterExpression{Type: v2.FilterType_SQL, Expression: "a = 1"}, BatchSize: 32, AutoRenew: true,
			InvisibleDuration: durationpb.New(time.Minute), LongPollingTimeout: durationpb.New(20 * time.Second), AttemptId: ptr("attempt"),
		}},
	},
	{
		name: "ack",
		ours: func(b []byte) string {
			r := newAckRequest()
			err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(b)})
			defer r.free()
			return describe(fmt.Sprintf("%q", []any{r.group, r.topic, r.entries}), err)
		},
		them: func(b []byte) string {
			var req v2.AckMessageRequest
			err := proto.Unmarshal(b, &req)
			var entries []broker.AckEntry
			for _, e := range req.Entries {
				entries = append(entries, broker.AckEntry{MessageID: e.GetMessageId(), Handle: e.GetReceiptHandle()})
			}
			return describe(fmt.Sprintf("%q", []any{resource(req.Group), resource(req.Topic), entries}), err)
		},
		seeds: []proto.Message{&v2.AckMessageRequest{
			Group: &v2.Resource{Name: "g"}, Topic: &v2.Resource{ResourceNamespace: "n", Name: "t"},
			Entries: []*v2.AckMessageEntry{{MessageId: "m", ReceiptHandle: "h", LiteTopic: ptr("l")}, {}, {ReceiptHandle: "i"}},
		}},
	},
}

func describe(v any, err error) string {
	if err != nil {
		return "refused"
	}
	if out, ok := v.([]broker.Outgoing); ok {
		out = slices.Clone(out)
		for i := range out { // protobuf's maps have no order
			out[i].User = slices.SortedFunc(slices.Values(out[i].User), func(a, b broker.Property) int { return cmp.Compare(a.Key, b.Key) })
		}
		v = out
	}
	return fmt.Sprintf("%+q", v)
}

func fullMessage() *v2.Message {
	at := time.UnixMilli(1700000000123)
	return &v2.Message{
		Topic: &v2.Resource{ResourceNamespace: "ns", Name: "t"}, UserProperties: map[string]string{"k": "v", "": "", "ü": "ñ"},
		Body: []byte("body"), SystemProperties: &v2.SystemProperties{
			Tag: ptr("tag"), Keys: []string{"a b", "c"}, MessageId: "id", BodyDigest: &v2.Digest{Type: 3, Checksum: "AB"},
			BodyEncoding: v2.Encoding_GZIP, MessageType: v2.MessageType_TRANSACTION,
			BornTimestamp: timestamppb.New(at), BornHost: "host", StoreTimestamp: timestamppb.New(at), StoreHost: "s",
			DeliveryTimestamp: timestamppb.New(at.Add(time.Minute)), ReceiptHandle: ptr("h"), QueueId: 3, QueueOffset: ptr(int64(-1)),
			InvisibleDuration: durationpb.New(time.Second), DeliveryAttempt: ptr(int32(1)), MessageGroup: ptr("mg"), TraceContext: ptr("trace"),
			OrphanedTransactionRecoveryDuration: durationpb.New(1500 * time.Millisecond),
			DeadLetterQueue:                     &v2.DeadLetterQueue{Topic: "t", MessageId: "m"},
			LiteTopic:                           ptr("lite"), Priority: ptr(int32(4)),
		},
	}
}

func TestRequestsAreReadAsProtobufReadsThem(t *testing.T) {
	for _, r := range readers {
		for i, seed := range r.seeds {
			whole := marshal(t, seed)
			if r.ours(whole) == "refused" {
				t.Errorf("%s, seed %d is refused", r.name, i)
			}
			for n := range len(whole) + 1 {
				if ours, them := r.ours(whole[:n]), r.them(whole[:n]); ours != them {
					t.Errorf("%s, seed %d cut at %d of %d:\nours %s\nthem %s", r.name, i, n, len(whole), ours, them)
				}
			}
			for bit := range len(whole) * 8 {
				bad := bytes.Clone(whole)
				bad[bit/8] ^= 1 << (bit % 8)
				if ours, them := r.ours(bad), r.them(bad); ours != them {
					t.Errorf("%s, seed %d, bit %d of byte %d:\nours %s\nthem %s", r.name, i, bit%8, bit/8, ours, them)
				}
			}
			// Protobuf merges what comes twice, and passes over what it does not know.
			for _, more := range [][]byte{
				whole,
				{0xf8, 0x3f, 1},                      // field 1023, varint
				{0xfd, 0x3f, 1, 2, 3, 4},             // fixed32
				{0xf9, 0x3f, 1, 2, 3, 4, 5, 6, 7, 8}, // fixed64
				{0xfa, 0x3f, 1, 2},                   // bytes
				{0xfb, 0x3f, 0x08, 1, 0xfc, 0x3f},    // group
				{0xfb, 0x3f, 0x08, 1},                // group without an end
				{0xfb, 0x3f, 0x0c},                   // group with another's end
				{0xfc, 0x3f},                         // end of no group
				{0x0f, 1},                            // no such wire type
				{0x00, 1},                            // field 0
				{0x80, 0x80, 0x80, 0x80, 0x20, 1},    // field beyond the largest
				{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, // tag beyond 64 bits
				{0x0d, 1, 2, 3, 4}, // field 1 of another type
				{0x15, 1, 2, 3, 4}, {0x1d, 1, 2, 3, 4}, {0x25, 1, 2, 3, 4},
				{0x8a, 0x00, 0x00},                   // field 1, its tag in more bytes than needed
				{0x0a, 0x80, 0x80, 0x80, 0x80, 0x00}, // and its length
				{0x12, 0x02, 0x0a, 0x00},
				{0x12, 0x02, 0x12, 0x01}, // cut inside
			} {
				for _, b := range [][]byte{slices.Concat(whole, more), slices.Concat(more, whole)} {
					if ours, them := r.ours(b), r.them(b); ours != them {
						t.Errorf("%s, seed %d and % x:\nours %s\nthem %s", r.name, i, more, ours, them)
					}
				}
			}
		}
	}
}

// Fields of a message in the middle of a request: put more than once, with
// another wire type, packed, with bits above their type's.
func TestFieldsWithinAMessageAreReadAsProtobufReadsThem(t *testing.T) {
	values := map[protowire.Type][][]byte{
		protowire.VarintType: {{0}, {1}, {2}, {4}, {0x80, 0x80, 0x80, 0x80, 0x10}, {0x84, 0x80, 0x80, 0x80, 0x10}, bytes.Repeat([]byte{0xff}, 9),
			append(bytes.Repeat([]byte{0xff}, 9), 1), append(bytes.Repeat([]byte{0xff}, 9), 2)},
		protowire.BytesType: {{0}, {1, 'a'}, {1, 0xff}, {2, 0x08, 1}, {2, 0x10, 1}, {2, 0x08, 0x80}, {3, 0x12, 1, 'b'}, {3, 0x12, 1, 0xff}, {4, 1, 2, 3, 4},
			{2, 0x0a, 0}, {3, 0x0a, 1, 'x'}, {6, 0x0a, 1, 'x', 0x0a, 1, 'y'}, {5}},
		protowire.Fixed32Type: {{1, 2, 3, 4}},
	}
	// Where a field may be: the field numbers that lead to its message.
	for _, r := range readers {
		paths := map[string][][]protowire.Number{
			"send":    {{1}, {1, 1}, {1, 2}, {1, 3}, {1, 3, 4}, {1, 3, 7}, {1, 3, 11}, {1, 3, 19}, {1, 3, 20}},
			"receive": {{}, {1}, {2}, {2, 1}, {2, 4}, {2, 4, 3}, {3}, {5}, {7}},
			"ack":     {{}, {1}, {2}, {3}},
		}[r.name]
		for _, path := range paths {
			for field := protowire.Number(1); field <= 24; field++ {
				for typ, all := range values {
					for _, first := range all {
						for _, second := range [][]byte{nil, first, all[len(all)/2]} {
							var b []byte
							for _, v := range [][]byte{first, second} {
								if v != nil {
									b = append(protowire.AppendTag(b, field, typ), v...)
								}
							}
							for _, n := range slices.Backward(path) {
								b = protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
							}
							if ours, them := r.ours(b), r.them(b); ours != them {
								t.Fatalf("%s, field %d below %v, % x:\nours %s\nthem %s", r.name, field, path, b, ours, them)
							}
						}
					}
				}
			}
		}
	}
}

func TestOfAUserPropertyTheLastCounts(t *testing.T) {
	for _, n := range []int{1, 5, 16, 17, 400} {
		var b []byte
		want := map[string]string{}
		for i := range 3 * n {
			k, v := fmt.Sprint("k", i%n), fmt.Sprint("v", i)
			want[k] = v
			e := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), k)
			e = protowire.AppendString(protowire.AppendTag(e, 2, protowire.BytesType), v)
			b = protowire.AppendBytes(protowire.AppendTag(b, 2, protowire.BytesType), e)
		}
		var r sendRequest
		if err := r.readMessage(b); err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for i, p := range r.messages[0].User {
			got[p.Key] = p.Value
			if p.Key != fmt.Sprint("k", i) {
				t.Fatalf("%d keys: number %d is %q", n, i, p.Key)
			}
		}
		if len(r.messages[0].User) != n || !reflect.DeepEqual(got, want) {
			t.Fatalf("%d keys: %v", n, r.messages[0].User)
		}
	}
}

func TestASendThatCameInPiecesIsReadTheSame(t *testing.T) {
	whole := marshal(t, readers[0].seeds[0])
	want := readers[0].ours(whole)
	for n := range len(whole) + 1 {
		r := newSendRequest()
		err := r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(whole[:n]), mem.SliceBuffer(whole[n:])})
		if got := describe(r.messages, err); got != want {
			t.Fatalf("cut at %d: %s", n, got)
		}
		r.free()
	}
}

func TestASendAliasesItsBuffer(t *testing.T) {
	b := marshal(t, &v2.SendMessageRequest{Messages: []*v2.Message{fullMessage()}})
	buf := &countedPool{}
	data := append(make([]byte, 0, 4096), b...)
	held := mem.NewBuffer(&data, buf)
	r := newSendRequest()
	if err := r.UnmarshalWire(mem.BufferSlice{held}); err != nil {
		t.Fatal(err)
	}
	held.Free() // gRPC's own reference
	if buf.put != 0 {
		t.Fatal("the buffer is gone while the request is in use")
	}
	at := bytes.Index(data, []byte("body"))
	data[at] = 'B'
	if string(r.messages[0].Body) != "Body" {
		t.Error("the body was copied")
	}
	r.free()
	if buf.put != 1 {
		t.Errorf("the buffer came back %d times", buf.put)
	}
}

type countedPool struct{ put int }

func (p *countedPool) Get(int) *[]byte { panic("not asked for") }
func (p *countedPool) Put(*[]byte)     { p.put++ }

func FuzzRequests(f *testing.F) {
	for i, r := range readers {
		for _, seed := range r.seeds {
			f.Add(uint8(i), marshal(f, seed))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		r := readers[int(which)%len(readers)]
		if ours, them := r.ours(b), r.them(b); ours != them {
			t.Fatalf("%s:\nours %s\nthem %s", r.name, ours, them)
		}
	})
}

// sent is what a client gets of a reply.
func sent(t testing.TB, r *reply) *v2.ReceiveMessageResponse {
	t.Helper()
	out, err := r.MarshalWire()
	if err != nil {
		t.Fatal(err)
	}
	resp := new(v2.ReceiveMessageResponse)
	if err := proto.Unmarshal(out.Materialize(), resp); err != nil {
		t.Fatal(err)
	}
	out.Free()
	return resp
}

func TestADeliveryIsWrittenAsProtobufWritesIt(t *testing.T) {
	long := strings.Repeat("x", 16<<10)
	for _, size := range []int{0, 1, 100, 127, 128, 129, 1000, sliceBody - 1, sliceBody, 16 << 10, 1 << 21} {
		for name, change := range map[string]func(*broker.Outgoing){
			"plain":      func(*broker.Outgoing) {},
			"everything": func(o *broker.Outgoing) { *o = outgoing(t, fullMessage()) },
			"long":       func(o *broker.Outgoing) { o.Tag, o.User = long, []broker.Property{{Key: "k", Value: long}} },
			"delay":      func(o *broker.Outgoing) { o.DueTime = 1 },
			"fifo":       func(o *broker.Outgoing) { o.Group = "g" },
		} {
			o := broker.Outgoing{Topic: record.Resource{Name: "t"}, ID: "id", BornHost: "h"}
			change(&o)
			o.Body = bytes.Repeat([]byte("b"), size)
			for _, withSum := range []bool{true, false} {
				d := encode(t, o, withSum)
				if size%2 == 0 {
					d.Origin = &broker.Origin{Topic: "from", MessageID: "mid"}
				}
				want, err := deliveredByProto(&d, "127.0.0.1:8081")
				if err != nil {
					t.Fatal(err)
				}
				r, err := deliver(&d, "127.0.0.1:8081")
				if err != nil {
					t.Fatal(err)
				}
				if got := sent(t, r).GetMessage(); !proto.Equal(got, want) {
					t.Errorf("%s, %d bytes:\ngot  %.500v\nwant %.500v", name, size, got, want)
				}
				if got, err := delivered(&d, "127.0.0.1:8081"); err != nil || !proto.Equal(got, want) {
					t.Errorf("%s, %d bytes, as an object: %.500v, %v", name, size, got, err)
				}
			}
		}
	}
}

func TestADeliveryOfAMalformedRecordIsRefused(t *testing.T) {
	d := encode(t, broker.Outgoing{Body: []byte("x")}, true)
	d.Message.Properties = append(d.Message.Properties, 200)
	if _, err := deliver(&d, ""); err == nil {
		t.Error("malformed properties were delivered")
	}
}

// A large body goes out from the log's mapping, and its view comes back however
// the reply ends.
func TestTheViewBehindAReplyComesBack(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	f.send("t", "id", strings.Repeat("x", sliceBody))
	d, err := f.broker.Receive(t.Context(), broker.ReceiveRequest{
		ClientID: "c", Group: record.Resource{Name: "g"}, Topic: record.Resource{Name: "t"}, Queue: -1, Batch: 1, Invisible: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	views := func() int64 { return f.broker.Stats().Log.Views }
	reply := func() mem.BufferSlice {
		r, err := deliver(&d.Messages[0], "")
		if err != nil {
			t.Fatal(err)
		}
		out, err := r.MarshalWire()
		if err != nil || len(out) != 2 || &out[1].ReadOnlyData()[0] != &d.Messages[0].Message.Body[0] {
			t.Fatalf("%d buffers, %v: the body was copied", len(out), err)
		}
		return out
	}
	freed := reply()
	refs := reply()
	refs.Ref()
	d.Release()
	if n := views(); n != 2 {
		t.Fatalf("%d views for two replies", n)
	}
	freed.Free()
	refs.Free()
	if n := views(); n != 1 {
		t.Fatalf("%d views for a reply that gRPC has not sent yet", n)
	}
	refs.Free()
	if n := views(); n != 0 {
		t.Fatalf("%d views and no reply", n)
	}

	d, err = f.broker.Pull(t.Context(), broker.PullRequest{Group: record.Resource{Name: "g"}, Topic: record.Resource{Name: "t"}, Batch: 1})
	if err != nil {
		t.Fatal(err)
	}
	// With a new reply: where an idle connection still has a pointer to one that it
	// sent, that one is not gone for the collector.
	runtime.GC()
	runtime.GC()
	reply() // and gRPC forgets it
	d.Release()
	for range 1000 {
		if runtime.GC(); views() == 0 {
			return
		}
	}
	t.Error("a reply that was forgotten keeps its view")
}

// FuzzSendAndDeliver takes a message from the wire to a record and back: what
// protobuf reads of the delivery is what it would have written.
func FuzzSendAndDeliver(f *testing.F) {
	for _, seed := range readers[0].seeds {
		f.Add(marshal(f, seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newSendRequest()
		if r.UnmarshalWire(mem.BufferSlice{mem.SliceBuffer(b)}) != nil {
			return
		}
		for _, o := range r.messages {
			if o.BornTime < 0 || o.DueTime < 0 {
				t.Fatalf("times before 1970: %+v", o)
			}
			d := encode(t, o, true)
			want, err := deliveredByProto(&d, "h:1")
			if err != nil {
				t.Fatal(err)
			}
			out, err := deliver(&d, "h:1")
			if err != nil {
				t.Fatal(err)
			}
			if got := sent(t, out).GetMessage(); !proto.Equal(got, want) {
				t.Fatalf("got  %v\nwant %v", got, want)
			}
		}
	})
}

func BenchmarkSendRequest(b *testing.B) {
	m := fullMessage()
	m.Body = bytes.Repeat([]byte("x"), 1024)
	wire := marshal(b, &v2.SendMessageRequest{Messages: []*v2.Message{m}})
	data := mem.BufferSlice{mem.SliceBuffer(wire)}
	b.ReportAllocs()
	for b.Loop() {
		r := newSendRequest()
		if err := r.UnmarshalWire(data); err != nil {
			b.Fatal(err)
		}
		r.free()
	}
}

// What it costs to make a delivery and to have gRPC copy it into its write
// buffer.
func BenchmarkDelivery(b *testing.B) {
	for _, size := range []int{100, 1024, 4096, 16 << 10, 64 << 10} {
		d := encode(b, broker.Outgoing{
			Topic: record.Resource{Name: "t"}, ID: "01A4B1C2D3E4F5060708090A0B0C0D0E0F", Tag: "tag", BornHost: "host",
			Body: bytes.Repeat([]byte("x"), size),
		}, true)
		into := make([]byte, size+1024)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r, err := deliver(&d, "127.0.0.1:8081")
				if err != nil {
					b.Fatal(err)
				}
				out, _ := r.MarshalWire()
				out.CopyTo(into)
				out.Free()
			}
		})
	}
}

// rawCodec sends and receives bytes as they are.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func TestCallsWrittenOnTheWireAreStillTheService(t *testing.T) {
	f := start(t, Options{})
	got := f.server.grpc.GetServiceInfo()[v2.MessagingService_ServiceDesc.ServiceName]
	if got.Metadata != v2.MessagingService_ServiceDesc.Metadata {
		t.Errorf("reflection is told %v", got.Metadata)
	}
	if want := len(v2.MessagingService_ServiceDesc.Methods) + len(v2.MessagingService_ServiceDesc.Streams); len(got.Methods) != want {
		t.Errorf("%d methods, want %d", len(got.Methods), want)
	}
	cc := f.dial()
	malformed := []byte{0x0a, 5, 1}
	for _, method := range []string{
		v2.MessagingService_SendMessage_FullMethodName, v2.MessagingService_AckMessage_FullMethodName, v2.MessagingService_ReceiveMessage_FullMethodName,
		v2.MessagingService_QueryRoute_FullMethodName, // read by protobuf
	} {
		var out []byte
		if err := cc.Invoke(as("c"), method, malformed, &out, grpc.ForceCodecV2(rawCodec{})); status.Code(err) != codes.Internal {
			t.Errorf("%s of malformed bytes: %v", method, err)
		}
		// Who does not say who it is gets a response of the method's own type.
		if err := cc.Invoke(t.Context(), method, []byte{}, &out, grpc.ForceCodecV2(rawCodec{})); err != nil || !bytes.Contains(out, []byte("x-mq-client-id")) {
			t.Errorf("%s without a client id: %q, %v", method, out, err)
		}
	}
}
