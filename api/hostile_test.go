package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/stream"
)

// What somebody tries who means harm. One server is tried with one kind after the other;
// after each it serves an honest client, logs no fault of its own, and holds no more
// memory and goroutines than before. With -v the test prints the table of
// docs/reliability.md.

// heldAtMost is how much more heap may be in use after a kind than before the first:
// what the tests hold themselves, and what pools and tables of clients keep.
const heldAtMost = 45 << 20

// tries counts what came back of one kind of bad input.
type tries struct {
	mu   sync.Mutex
	came map[string]int // guarded by mu
}

func (s *tries) add(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.came[what]++
}

// answer notes a messaging answer and returns its code.
func (s *tries) answer(r withStatus, err error) v2.Code {
	if err != nil {
		s.add("gRPC " + status.Code(err).String())
		return 0
	}
	s.add(r.GetStatus().GetCode().String())
	return r.GetStatus().GetCode()
}

func (s *tries) row(kind string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	n := 0
	for _, k := range slices.Sorted(maps.Keys(s.came)) {
		n += s.came[k]
		all = append(all, fmt.Sprintf("%d %s", s.came[k], k))
	}
	return fmt.Sprintf("| %s | %d | %s |", kind, n, strings.Join(all, ", "))
}

func TestNothingGetsInAndNothingFallsOver(t *testing.T) {
	a := attack(t)
	a.serves(t)
	heap, goroutines := held()
	rows := []string{"| what is tried | times | what comes back |", "| --- | --- | --- |"}
	for _, k := range []struct {
		name string
		try  func(*testing.T, *attacked, *tries)
	}{
		{"receipt handles forged, cut, longer, of another topic, another group, used again", tryHandles},
		{"hostile names of topics, groups and clients", tryNames},
		{"names that are not UTF-8, on the wire", tryInvalidUTF8},
		{"property bombs: number and size, at and over the limits", tryProperties},
		{"header bombs, endless and compressed", tryHeaders},
		{"deep and long SQL", trySQL},
		{"streams reset at once", tryResets},
		{"floods of pings, settings and empty frames", tryFloods},
		{"readers that never read", trySlowReaders},
		{"garbage on the port, behind every way to begin", tryGarbage},
		{"connections half open, half closed or silent", tryHalfOpen},
	} {
		s := &tries{came: map[string]int{}}
		if !t.Run(k.name, func(t *testing.T) { k.try(t, a, s) }) { // its connections are closed now
			continue
		}
		a.serves(t)
		if n := a.faults.since(0); len(n) > 0 {
			t.Fatalf("%s: the server's log says %q", k.name, n[:min(len(n), 5)])
		}
		a.settles(t, k.name, heap, goroutines)
		rows = append(rows, s.row(k.name))
	}
	t.Log("\n" + strings.Join(rows, "\n"))
}

func held() (heap uint64, goroutines int) {
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, runtime.NumGoroutine()
}

// settles waits until nothing is held that was not before.
func (a *attacked) settles(t *testing.T, after string, heap uint64, goroutines int) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		h, g := held()
		if h < heap+heldAtMost && g < goroutines+64 {
			return
		}
		if time.Since(begun) > 20*time.Second {
			t.Fatalf("after %s, %d bytes and %d goroutines are held, %d and %d were before", after, h, g, heap, goroutines)
		}
	}
}

func resourceNamed(s string) *v2.Resource { return &v2.Resource{Name: s} }

// one receives one message of a topic.
func (a *attacked) one(t *testing.T, topic, group string) *v2.Message {
	t.Helper()
	a.send(topic, "id", "body")
	_, got := a.receive(as("owner"), receiving(topic, group))
	if len(got) == 0 {
		t.Fatal("nothing is received")
	}
	return got[0]
}

func tryHandles(t *testing.T, a *attacked, s *tries) {
	m := a.one(t, "plain", "readers")
	good := m.SystemProperties.GetReceiptHandle()
	ack := func(topic, group, handle string) v2.Code {
		r, err := a.AckMessage(as("thief"), &v2.AckMessageRequest{Group: resourceNamed(group), Topic: resourceNamed(topic), Entries: []*v2.AckMessageEntry{{MessageId: "id", ReceiptHandle: handle}}})
		return s.answer(r, err)
	}
	change := func(topic, group, handle string) v2.Code {
		r, err := a.ChangeInvisibleDuration(as("thief"), &v2.ChangeInvisibleDurationRequest{
			Group: resourceNamed(group), Topic: resourceNamed(topic), ReceiptHandle: handle, MessageId: "id", InvisibleDuration: durationpb.New(30 * time.Second)})
		return s.answer(r, err)
	}
	bury := func(topic, group, handle string) v2.Code {
		r, err := a.ForwardMessageToDeadLetterQueue(as("thief"), &v2.ForwardMessageToDeadLetterQueueRequest{
			Group: resourceNamed(group), Topic: resourceNamed(topic), ReceiptHandle: handle, MessageId: "id", MaxDeliveryAttempts: 16, DeliveryAttempt: 1})
		return s.answer(r, err)
	}
	bad := []struct{ topic, group, handle string }{
		{"good", "readers", good}, {"plain", "ordered", good}, {"plain", "strangers", good},
		{"plain", "readers", ""}, {"plain", "readers", good + good}, {"plain", "readers", strings.Repeat("x", 10<<10)}, {"plain", "readers", strings.ToUpper(good) + "="},
	}
	for i := range good {
		flipped := []byte(good)
		flipped[i] ^= 1
		bad = append(bad, struct{ topic, group, handle string }{"plain", "readers", string(flipped)})
		bad = append(bad, struct{ topic, group, handle string }{"plain", "readers", good[:i]})
	}
	for _, b := range bad {
		for what, call := range map[string]func(topic, group, handle string) v2.Code{"ack": ack, "change": change, "dead letter": bury} {
			if call(b.topic, b.group, b.handle) == v2.Code_OK {
				t.Errorf("%s of %q by %s on %s is OK", what, b.handle, b.group, b.topic)
			}
		}
	}
	for _, id := range []string{good, "", "x", strings.Repeat("A", 10<<10)} {
		r, err := a.EndTransaction(as("thief"), &v2.EndTransactionRequest{Topic: resourceNamed("tx"), MessageId: "id", TransactionId: id, Resolution: v2.TransactionResolution_COMMIT})
		if s.answer(r, err) == v2.Code_OK {
			t.Errorf("transaction %q is committed", id)
		}
		recalled, err := a.RecallMessage(as("thief"), &v2.RecallMessageRequest{Topic: resourceNamed("delay"), RecallHandle: id})
		if s.answer(recalled, err) == v2.Code_OK {
			t.Errorf("message %q is recalled", id)
		}
	}
	if code := ack("plain", "readers", good); code != v2.Code_OK { // nothing of the above has settled it
		t.Errorf("the good handle: %v", code)
	}
	// Used again it settles nothing: the next message is still there to be had.
	for range 10 {
		ack("plain", "readers", good)
		if bury("plain", "readers", good) == v2.Code_OK || change("plain", "readers", good) == v2.Code_OK {
			t.Error("a handle that was used extends or buries something")
		}
	}
}

// hostileNames are no names of anything.
var hostileNames = []string{
	"../../etc/passwd", "/etc/passwd", "..", ".", "a/b", `a\b`, "C:", "a\x00b", "\x00", "a\nb", "a\r\nlevel=ERROR msg=forged", "\x1b[31m", "\x1b]0;title\x07", "\x7f",
	" ", "", "a b", "ü", "\u202egnp", "\u0000", "topic\u200b", "*", "a*",
	"~other", "$SYS", "<script>alert(1)</script>", "'; DROP TABLE topics; --", "{{7*7}}", "${jndi:ldap://x}", strings.Repeat("x", 10<<10), strings.Repeat("ü", 5<<10), strings.Repeat("../", 1000),
}

func tryNames(t *testing.T, a *attacked, s *tries) {
	topics, groups := len(a.broker.Topics()), len(a.broker.Groups())
	ctx := within(as("namer"), t, 20*time.Second)
	for _, n := range hostileNames {
		m := plain("", "id", "body")
		m.Topic = resourceNamed(n)
		sent, err := a.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{m}})
		if s.answer(sent, err) == v2.Code_OK {
			t.Errorf("a message is sent to %q", n)
		}
		route, err := a.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: resourceNamed(n)})
		if s.answer(route, err) == v2.Code_OK {
			t.Errorf("there is a route to %q", n)
		}
		for _, r := range []*v2.ReceiveMessageRequest{receiving(n, "readers"), receiving("plain", n)} {
			st, _ := a.receive(ctx, r)
			if s.answer(&v2.HeartbeatResponse{Status: st}, nil) == v2.Code_OK {
				t.Errorf("%v receives from %v", r.Group, r.MessageQueue.Topic)
			}
		}
		_, err = a.admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: n, Queues: 1})
		s.add("gRPC " + status.Code(err).String())
		if err == nil {
			t.Errorf("topic %q is made", n)
		}
		beat, err := a.Heartbeat(ctx, &v2.HeartbeatRequest{ClientType: v2.ClientType_SIMPLE_CONSUMER, Group: resourceNamed(n)})
		s.answer(beat, err) // a heartbeat makes nothing
	}
	if len(a.broker.Topics()) != topics || len(a.broker.Groups()) != groups {
		t.Errorf("there are %d topics and %d groups now, %d and %d before", len(a.broker.Topics()), len(a.broker.Groups()), topics, groups)
	}
	for _, n := range []string{"%RETRY%readers", "%DLQ%readers", "%RETRY%", "%DLQ%", "%", "|", "rmq_sys_x", "rmq_sys_", "SCHEDULE_TOPIC_XXXX", "TBW102", "RMQ_SYS_TRANS_HALF_TOPIC"} { // the first are spelled as names are
		sent, err := a.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{plain(n, "id", "body")}})
		if s.answer(sent, err) == v2.Code_OK {
			t.Errorf("a message is sent to %q", n)
		}
	}
	for _, id := range hostileNames { // HTTP/2 lets none of those with control characters through
		if _, code := a.rawCall(t, v2.MessagingService_SendMessage_FullMethodName, oneMessage(t, "plain"), hpack.HeaderField{Name: headerClientID, Value: id}); code != "" {
			s.add("as a client: " + code)
		}
	}
}

func oneMessage(t testing.TB, topic string) []byte {
	t.Helper()
	b, err := proto.Marshal(&v2.SendMessageRequest{Messages: []*v2.Message{plain(topic, "id", "body")}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func tryInvalidUTF8(t *testing.T, a *attacked, s *tries) {
	cc := a.dial()
	for _, bad := range []string{"\xff", "a\xc0\xafb", "\xed\xa0\x80", "\xf4\x90\x80\x80", "plain\x80"} {
		name := protowire.AppendString(protowire.AppendTag(nil, 2, protowire.BytesType), bad)
		wrap := func(field protowire.Number, b []byte) []byte {
			return protowire.AppendBytes(protowire.AppendTag(nil, field, protowire.BytesType), b)
		}
		inTopic := wrap(1, name)
		for method, wire := range map[string][]byte{
			v2.MessagingService_SendMessage_FullMethodName:             wrap(1, slices.Concat(inTopic, wrap(5, []byte("body")))),
			v2.MessagingService_AckMessage_FullMethodName:              slices.Concat(wrap(1, name), wrap(2, name)),
			v2.MessagingService_QueryRoute_FullMethodName:              inTopic,
			v2.MessagingService_QueryAssignment_FullMethodName:         inTopic,
			v2.MessagingService_Heartbeat_FullMethodName:               wrap(1, name),
			v2.MessagingService_ChangeInvisibleDuration_FullMethodName: slices.Concat(wrap(1, name), wrap(2, name)),
		} {
			var answer []byte
			err := cc.Invoke(within(as("namer"), t, 20*time.Second), method, wire, &answer, grpc.ForceCodecV2(rawCodec{}))
			if err != nil {
				s.add("gRPC " + status.Code(err).String())
				continue
			}
			st, _ := protowire.ConsumeBytes(fieldOf(answer, 1))
			code, _ := protowire.ConsumeVarint(fieldOf(st, 1))
			s.add(v2.Code(code).String())
			if v2.Code(code) == v2.Code_OK {
				t.Errorf("%s of %q is OK", method, bad)
			}
		}
	}
}

// fieldOf is the value of the first field with that number.
func fieldOf(b []byte, want protowire.Number) []byte {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil
		}
		m := protowire.ConsumeFieldValue(num, typ, b[n:])
		if m < 0 || num == want {
			return b[n:]
		}
		b = b[n+m:]
	}
	return nil
}

func tryProperties(t *testing.T, a *attacked, s *tries) {
	numbered := func(n int) map[string]string {
		p := map[string]string{}
		for i := range n {
			p[fmt.Sprint("k", i)] = "v"
		}
		return p
	}
	sized := func(n int) map[string]string { return map[string]string{"k": strings.Repeat("v", n-1)} }
	keys := func(n, size int) []string { return slices.Repeat([]string{strings.Repeat("k", size)}, n) }
	for _, c := range []struct {
		name string
		good bool
		set  func(*v2.Message)
	}{
		{"128", true, func(m *v2.Message) { m.UserProperties = numbered(128) }},
		{"129", false, func(m *v2.Message) { m.UserProperties = numbered(129) }},
		{"100,000", false, func(m *v2.Message) { m.UserProperties = numbered(100_000) }},
		{"16 KiB", true, func(m *v2.Message) { m.UserProperties = sized(16 << 10) }},
		{"a byte more", false, func(m *v2.Message) { m.UserProperties = sized(16<<10 + 1) }},
		{"5 MiB", false, func(m *v2.Message) { m.UserProperties = sized(5 << 20) }},
		{"a key of 5 MiB", false, func(m *v2.Message) { m.UserProperties = map[string]string{strings.Repeat("k", 8<<20): "v"} }},
		{"a million keys", false, func(m *v2.Message) { m.SystemProperties.Keys = keys(1_000_000, 1) }},
		{"an id of 1 MiB", false, func(m *v2.Message) { m.SystemProperties.MessageId = strings.Repeat("i", 1<<20) }},
		{"a host of 1 MiB", false, func(m *v2.Message) { m.SystemProperties.BornHost = strings.Repeat("h", 1<<20) }},
		{"a trace of 1 MiB", false, func(m *v2.Message) { m.SystemProperties.TraceContext = ptr(strings.Repeat("t", 1<<20)) }},
	} {
		m := plain("plain", "id", "body")
		c.set(m)
		r, err := a.SendMessage(within(as("bomber"), t, 20*time.Second), &v2.SendMessageRequest{Messages: []*v2.Message{m}})
		if code := s.answer(r, err); (code == v2.Code_OK) != c.good {
			t.Errorf("properties, %s: %v, %v", c.name, r.GetStatus(), err)
		}
	}
	// Groups in groups that no message has, and fields that never end.
	deep := slices.Concat(bytes.Repeat([]byte{0xfb, 0x0f}, 100_000), bytes.Repeat([]byte{0xfc, 0x0f}, 100_000))
	for _, wire := range [][]byte{deep, deep[:len(deep)/2], bytes.Repeat([]byte{0xff}, 1<<20), bytes.Repeat([]byte{0x0a, 0x00}, 500_000)} {
		for _, method := range []string{v2.MessagingService_SendMessage_FullMethodName, v2.MessagingService_Heartbeat_FullMethodName, v2.MessagingService_AckMessage_FullMethodName} {
			var answer []byte
			err := a.cc.Invoke(within(as("bomber"), t, 20*time.Second), method, wire, &answer, grpc.ForceCodecV2(rawCodec{}))
			if err != nil {
				s.add("gRPC " + status.Code(err).String())
				continue
			}
			st, _ := protowire.ConsumeBytes(fieldOf(answer, 1))
			code, _ := protowire.ConsumeVarint(fieldOf(st, 1))
			s.add(v2.Code(code).String())
		}
	}
}

// rawConn speaks HTTP/2 frame by frame.
type rawConn struct {
	net.Conn
	*http2.Framer
	headers bytes.Buffer
	encoder *hpack.Encoder
	next    uint32
}

func (a *attacked) rawHTTP2(t testing.TB, settings ...http2.Setting) *rawConn {
	t.Helper()
	c, err := net.Dial("tcp", a.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	r := &rawConn{Conn: c, Framer: http2.NewFramer(c, c), next: 1}
	r.encoder = hpack.NewEncoder(&r.headers)
	r.Framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	r.AllowIllegalWrites = true
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	r.WriteSettings(settings...)
	return r
}

func (r *rawConn) block(method string, more ...hpack.HeaderField) []byte {
	r.headers.Reset()
	for _, h := range slices.Concat([]hpack.HeaderField{
		{Name: ":method", Value: "POST"}, {Name: ":scheme", Value: "http"}, {Name: ":path", Value: method}, {Name: ":authority", Value: "x"},
		{Name: "content-type", Value: "application/grpc"}, {Name: "te", Value: "trailers"},
	}, more) {
		r.encoder.WriteField(h)
	}
	return bytes.Clone(r.headers.Bytes())
}

// open writes a call's headers and, if there is one, its only message.
func (r *rawConn) open(method string, message []byte, more ...hpack.HeaderField) (stream uint32, err error) {
	stream = r.next
	r.next += 2
	block := r.block(method, more...)
	for first := true; first || len(block) > 0; first = false {
		part := block[:min(len(block), 16<<10)]
		block = block[len(part):]
		if first {
			err = r.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: part, EndHeaders: len(block) == 0})
		} else {
			err = r.WriteContinuation(stream, len(block) == 0, part)
		}
		if err != nil {
			return stream, err
		}
	}
	if message != nil {
		n := len(message)
		err = r.WriteData(stream, true, append([]byte{0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, message...))
	}
	return stream, err
}

// outcome reads until the stream or the connection ends.
func (r *rawConn) outcome(stream uint32) (message []byte, how string) {
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return message, "connection closed"
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if f.StreamID == stream && len(f.Data()) > 5 {
				message = bytes.Clone(f.Data()[5:])
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == stream && f.StreamEnded() {
				for _, h := range f.Fields {
					if h.Name == "grpc-status" && h.Value != "0" {
						return message, "gRPC status " + h.Value
					}
				}
				return message, ""
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == stream {
				return message, "reset: " + f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return message, "connection closed: " + f.ErrCode.String()
		}
	}
}

// rawCall makes a call with headers that gRPC's own client would not send. The code is
// the contract's if there is one.
func (a *attacked) rawCall(t testing.TB, method string, message []byte, more ...hpack.HeaderField) (answer []byte, how string) {
	t.Helper()
	r := a.rawHTTP2(t)
	defer r.Close()
	id, err := r.open(method, message, more...)
	if err != nil {
		return nil, "connection closed"
	}
	answer, how = r.outcome(id)
	if how == "" {
		st, _ := protowire.ConsumeBytes(fieldOf(answer, 1))
		code, _ := protowire.ConsumeVarint(fieldOf(st, 1))
		how = v2.Code(code).String()
	}
	return answer, how
}

func tryHeaders(t *testing.T, a *attacked, s *tries) {
	const method = v2.MessagingService_SendMessage_FullMethodName
	me := hpack.HeaderField{Name: headerClientID, Value: "bomber"}
	var many []hpack.HeaderField
	for i := range 20_000 {
		many = append(many, hpack.HeaderField{Name: fmt.Sprint("x-", i), Value: "v"})
	}
	for name, more := range map[string][]hpack.HeaderField{
		"one of 60 KiB": {{Name: "x-big", Value: strings.Repeat("b", 60<<10)}},
		"one of 70 KiB": {{Name: "x-big", Value: strings.Repeat("b", 70<<10)}},
		"one of 4 MiB":  {{Name: "x-big", Value: strings.Repeat("b", 4<<20)}},
		"20,000":        many,

		"a binary one, broken": {{Name: "x-bin", Value: "!!!"}},
		"a timeout, endless":   {{Name: "grpc-timeout", Value: "99999999H"}},
		"a timeout, no number": {{Name: "grpc-timeout", Value: "soonS"}},
		"an encoding":          {{Name: "grpc-encoding", Value: "zip-bomb"}},
	} {
		before, _ := held()
		if _, how := a.rawCall(t, method, oneMessage(t, "plain"), append([]hpack.HeaderField{me}, more...)...); how == "OK" && !strings.HasPrefix(name, "one of 60") && !strings.HasPrefix(name, "a timeout, endless") {
			t.Errorf("headers, %s: %s", name, how)
		} else {
			s.add(how)
		}
		if after, _ := held(); after > before+32<<20 {
			t.Errorf("headers, %s: %d bytes are held", name, after-before)
		}
	}
	// One large value in the table, named by a byte each time: 4 KiB become 16 MiB.
	r := a.rawHTTP2(t)
	r.block(method, me, hpack.HeaderField{Name: "x-table", Value: strings.Repeat("t", 3000)})
	bomb := append(bytes.Clone(r.headers.Bytes()), bytes.Repeat([]byte{0x80 | 62}, 5000)...)
	r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bomb, EndHeaders: true})
	_, how := r.outcome(1)
	if how == "" {
		t.Error("a bomb of HPACK is taken for a call")
	}
	s.add(how)
	// Continuations without an end.
	r = a.rawHTTP2(t)
	r.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: r.block(method, me), EndHeaders: false})
	n := 0
	for part := bytes.Repeat([]byte{0x0f, 0x0f, 0x01, 'v'}, 1000); n < 20_000; n++ {
		if r.WriteContinuation(1, false, part) != nil {
			break
		}
	}
	if n == 20_000 {
		t.Error("80 MB of continuations are taken")
	}
	_, how = r.outcome(1)
	s.add(how)
}

func trySQL(t *testing.T, a *attacked, s *tries) {
	for _, sql := range []string{
		strings.Repeat("(", 100_000), strings.Repeat("(", 100_000) + "a = 1" + strings.Repeat(")", 100_000), strings.Repeat("NOT ", 100_000) + "TRUE", strings.Repeat("-", 100_000) + "1 = 1",
		"a = 1" + strings.Repeat(" AND a = 1", 100_000), "a = 1" + strings.Repeat(" OR b = 2", 100_000), "a IN ('x'" + strings.Repeat(", 'x'", 100_000) + ")",
		"a = '" + strings.Repeat("x", 1<<20) + "'", "a = '" + strings.Repeat("''", 1<<19), strings.Repeat("a", 1<<20) + " = 1", "a = " + strings.Repeat("9", 1<<20), "a = 1e" + strings.Repeat("9", 1000),
		"a LIKE '" + strings.Repeat("%_", 100_000) + "'", "a LIKE '" + strings.Repeat("%a", 500) + "'", strings.Repeat("a + ", 100_000) + "1 > 0", strings.Repeat("a BETWEEN 1 AND ", 100_000) + "1",
		"\x00", "a = '\x00'", "a = 1 -- '", "a = 1; SELECT 1", "a = 1 UNION SELECT 1", "/* */ a = 1", strings.Repeat(" ", 1<<20), "é = 1", "a\u202e = 1",
	} {
		r := receiving("plain", "sql")
		r.FilterExpression = &v2.FilterExpression{Type: v2.FilterType_SQL, Expression: sql}
		ctx, cancel := context.WithCancel(as("lawyer"))
		enough := time.AfterFunc(2*time.Second, cancel) // of a filter that is one, which waits for messages
		st, err := a.ReceiveMessage(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := st.Recv()
		enough.Stop()
		cancel()
		switch code := resp.GetStatus().GetCode(); {
		case status.Code(err) == codes.Canceled:
			s.add("taken, finds nothing")
		case err != nil || code != v2.Code_ILLEGAL_FILTER_EXPRESSION:
			t.Errorf("%.40q of %d: %v, %v", sql, len(sql), resp, err)
		default:
			s.add(code.String())
		}
	}
}

func tryResets(t *testing.T, a *attacked, s *tries) {
	poll, err := proto.Marshal(receiving("plain", "resetters"))
	if err != nil {
		t.Fatal(err)
	}
	me := hpack.HeaderField{Name: headerClientID, Value: "resetter"}
	for _, c := range []struct {
		method  string
		message []byte
		n       int
	}{
		{v2.MessagingService_SendMessage_FullMethodName, oneMessage(t, "plain"), 1000},
		{v2.MessagingService_SendMessage_FullMethodName, nil, 10_000}, // headers alone
		{v2.MessagingService_ReceiveMessage_FullMethodName, poll, 1000},
		{v2.MessagingService_Telemetry_FullMethodName, nil, 1000},
		{gantryv1.Streams_Consume_FullMethodName, nil, 1000},
		{gantryv1.Streams_Publish_FullMethodName, nil, 1000},
	} {
		r := a.rawHTTP2(t)
		go io.Copy(io.Discard, r.Conn) // ends with the connection
		for range c.n {
			id, err := r.open(c.method, c.message, me)
			if err == nil {
				err = r.WriteRSTStream(id, http2.ErrCodeCancel)
			}
			if err != nil {
				s.add("connection closed")
				break
			}
			s.add("reset")
		}
		r.Close()
	}
	// Resets alone, of streams that never were.
	r := a.rawHTTP2(t)
	for i := range 1000 {
		if r.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel) != nil {
			break
		}
		s.add("reset of nothing")
	}
	r.Close()
}

func tryFloods(t *testing.T, a *attacked, s *tries) {
	for name, flood := range map[string]func(*rawConn, int) error{
		"ping":                           func(r *rawConn, i int) error { return r.WritePing(false, [8]byte{byte(i)}) },
		"settings":                       func(r *rawConn, i int) error { return r.WriteSettings() },
		"window of nothing":              func(r *rawConn, i int) error { return r.WriteWindowUpdate(0, 0) },
		"window beyond its bound":        func(r *rawConn, i int) error { return r.WriteWindowUpdate(0, 1<<31-1) },
		"empty data of no stream":        func(r *rawConn, i int) error { return r.WriteData(uint32(2*i+1), false, nil) },
		"a frame longer than is allowed": func(r *rawConn, i int) error { return r.WriteRawFrame(http2.FrameData, 0, 1, make([]byte, 64<<10)) },
		"a frame of no type":             func(r *rawConn, i int) error { return r.WriteRawFrame(0xbe, 0xff, uint32(i), []byte("x")) },
		"stream 0": func(r *rawConn, i int) error {
			return r.WriteRawFrame(http2.FrameHeaders, http2.FlagHeadersEndHeaders, 0, []byte("x"))
		},
		"a push": func(r *rawConn, i int) error { return r.WriteRawFrame(http2.FramePushPromise, 4, 1, []byte("xxxx")) },
	} {
		r := a.rawHTTP2(t)
		n := 0
		var err error
		for ; n < 10_000 && err == nil; n++ { // nobody reads the answers
			r.SetWriteDeadline(time.Now().Add(2 * time.Second))
			err = flood(r, n)
		}
		switch e, ok := err.(net.Error); {
		case err == nil:
			s.add("taken: " + name)
		case ok && e.Timeout():
			s.add("not read any more: " + name)
		default:
			s.add("connection closed: " + name)
		}
		r.Close()
	}
}

func trySlowReaders(t *testing.T, a *attacked, s *tries) {
	const each, size = 100, 256 << 10
	a.topic("slow", topic.Normal, 1)
	for i := range each {
		a.send("slow", fmt.Sprint("slow", i), strings.Repeat("s", size))
	}
	before, _ := held()
	const readers = 32
	for i := range readers {
		group := fmt.Sprint("slow", i)
		poll, err := proto.Marshal(receiving("slow", group))
		if err != nil {
			t.Fatal(err)
		}
		r := a.rawHTTP2(t, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		for range 32 { // 32 messages of 256 KiB in each
			if _, err := r.open(v2.MessagingService_ReceiveMessage_FullMethodName, poll, hpack.HeaderField{Name: headerClientID, Value: group}); err != nil {
				t.Fatal(err)
			}
			s.add("held back: receive")
		}
		a.slowConsumer(t)
		s.add("held back: consume")
	}
	for begun := time.Now(); time.Since(begun) < time.Second; time.Sleep(50 * time.Millisecond) { // they get at it meanwhile
		if now, _ := held(); now > before+128<<20 {
			t.Fatalf("%d bytes are held for those who do not read", now-before)
		}
	}
	a.serves(t)
	if status, got := a.receive(within(as("quick"), t, 20*time.Second), receiving("slow", "quick")); len(got) != 32 {
		t.Errorf("somebody who reads gets %d messages: %v", len(got), status)
	}
}

// slowConsumer subscribes without HTTP/2, to everything, and never reads.
func (a *attacked) slowConsumer(t *testing.T) {
	t.Helper()
	f := *a.fixture
	f.plain = true
	f.t = t
	c := f.consumer(t.Context(), "slow", "", earliest())
	_ = c // it has read that it is subscribed, and reads no more
}

func tryGarbage(t *testing.T, a *attacked, s *tries) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		begin := []string{"", http2.ClientPreface, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", string([]byte{stream.OpeningByte}), "GET / HTTP/1.1\r\n", "POST /apache.rocketmq.v2.MessagingService/SendMessage HTTP/2.0\r\n"}[i%6]
		garbage := make([]byte, r.IntN(4096))
		for j := range garbage {
			garbage[j] = byte(r.Uint32())
		}
		c, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, begin)
		c.Write(garbage)
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, c); err != nil {
			if e, ok := err.(net.Error); ok && e.Timeout() {
				t.Errorf("garbage %d: the connection is still open", i)
			}
		}
		s.add("connection closed")
		c.Close()
	}
}

func tryHalfOpen(t *testing.T, a *attacked, s *tries) {
	var open []net.Conn
	for i := range 500 {
		c, err := net.Dial("tcp", a.addr)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
		io.WriteString(c, []string{"", "P", http2.ClientPreface[:20], http2.ClientPreface, "\x16\x03", string([]byte{stream.OpeningByte})}[i%6])
		switch {
		case i%3 == 1:
			c.(*net.TCPConn).CloseWrite()
			s.add("half closed, others served")
		default:
			s.add("silent, others served")
		}
	}
	a.serves(t)
	for i, c := range open {
		if i%2 == 0 {
			c.(*net.TCPConn).SetLinger(0) // a reset
		}
		c.Close()
	}
}

// Signatures that somebody has listened to are good for as long as the clock's skew, and
// for their user alone; anything else is refused.
func TestSignaturesUsedAgainAndForged(t *testing.T) {
	f := startWithUsers(t, Options{})
	f.topic("orders", topic.Normal, 1)
	f.grant("shop", access.Topic, "orders", access.Pub)
	if _, err := f.broker.CreateUser(t.Context(), access.User{Name: "boss", Super: true, Enabled: true}, "another-secret"); err != nil {
		t.Fatal(err)
	}
	s := &tries{came: map[string]int{}}
	try := func(authorization, date string) v2.Code {
		ctx := metadata.AppendToOutgoingContext(as("shop"), headerAuthorization, authorization, headerDateTime, date)
		r, err := f.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{plain("orders", "id", "body")}})
		return s.answer(r, err)
	}
	for _, ago := range []time.Duration{6 * time.Minute, 22 * time.Minute, 365 * 24 * time.Hour, -6 * time.Minute, -22 * time.Minute} { // whole quarters are another zone
		if code := try(access.Sign("shop", testSecret, time.Now().Add(-ago))); code != v2.Code_UNAUTHORIZED {
			t.Errorf("a signature of %v ago: %v", ago, code)
		}
	}
	authorization, date := access.Sign("shop", testSecret, time.Now())
	for range 20 {
		if code := try(authorization, date); code != v2.Code_OK {
			t.Fatalf("within the skew: %v", code)
		}
	}
	later := time.Now().Add(time.Minute).UTC().Format("20060102T150405Z")
	for _, c := range [][2]string{
		{authorization, later}, {authorization, ""}, {"", date}, {authorization, date + " "}, {authorization + "0", date}, {authorization[:len(authorization)-1], date},
		{strings.Replace(authorization, "shop", "off", 1), date}, {strings.Replace(authorization, "shop", "boss", 1), date}, {strings.Replace(authorization, "shop", "nobody", 1), date}, {strings.Replace(authorization, "SHA1", "MD5", 1), date},
		{strings.Repeat(authorization, 100), date}, {"Basic c2hvcDphLXRlc3Qtc2VjcmV0", date}, {"Bearer x", date},
	} {
		if code := try(c[0], c[1]); code == v2.Code_OK {
			t.Errorf("%.80q of %q is let in", c[0], c[1])
		}
	}
	t.Log("\n" + s.row("signatures used again (within 5 min they are good), old, early, altered"))
}

// What clients say of themselves is one line of the log, whatever it is, and moves no
// terminal.
func TestClientsCannotForgeLinesOfTheLog(t *testing.T) {
	var text, asJSON logged
	everything := &slog.HandlerOptions{Level: slog.LevelDebug}
	a := &attacked{answers: map[v2.Code]int{}}
	a.fixture = startWithUsers(t, Options{Logger: slog.New(both{slog.NewTextHandler(&text, everything), slog.NewJSONHandler(&asJSON, everything)})})
	a.topic("orders", topic.Normal, 1)
	s := &tries{came: map[string]int{}}
	operator := gantryv1.NewAccessClient(a.dial())
	const forged = "x\nlevel=ERROR msg=forged\r\n{\"level\":\"ERROR\",\"msg\":\"forged\"}\x1b[2J\x1b]0;t\x07\u2028\u202e"
	for i := range 100 {
		secret := "wrong"
		if i%2 == 0 {
			secret = testSecret
		}
		authorization, date := access.Sign("shop", secret, time.Now())
		if i%4 == 1 {
			authorization = strings.Replace(authorization, "shop", fmt.Sprintf("%d\"level=ERROR msg=forged", i), 1)
		}
		ctx := metadata.AppendToOutgoingContext(as(fmt.Sprintf("c%d level=ERROR msg=forged\"", i)), headerAuthorization, authorization, headerDateTime, date)
		name := resourceNamed(forged + fmt.Sprint(i))
		r, err := a.SendMessage(ctx, &v2.SendMessageRequest{Messages: []*v2.Message{{Topic: name, Body: []byte("x"), SystemProperties: &v2.SystemProperties{MessageId: forged}}}})
		s.answer(r, err)
		q, err := a.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: name})
		s.answer(q, err)
		st, err := a.Telemetry(within(ctx, t, 20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		st.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_Settings{Settings: &v2.Settings{
			ClientType: v2.ClientType_PRODUCER.Enum(), UserAgent: &v2.UA{Language: v2.Language(i), Version: forged, Platform: forged, Hostname: forged},
			PubSub: &v2.Settings_Publishing{Publishing: &v2.Publishing{Topics: []*v2.Resource{name}}},
		}}})
		if _, err := st.Recv(); err != nil {
			s.add("gRPC " + status.Code(err).String())
		} else {
			s.add("answered")
		}
		_, how := a.rawCall(t, v2.MessagingService_SendMessage_FullMethodName, oneMessage(t, "orders"), hpack.HeaderField{Name: headerClientID, Value: forged}, hpack.HeaderField{Name: "user-agent", Value: forged})
		s.add(how)
		_, err = operator.CreateUser(signed("admin"), &gantryv1.CreateUserRequest{Name: forged}) // until guesses have locked this address out
		if err == nil {
			t.Fatal("there is a user of that name")
		}
		s.add("gRPC " + status.Code(err).String())
	}
	for _, line := range strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n") {
		if !strings.HasPrefix(line, "time=") || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0x2028 || r == 0x202e }) {
			t.Fatalf("a line of the log: %q", line)
		}
	}
	for _, line := range strings.Split(strings.TrimSuffix(asJSON.String(), "\n"), "\n") {
		var entry struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Time == "" || entry.Msg == "forged" || strings.ContainsFunc(line, func(r rune) bool { return r < ' ' }) {
			t.Fatalf("a line of the log: %q: %v", line, err)
		}
	}
	if strings.Count(text.String(), "\n") < 10 {
		t.Fatal("hardly anything is logged: nothing was tried")
	}
	t.Log("\n" + s.row("lines of the log forged by names, ids, versions and headers"))
}

// both is a handler that two others get everything of.
type both [2]slog.Handler

func (b both) Enabled(context.Context, slog.Level) bool { return true }
func (b both) Handle(ctx context.Context, r slog.Record) error {
	b[0].Handle(ctx, r)
	return b[1].Handle(ctx, r)
}
func (b both) WithAttrs(as []slog.Attr) slog.Handler {
	return both{b[0].WithAttrs(as), b[1].WithAttrs(as)}
}
func (b both) WithGroup(n string) slog.Handler { return both{b[0].WithGroup(n), b[1].WithGroup(n)} }
