package api

import (
	"bytes"
	"context"
	"crypto/sha1"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/compress"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

var ourPackings = []record.Flags{record.FlagZstd, record.FlagLZ4, record.FlagS2}

// compressed is body as a record of a packing has it.
func compressed(t testing.TB, packing record.Flags, body string) string {
	t.Helper()
	b, err := compress.Body(nil, packing, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func cut(s string) string { return s[:len(s)-9] }

func flagged(f record.Flags) func(*record.Message) {
	return func(m *record.Message) { m.Flags |= f }
}

// isPlain checks that m is one that an official client reads as body.
func isPlain(t *testing.T, m *v2.Message, body string) {
	t.Helper()
	p := m.GetSystemProperties()
	if string(m.GetBody()) != body || p.GetBodyEncoding() != v2.Encoding_IDENTITY || p.GetBodyDigest().GetChecksum() != fmt.Sprintf("%X", sha1.Sum([]byte(body))) {
		t.Errorf("%d bytes, encoding %v, digest %v; want %d bytes", len(m.GetBody()), p.GetBodyEncoding(), p.GetBodyDigest(), len(body))
	}
}

func TestCompressedBodiesGoOutAsTheyCameAndDecompressedToClientsThatCannot(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	// Below and above what is sent from the log's mapping, before and after.
	texts := []string{"short", strings.Repeat("some text, ", 300), strings.Repeat("more text, ", 10_000), strings.Repeat("x", record.MaxBody-1<<10)}
	p := f.publisher(context.Background(), 1, "t")
	var want, stored []string
	for _, packing := range ourPackings {
		var pack []byte
		for _, text := range texts {
			text += packing.PackingName()
			want, stored = append(want, text), append(stored, compressed(t, packing, text))
			pack = packed(pack, stored[len(stored)-1], flagged(packing), field(record.FieldTag, "A"), property("n", "1"))
			pack = packed(pack, "not asked for", field(record.FieldTag, "B"), property("n", "2"))
		}
		p.good(pack)
	}
	req := receiving("t", "g")
	req.FilterExpression = &v2.FilterExpression{Type: v2.FilterType_SQL, Expression: "TAGS = 'A' AND n = 1"}
	var got []*v2.Message
	for len(got) < len(want) {
		_, ms := f.receive(as("c"), req)
		got = append(got, ms...)
	}
	pulled, err := f.PullMessage(as("c"), &v2.PullMessageRequest{
		Group: &v2.Resource{Name: "g"}, MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}}, BatchSize: 32,
		FilterExpression: &v2.FilterExpression{Type: v2.FilterType_TAG, Expression: "A"},
	})
	if err != nil {
		t.Fatal(err)
	}
	var pulls []*v2.Message
	for {
		r, err := pulled.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if m := r.GetMessage(); m != nil {
			pulls = append(pulls, m)
		}
	}
	ours := f.consumer(context.Background(), "t", "", earliest(), tagged("A")).take(len(want))
	if len(got) != len(want) || len(pulls) != len(want) {
		t.Fatalf("%d received, %d pulled, want %d", len(got), len(pulls), len(want))
	}
	for i, body := range want {
		isPlain(t, got[i], body)
		isPlain(t, pulls[i], body)
		if packing := ourPackings[i/len(texts)]; string(ours[i].Body) != stored[i] || ours[i].Flags.Packing() != packing {
			t.Errorf("%d: gantry.v1 has %d bytes with flags %#x, want them as they came", i, len(ours[i].Body), ours[i].Flags)
		}
	}
	if s := f.broker.Stats(); s.Unpacked != uint64(2*len(want)) || s.Unreadable != 0 {
		t.Errorf("%d decompressed, %d unreadable", s.Unpacked, s.Unreadable)
	}
	shown, err := gantryv1.NewMessagesClient(f.dial()).Get(context.Background(), &gantryv1.GetMessageRequest{Topic: "t", By: &gantryv1.GetMessageRequest_Place{Place: &gantryv1.QueueOffset{}}})
	if err != nil || string(shown.Body) != want[0] || shown.Compression != "zstd" || shown.Unreadable != "" {
		t.Errorf("an operator is shown %v, %v", shown, err)
	}
}

// What nothing can be made of is delivered as it came: it is in nobody's way, and takes
// no memory.
func TestUnreadableBodiesHoldBackNothing(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	bomb := bytes.Repeat([]byte{0}, 64<<20)
	var pack []byte
	var want []string
	for _, packing := range ourPackings {
		for _, body := range []string{
			compressed(t, packing, string(bomb)), cut(compressed(t, packing, strings.Repeat("text", 9999))),
			"plain text", compressed(t, ourPackings[(slices.Index(ourPackings, packing)+1)%3], strings.Repeat("text", 99)),
		} {
			want = append(want, body)
			pack = packed(pack, body, flagged(packing))
		}
	}
	want = append(want, "after them")
	f.publisher(context.Background(), 1, "t").good(packed(pack, "after them"))
	var got []*v2.Message
	for len(got) < len(want) {
		_, ms := f.receive(as("c"), receiving("t", "g"))
		got = append(got, ms...)
	}
	for i, body := range want {
		isPlain(t, got[i], body)
	}
	if s := f.broker.Stats(); s.Unreadable != uint64(len(want)-1) || s.Unpacked != 0 {
		t.Errorf("%d unreadable, %d decompressed", s.Unreadable, s.Unpacked)
	}
	shown, err := gantryv1.NewMessagesClient(f.dial()).Get(context.Background(), &gantryv1.GetMessageRequest{Topic: "t", By: &gantryv1.GetMessageRequest_Place{Place: &gantryv1.QueueOffset{}}})
	if err != nil || string(shown.Body) != want[0] || !strings.Contains(shown.Unreadable, "zstd") {
		t.Errorf("an operator is shown %q, %v", shown.GetUnreadable(), err)
	}
}

// Clients that read nothing of what they asked for cannot have bodies decompressed
// without end, nor keep others from theirs: they lose their connection to who waits.
func TestASlowReaderKeepsNobodyFromDecompressedBodies(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	const n = 2 * broker.MaxUnpacked / record.MaxBody
	body := compressed(t, record.FlagZstd, strings.Repeat("x", record.MaxBody-1<<10))
	f.publisher(context.Background(), 1, "t").good(packed(packed(nil, body, flagged(record.FlagZstd)), body, flagged(record.FlagZstd)))
	// Its windows do not grow, so that what it does not read stays with the broker.
	idle := v2.NewMessagingServiceClient(f.dial(grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10)))
	pull := func(ctx context.Context, c v2.MessagingServiceClient) grpc.ServerStreamingClient[v2.PullMessageResponse] {
		s, err := c.PullMessage(ctx, &v2.PullMessageRequest{
			Group: &v2.Resource{Name: "g"}, MessageQueue: &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}}, BatchSize: 2,
		})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	read := func() error {
		ctx, cancel := context.WithCancel(as("c"))
		defer cancel() // what it leaves unread would make it a slow reader, too
		for s := pull(ctx, f); ; {
			if r, err := s.Recv(); err != nil || r.GetMessage() != nil {
				return err
			}
		}
	}
	var slow []grpc.ServerStreamingClient[v2.PullMessageResponse]
	for range n {
		slow = append(slow, pull(as("slow"), idle))
	}
	eventually(t, func() bool { return f.broker.Stats().Unpacked >= n/4 })
	for range 3 {
		if err := read(); err != nil {
			t.Error(err)
		}
	}
	ended := 0
	for _, s := range slow {
		for {
			if _, err := s.Recv(); err != nil {
				if status.Code(err) == codes.Unavailable {
					ended++
				}
				break
			}
		}
	}
	if ended == 0 {
		t.Error("nobody was cut off: the test shows nothing")
	}
}

// A page has no room for more than one message that may be large when it is
// decompressed; one with gzip goes out as it came.
func TestOperatorsArePagedWhatClientsDecompressAsItIsStored(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	var pack []byte
	for range 3 {
		pack = packed(pack, "what gzip made", flagged(record.FlagGzip))
	}
	f.publisher(context.Background(), 1, "t").good(pack)
	r, err := adminOf(f).QueryMessage(t.Context(), &v2.ListMessageRequest{Topic: res("t"), MaxMessageNums: 10})
	if err != nil || len(r.GetMessages()) != 3 {
		t.Errorf("%d of 3 messages in a page: %v %v", len(r.GetMessages()), r.GetStatus(), err)
	}
}

func TestABodyIsCompressedInOneWay(t *testing.T) {
	f := start(t, Options{})
	f.topic("t", topic.Normal, 1)
	r := f.publisher(context.Background(), 1, "t").publish(packed(nil, "b", flagged(record.FlagZstd|record.FlagGzip)))
	if len(r.Refused) != 1 || v2.Code(r.Refused[0].Status.GetCode()) != v2.Code_BAD_REQUEST {
		t.Errorf("%v", r)
	}
}

// eventually waits until f reports true, for a minute.
func eventually(t *testing.T, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come to be")
		}
	}
}
