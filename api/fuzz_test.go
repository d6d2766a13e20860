package api

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// Calls that nobody's client makes, to every method of both doors of a running
// server. Whatever comes, the answer has a code of the contract that is not the
// server's own fault, nothing panics, and the next client is served.
//
// A call is made of a string of bytes: they choose the method, then, field by field
// along its descriptor, values that are near what the server takes apart (names that
// exist and that must not, handles that were given out, filters, limits and what is
// beyond them), and at last which bits of the encoding are wrong.

// attacked is a server under such calls.
type attacked struct {
	*fixture
	cc      *grpc.ClientConn
	faults  faultLog
	handles []string // of receives, transactions and delayed messages, the newest
	healthy int
	answers map[v2.Code]int // statuses of all answers
}

// tossed are what handles and the like are made of; each is legal somewhere.
var tossed = []string{
	"plain", "fifo", "delay", "tx", "lite", "priority", "mixed", "plain", "plain", "readers", "ordered", "readers",
	"", " ", "nowhere", "%RETRY%readers", "%DLQ%readers", "rmq_sys_x", "TBW102", "../../etc/passwd", "a/b", "a\x00b", "a\r\nlevel=ERROR msg=forged", "\u202egnp", "\x1b[31m",
	"*", "a || b", "a = 1 AND (b LIKE '%x_' ESCAPE '!' OR c IN ('d')) AND e BETWEEN 1 AND 2", "NOT NOT a IS NULL", "((((((((((", "a = 1e999", "'", "TRUE",
	"k v", "UNIQ_KEY", "1%RETRY", "0", "-1", "9223372036854775807", "c", "ü",
}

var names = []string{"plain", "fifo", "delay", "tx", "lite", "priority", "mixed", "readers", "ordered"}

var numbers = []int64{0, 1, -1, 2, 5, 16, 17, 31, 32, 33, 1024, 1025, 65535, 1 << 20, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64, 1_700_000_000, 253402300800, 43200, 43201}

func attack(t testing.TB) *attacked {
	a := &attacked{answers: map[v2.Code]int{}}
	a.fixture = start(t, Options{Logger: slog.New(&a.faults)})
	for name, typ := range map[string]topic.Type{
		"plain": topic.Normal, "fifo": topic.FIFO, "delay": topic.Delay, "tx": topic.Transaction, "lite": topic.Lite, "priority": topic.Priority, "mixed": topic.Mixed, "good": topic.Normal,
	} {
		a.topic(name, typ, 2)
	}
	a.group(group.Group{Name: streamResource(&gantryv1.StreamResource{Name: "readers"})})
	a.group(group.Group{Name: streamResource(&gantryv1.StreamResource{Name: "ordered"}), FIFO: true})
	a.cc = a.dial()
	return a
}

// methods are those of both doors.
func methods() (all []protoreflect.MethodDescriptor) {
	for _, s := range []protoreflect.ServiceDescriptor{
		v2.File_apache_rocketmq_v2_service_proto.Services().ByName("MessagingService"),
		gantryv1.File_gantry_v1_stream_proto.Services().ByName("Streams"),
	} {
		for i := range s.Methods().Len() {
			all = append(all, s.Methods().Get(i))
		}
	}
	return all
}

// call makes the call that b describes and holds its answers against the contract.
func (a *attacked) call(t testing.TB, b []byte) {
	t.Helper()
	src := &tossing{b: b, handles: a.handles}
	all := methods()
	m := all[src.upTo(len(all))]
	requests := 1
	if m.IsStreamingClient() {
		requests = 1 + src.upTo(6)
	}
	var wires [][]byte
	for i := range requests {
		req := emptyMessage(m.Input())
		src.fill(req, 0)
		if m.IsStreamingClient() && i == 0 && src.upTo(8) > 0 { // or most streams would end at their first request
			open(req)
		}
		wire, err := proto.MarshalOptions{AllowPartial: true}.Marshal(req.Interface())
		if err != nil { // a string that is not UTF-8
			wire = slices.Clone(src.rest())
		}
		wires = append(wires, src.damage(wire))
	}
	before := a.faults.count()
	ctx, cancel := context.WithCancel(as("attacker"))
	defer cancel()
	full := fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
	stream, err := a.cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range wires {
		if err := stream.SendMsg(w); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	stream.CloseSend()
	patience := 20 * time.Second // for what must be answered
	polls := m.Name() == "ReceiveMessage" || m.Name() == "PullMessage"
	if polls {
		patience = 20 * time.Millisecond
	}
	defer time.AfterFunc(patience, cancel).Stop()
	for {
		var answer []byte
		err := stream.RecvMsg(&answer)
		if errors.Is(err, io.EOF) {
			break
		}
		if code := status.Code(err); err != nil {
			switch {
			case polls && code == codes.Canceled:
			case code == codes.Internal && strings.Contains(err.Error(), "unmarshal"): // gRPC's answer to bytes that are no request
			case m.IsStreamingClient() && (code == codes.InvalidArgument || code == codes.ResourceExhausted):
			default:
				t.Fatalf("%s % x: %v", full, wires, err)
			}
			break
		}
		a.check(t, full, m, answer)
	}
	if n := a.faults.since(before); len(n) > 0 {
		t.Fatalf("%s % x: the server's log says %q", full, wires, n)
	}
}

// check holds one answer against the contract, and keeps the handles in it.
func (a *attacked) check(t testing.TB, method string, m protoreflect.MethodDescriptor, answer []byte) {
	t.Helper()
	resp := emptyMessage(m.Output())
	if err := proto.Unmarshal(answer, resp.Interface()); err != nil {
		t.Fatalf("%s: an answer that cannot be read: %v", method, err)
	}
	var walk func(protoreflect.Message)
	walk = func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.IsMap():
			case f.IsList() && f.Message() != nil:
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			case f.Message() != nil && !f.IsList():
				walk(v.Message())
			case strings.HasSuffix(string(f.Name()), "handle") || f.Name() == "transaction_id":
				a.handles = append(a.handles, v.String())
				a.handles = a.handles[max(0, len(a.handles)-16):]
			}
			return true
		})
		code, ok := int32(0), false
		switch st := m.Interface().(type) {
		case *v2.Status:
			code, ok = int32(st.Code), true
		case *gantryv1.StreamStatus:
			code, ok = st.Code, true
		}
		if ok && (v2.Code_name[code] == "" || code == int32(v2.Code_CODE_UNSPECIFIED) || code == int32(v2.Code_INTERNAL_SERVER_ERROR)) {
			t.Fatalf("%s: answered with code %d: %v", method, code, m)
		}
		if ok {
			a.answers[v2.Code(code)]++
		}
	}
	walk(resp)
}

// serves has another client send, receive and acknowledge.
func (a *attacked) serves(t testing.TB) {
	t.Helper()
	a.healthy++
	id := fmt.Sprint("healthy", a.healthy)
	name := func(s string) *v2.Resource { return &v2.Resource{Name: s} }
	ctx, cancel := context.WithTimeout(as("honest"), 20*time.Second)
	defer cancel()
	sent, err := a.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{plain("good", id, id)}})
	if err != nil || sent.GetStatus().GetCode() != v2.Code_OK {
		t.Fatalf("send: %v, %v", sent, err)
	}
	r := receiving("good", "honest")
	r.LongPollingTimeout = durationpb.New(10 * time.Second)
	stream, err := a.ReceiveMessage(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			t.Fatalf("message %s did not come: %v", id, err)
		}
		m := resp.GetMessage()
		if m == nil {
			continue
		}
		if string(m.Body) != id {
			t.Fatalf("message %s came for %s", m.Body, id)
		}
		acked, err := a.AckMessage(ctx, &v2.AckMessageRequest{Group: name("honest"), Topic: name("good"), Entries: []*v2.AckMessageEntry{
			{MessageId: id, ReceiptHandle: m.SystemProperties.GetReceiptHandle()},
		}})
		if err != nil || acked.GetStatus().GetCode() != v2.Code_OK {
			t.Fatalf("ack: %v, %v", acked, err)
		}
		return
	}
}

func FuzzCalls(f *testing.F) {
	for i := range methods() {
		f.Add([]byte{byte(i)})
		f.Add(append([]byte{byte(i)}, bytes.Repeat([]byte{9, 1, 77, 3, 200, 0, 5}, 60)...))
	}
	a := attack(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 { // more chooses nothing new
			return
		}
		a.call(t, b)
		a.serves(t)
	})
}

// What make test does of it.
func TestTheServerOutlivesRandomCalls(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	a := attack(t)
	for i := range 800 {
		b := make([]byte, 1+r.IntN(600))
		for j := range b {
			b[j] = byte(r.Uint32())
		}
		a.call(t, b)
		if i%10 == 0 {
			a.serves(t)
		}
	}
	t.Logf("answers: %v", a.answers)
	if a.answers[v2.Code_OK] == 0 || len(a.answers) < 12 {
		t.Errorf("the calls reach nothing: %v", a.answers)
	}
	for begun := time.Now(); a.broker.Stats().Admission.Sends != 0; time.Sleep(time.Millisecond) { // of batches whose stream has ended
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("%+v is under way when nobody sends", a.broker.Stats().Admission)
		}
	}
}

func emptyMessage(d protoreflect.MessageDescriptor) protoreflect.Message {
	return typeOf(d.FullName()).New()
}

// open makes the first request of a stream one that opens it.
func open(m protoreflect.Message) {
	switch r := m.Interface().(type) {
	case *gantryv1.PublishRequest:
		r.Content = &gantryv1.PublishRequest_Open{Open: &gantryv1.PublishOpen{ProducerId: 7, ClientId: "attacker", Topic: &gantryv1.StreamResource{Name: "plain"}}}
	case *gantryv1.ConsumeRequest:
		s := r.GetSubscribe()
		if s == nil {
			s = &gantryv1.Subscribe{Topic: &gantryv1.StreamResource{Name: "plain"}, Mode: &gantryv1.Subscribe_Offsets{Offsets: &gantryv1.OffsetMode{}}}
		}
		s.ClientId = "attacker"
		r.Content = &gantryv1.ConsumeRequest_Subscribe{Subscribe: s}
	}
}

// tossing is the bytes that choose; at their end it chooses the first of everything.
type tossing struct {
	b       []byte
	handles []string
}

func (s *tossing) byte() (v byte) {
	if len(s.b) > 0 {
		v, s.b = s.b[0], s.b[1:]
	}
	return v
}

func (s *tossing) upTo(n int) int { return int(s.byte()) % n }

func (s *tossing) rest() []byte { return s.b }

// fill sets fields of m. Names are mostly ones that exist, and most fields are there.
func (s *tossing) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		if o := f.ContainingOneof(); o != nil && !o.IsSynthetic() {
			continue
		}
		if s.upTo(12) > 0 {
			s.set(m, f, depth)
		}
	}
	oneofs := m.Descriptor().Oneofs()
	for i := range oneofs.Len() {
		if o := oneofs.Get(i); !o.IsSynthetic() {
			if n := s.upTo(o.Fields().Len() + 1); n > 0 {
				s.set(m, o.Fields().Get(n-1), depth)
			}
		}
	}
}

func (s *tossing) set(m protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	switch {
	case depth > 6:
	case f.IsMap():
		for range s.count() {
			v := s.scalar(f.MapValue())
			m.Mutable(f).Map().Set(s.scalar(f.MapKey()).MapKey(), v)
		}
	case f.IsList():
		for range s.count() {
			if f.Message() == nil {
				m.Mutable(f).List().Append(s.scalar(f))
				continue
			}
			s.fill(m.Mutable(f).List().AppendMutable().Message(), depth+1)
		}
	case f.Message() != nil:
		s.fill(m.Mutable(f).Message(), depth+1)
	default:
		m.Set(f, s.scalar(f))
	}
}

// count is how often a field comes.
func (s *tossing) count() int {
	if n := s.upTo(64); n < 60 {
		return max(n-56, 1)
	}
	return []int{0, 129, 1025, 33}[s.upTo(4)]
}

func (s *tossing) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(s.text(f))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes(s.bytes())
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(s.byte()&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(s.upTo(f.Enum().Values().Len()+2)) - 1)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(s.number()))
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(s.number()))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(s.number()))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(s.number()))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(s.number()))
	default:
		return protoreflect.ValueOfInt64(s.number())
	}
}

func (s *tossing) number() int64 {
	switch s.upTo(4) {
	case 0:
		return numbers[s.upTo(len(numbers))]
	case 1:
		return numbers[s.upTo(len(numbers))] + int64(int8(s.byte()))
	}
	return int64(s.byte())
}

func (s *tossing) text(f protoreflect.FieldDescriptor) string {
	field := string(f.Name())
	switch {
	case (f.Name() == "name" || strings.HasSuffix(field, "topic")) && s.upTo(16) > 0:
		return names[s.upTo(len(names))]
	case strings.HasSuffix(field, "namespace") && s.upTo(16) > 0:
		return ""
	case f.Name() == "key" && s.upTo(4) > 0: // of a property
		return string(rune('a' + s.upTo(26)))
	case (strings.HasSuffix(field, "handle") || field == "transaction_id") && len(s.handles) > 0 && s.upTo(6) > 0:
		h := []byte(s.handles[s.upTo(len(s.handles))])
		if s.upTo(3) == 0 && len(h) > 0 {
			h[s.upTo(len(h))] ^= 1 // still ASCII
		}
		return string(h)
	}
	switch s.upTo(32) {
	case 0:
		return strings.Repeat("x", []int{63, 64, 65, 127, 128, 512, 10 << 10, 17 << 10}[s.upTo(8)])
	case 1:
		return strings.Repeat("(", 3000)
	case 2:
		return strings.Repeat("NOT ", 3000) + "a = 1"
	case 3:
		return string(s.take(s.upTo(24))) // mostly no UTF-8
	}
	if s.upTo(2) > 0 {
		return "c"
	}
	return tossed[s.upTo(len(tossed))]
}

func (s *tossing) bytes() []byte {
	switch s.upTo(8) {
	case 0:
		return nil
	case 1:
		return s.take(s.upTo(200))
	case 2:
		return make([]byte, 4<<20+s.upTo(2))
	case 3:
		pack := packOf("a", "b", "c")
		return s.damage(pack)
	case 4:
		return packed(nil, "body", field(9, "x"), property("k", "v"))[s.upTo(8)&^3:]
	case 5, 6:
		return packOf("a", "bb")
	}
	return []byte("body")
}

func (s *tossing) take(n int) []byte {
	n = min(n, len(s.b))
	v := s.b[:n]
	s.b = s.b[n:]
	return slices.Clone(v)
}

// damage changes a few bits, cuts, repeats or leaves wire as it is, mostly.
func (s *tossing) damage(wire []byte) []byte {
	if len(wire) == 0 {
		return wire
	}
	at := int(binary.LittleEndian.Uint16([]byte{s.byte(), s.byte()})) % len(wire)
	switch s.upTo(16) {
	case 1:
		wire[at] ^= 1 << s.upTo(8)
	case 2:
		wire = wire[:at]
	case 3:
		wire = slices.Concat(wire, wire[at:])
	case 4:
		wire = protowire.AppendTag(wire, protowire.Number(1+s.upTo(200)), protowire.Type(s.upTo(8)))
	}
	return wire
}

// faultLog keeps the errors that a server logs: all of them are its own fault.
type faultLog struct {
	mu     sync.Mutex
	faults []string // guarded by mu
}

func (l *faultLog) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelError }
func (l *faultLog) WithAttrs([]slog.Attr) slog.Handler               { return l }
func (l *faultLog) WithGroup(string) slog.Handler                    { return l }

func (l *faultLog) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, text)
	return nil
}

func (l *faultLog) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.faults)
}

func (l *faultLog) since(n int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.faults[n:])
}
