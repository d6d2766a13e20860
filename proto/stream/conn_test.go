package stream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// calls returns the two sides of a call.
func calls(t *testing.T) (client, server *Conn) {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	accepted := make(chan *Conn, 1)
	go func() {
		s, _, err := Accept(theirs, theirs)
		if err != nil {
			t.Error(err)
		}
		accepted <- s
	}()
	client, err := Open(ours, Consume, 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

func TestMessagesOfAnySizePassBothWays(t *testing.T) {
	client, server := calls(t)
	for _, size := range []int{0, 1, readAhead - headLen, readAhead, requestClaim - 8, requestClaim, 3*requestClaim + 1, requestLimit - 64} {
		request := &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Subscribe{Subscribe: &gantryv1.Subscribe{ClientId: string(bytes.Repeat([]byte("x"), size))}}}
		response := &gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Frame{Frame: &gantryv1.ConsumeFrame{NextOffset: int64(size), Records: make([]byte, size)}}}
		sent := make(chan error, 2)
		go func() { sent <- client.SendMsg(request) }()
		var gotRequest gantryv1.ConsumeRequest
		if err := server.RecvMsg(&gotRequest); err != nil || !proto.Equal(&gotRequest, request) {
			t.Fatalf("a request with %d bytes: %v", size, err)
		}
		go func() { sent <- server.SendMsg(response) }()
		var got ConsumeResponse
		if err := client.RecvMsg(&got); err != nil || got.Frame.NextOffset != int64(size) || len(got.Frame.Records) != size {
			t.Fatalf("a response with %d bytes: %v", size, err)
		}
		got.Release()
		if err := errors.Join(<-sent, <-sent); err != nil {
			t.Fatal(err)
		}
	}
}

// counted counts the writes to a connection, each of which is a system call.
type counted struct {
	net.Conn
	writes int
	sent   bytes.Buffer
}

func (c *counted) Write(b []byte) (int, error) {
	c.writes++
	return c.sent.Write(b)
}

func TestMessagesThatMayWaitAreSentInOrder(t *testing.T) {
	window := func(n int) *gantryv1.PublishResponse {
		return &gantryv1.PublishResponse{Content: &gantryv1.PublishResponse_Window{Window: &gantryv1.PublishWindow{Bytes: uint64(n)}}}
	}
	for _, last := range []string{"another", "Flush", "End"} {
		to := &counted{}
		c := newConn(to, 0, 0)
		const several = 100
		for i := range several {
			if err := c.SendLater(window(i)); err != nil {
				t.Fatal(err)
			}
		}
		if to.writes != 0 {
			t.Errorf("%d writes of a few small messages that may wait", to.writes)
		}
		want := several
		switch last {
		case "another":
			c.SendMsg(window(several))
			want++
		case "Flush":
			c.Flush()
		case "End":
			c.End(nil)
		}
		in := newConn(&played{Reader: bytes.NewReader(to.sent.Bytes())}, 1<<20, 1<<20)
		for i := range want {
			var m gantryv1.PublishResponse
			if err := in.RecvMsg(&m); err != nil || m.GetWindow().Bytes != uint64(i) {
				t.Fatalf("%s: message %d: %v, %v", last, i, &m, err)
			}
		}
		if err := in.RecvMsg(new(gantryv1.PublishResponse)); err != io.EOF {
			t.Errorf("%s: then %v", last, err)
		}
	}
}

func TestMessagesThatMayWaitDoNotPileUp(t *testing.T) {
	to := &counted{}
	c := newConn(to, 0, 0)
	held := 0
	for range 100 {
		if err := c.SendLater(&gantryv1.PublishResponse{Content: &gantryv1.PublishResponse_Check{Check: &gantryv1.CheckTransaction{Record: make([]byte, 10_000)}}}); err != nil {
			t.Fatal(err)
		}
		held = max(held, c.held)
	}
	if held >= holdBytes || to.sent.Len() < 100*10_000-holdBytes {
		t.Errorf("up to %d bytes were held back, %d were sent", held, to.sent.Len())
	}
}

func TestAClientHearsHowItsCallEnds(t *testing.T) {
	for name, end := range map[string]error{"well": nil, "with a status": status.Error(codes.NotFound, "no topic"), "with another error": errors.New("odd")} {
		client, server := calls(t)
		go func() {
			server.End(end)
			server.Close()
		}()
		err := client.RecvMsg(new(ConsumeResponse))
		if want := status.Convert(end); end == nil && err != io.EOF || end != nil && (status.Code(err) != want.Code() || status.Convert(err).Message() != want.Message()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTooLargeARequestIsRefusedBeforeItCame(t *testing.T) {
	server := newConn(&played{Reader: bytes.NewReader([]byte{kindMessage, 0, 0x40, 0, 1})}, requestLimit, requestClaim)
	if err := server.RecvMsg(new(gantryv1.ConsumeRequest)); status.Code(err) != codes.ResourceExhausted {
		t.Error(err)
	}
}

// played is a connection from which a recording is read.
type played struct {
	net.Conn
	*bytes.Reader
}

func (p *played) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// FuzzConn has a server and a client read what nobody should have sent. The server
// reads the messages that protobuf reads.
func FuzzConn(f *testing.F) {
	const limit, claim = 1 << 12, 8
	message := func(kind byte, m proto.Message) []byte {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))), b...)
	}
	subscribe := &gantryv1.ConsumeRequest{Content: &gantryv1.ConsumeRequest_Subscribe{Subscribe: &gantryv1.Subscribe{ClientId: "somebody with a name"}}}
	f.Add([]byte(nil))
	f.Add(message(kindMessage, subscribe))
	f.Add(append(message(kindMessage, subscribe), message(kindEnd, status.New(codes.NotFound, "gone").Proto())...))
	f.Add(message(kindMessage, &gantryv1.ConsumeResponse{Content: &gantryv1.ConsumeResponse_Frame{Frame: &gantryv1.ConsumeFrame{Records: []byte("12345678")}}}))
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		client := newConn(&played{Reader: bytes.NewReader(raw)}, limit, limit)
		for {
			var m ConsumeResponse
			if client.RecvMsg(&m) != nil {
				break
			}
			m.Release()
		}
		server := newConn(&played{Reader: bytes.NewReader(raw)}, limit, claim)
		for rest := raw; ; {
			var got, want gantryv1.ConsumeRequest
			err := server.RecvMsg(&got)
			n := 0
			if len(rest) >= headLen {
				n = int(binary.BigEndian.Uint32(rest[1:]))
			}
			switch {
			case len(rest) == 0:
				if err != io.EOF {
					t.Fatalf("at the end: %v", err)
				}
				return
			case len(rest) >= headLen && rest[0] > kindEnd:
				if status.Code(err) != codes.InvalidArgument {
					t.Fatalf("kind %d: %v", rest[0], err)
				}
				return
			case n > limit:
				if status.Code(err) != codes.ResourceExhausted {
					t.Fatalf("%d bytes: %v", n, err)
				}
				return
			case len(rest) < headLen+n || len(rest) < headLen:
				if err != io.ErrUnexpectedEOF {
					t.Fatalf("cut short: %v", err)
				}
				return
			case rest[0] == kindEnd:
				if err == nil {
					t.Fatal("an end is no request")
				}
				return
			}
			if bad := proto.Unmarshal(rest[headLen:headLen+n], &want); bad != nil {
				if status.Code(err) != codes.InvalidArgument {
					t.Fatalf("%v, protobuf says %v", err, bad)
				}
				return
			}
			if err != nil || !proto.Equal(&got, &want) {
				t.Fatalf("%v, %v; protobuf reads %v", &got, err, &want)
			}
			rest = rest[headLen+n:]
		}
	})
}
