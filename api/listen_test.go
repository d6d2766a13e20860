package api

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"github.com/gantry-mq/gantry/broker/topic"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

var trusting = &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}

func healthy(t *testing.T, cc *grpc.ClientConn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	resp, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{}, grpc.WaitForReady(true))
	if err != nil || resp.Status != healthpb.HealthCheckResponse_SERVING {
		t.Fatalf("health: %v, %v", resp, err)
	}
}

func rawDial(t *testing.T, f *fixture) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestTLSAndPlaintextShareThePort(t *testing.T) {
	f := start(t, Options{})
	healthy(t, f.dial())
	healthy(t, f.dial(grpc.WithTransportCredentials(credentials.NewTLS(trusting))))
	if n := f.server.pending.size(); n != 0 {
		t.Errorf("%d connections still count as unfinished", n)
	}
}

func TestSelfSignedCertificateIsForThisHost(t *testing.T) {
	f := start(t, Options{})
	c, err := tls.Dial("tcp", f.addr, trusting)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	leaf := c.ConnectionState().PeerCertificates[0]
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := leaf.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if c.ConnectionState().NegotiatedProtocol != "h2" {
		t.Errorf("ALPN chose %q", c.ConnectionState().NegotiatedProtocol)
	}
}

// slow sends one byte per write.
type slow struct{ net.Conn }

func (s slow) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := s.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

func TestClientThatSendsByteByByteIsServed(t *testing.T) {
	f := start(t, Options{})
	dialer := grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		return slow{c}, err
	})
	healthy(t, f.dial(dialer, grpc.WithTransportCredentials(credentials.NewTLS(trusting))))
}

func TestGarbageIsHungUpOn(t *testing.T) {
	f := start(t, Options{})
	for _, garbage := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"PRI * HTTP/1.0\r\n\r\nSM\r\n\r\n, and more to fill the preface",
		"\x16\x03\x01\x00\x05hello, this is no ClientHello",
		"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		c := rawDial(t, f)
		if _, err := io.WriteString(c, garbage); err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		var timeout net.Error
		if _, err := io.Copy(io.Discard, c); errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%q: still connected", garbage)
		}
	}
	healthy(t, f.dial())
}

// Connections that stopped at each stage of a handshake, while others come.
func TestUnfinishedConnectionsDelayNobody(t *testing.T) {
	f := start(t, Options{})
	for range 100 {
		rawDial(t, f)
	}
	io.WriteString(rawDial(t, f), "P")
	io.WriteString(rawDial(t, f), "\x16\x03\x01")
	handshaken := tls.Client(rawDial(t, f), trusting)
	if err := handshaken.Handshake(); err != nil {
		t.Fatal(err)
	}
	half := rawDial(t, f).(*net.TCPConn)
	half.CloseWrite()
	healthy(t, f.dial())
	// The fixture's shutdown allows less than the handshake timeout, so it fails
	// if any of these is waited for.
}

func TestSilentConnectionIsHungUpOn(t *testing.T) {
	for name, first := range map[string]string{"silent": "", "stuck in the preface": "PRI *", "stuck in TLS": "\x16\x03"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := bufconn.Listen(1 << 10)
				s := New(openBroker(t), Options{Logger: discard})
				served := make(chan error, 1)
				go func() { served <- s.Serve(l) }()
				c, err := l.Dial()
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				io.WriteString(c, first)
				synctest.Wait()
				if s.pending.size() != 1 {
					t.Fatalf("%d unfinished connections, want 1", s.pending.size())
				}
				time.Sleep(handshakeTimeout + time.Millisecond)
				synctest.Wait()
				if s.pending.size() != 0 {
					t.Fatal("the connection is still there after the handshake timeout")
				}
				if err := s.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestUnfinishedConnectionsAreBounded(t *testing.T) {
	p := newPending(nil, nil)
	ours, theirs := net.Pipe()
	defer theirs.Close()
	var first *conn
	for i := range maxPending {
		c := p.add(ours)
		if c == nil {
			t.Fatalf("connection %d was refused", i)
		}
		if first == nil {
			first = c
		}
	}
	if p.add(ours) != nil {
		t.Fatal("one more than the bound was accepted")
	}
	first.SetDeadline(time.Time{}) // its handshake is complete
	if p.add(ours) == nil {
		t.Fatal("a finished handshake made no room")
	}
	p.close()
	if p.add(ours) != nil {
		t.Fatal("accepted after close")
	}
}

func TestServeReportsAnAddressThatCannotBeAdvertised(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(nil, Options{Advertise: "no-port", Logger: discard})
	if err := s.Serve(l); err == nil {
		t.Error("Serve took it")
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}

// recorded is a connection that always has more, and notes how much was asked for.
type recorded struct {
	net.Conn
	asked []int
}

func (r *recorded) Read(b []byte) (int, error) {
	r.asked = append(r.asked, len(b))
	return len(b), nil
}

func (*recorded) Close() error { return nil }

func TestOnlyAConnectionThatSendsIsHeldBack(t *testing.T) {
	held, crowded := 0, false
	from := &recorded{}
	c := newPending(func() bool { held++; return crowded }, nil).add(from)
	b := make([]byte, 32<<10)
	c.Read(b)
	if held != 0 {
		t.Error("one that has not sent was held back")
	}
	c.sends.Add(1)
	c.Read(b)
	crowded = true
	c.Read(b)
	c.Read(b[:100])
	c.sends.Add(-1)
	c.Read(b)
	if want := []int{32 << 10, 32 << 10, crowdedRead, 100, 32 << 10}; held != 3 || !slices.Equal(from.asked, want) {
		t.Errorf("%d times it was held back, and read by %v, want %v", held, from.asked, want)
	}
}

// Who vanishes without a word is noticed late: what it was handed out since it was heard
// may be lost, too.
func TestAConnectionThatEndsTellsWhoReceivedByItAndHowLongItWasSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := map[receiver]time.Duration{}
		c := newPending(nil, func(r receiver, silent time.Duration) { told[r] += silent }).add(&recorded{})
		a, b := receiver{client: "a"}, receiver{client: "b"}
		c.receives(a)
		c.receives(b)
		c.receives(a)
		c.Read(make([]byte, 1))
		time.Sleep(40 * time.Second)
		c.Close()
		time.Sleep(time.Second)
		c.Close()
		if want := map[receiver]time.Duration{a: 40 * time.Second, b: 40 * time.Second}; !maps.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}

// By TLS and in plain text, it is known which connection a send came by.
func TestAConnectionKnowsWhatItSends(t *testing.T) {
	for name, security := range map[string]credentials.TransportCredentials{"plain text": insecure.NewCredentials(), "TLS": credentials.NewTLS(trusting)} {
		t.Run(name, func(t *testing.T) {
			f := start(t, Options{})
			f.topic("t", topic.Normal, 1)
			var held atomic.Int64
			p := f.server.pending
			p.mu.Lock()
			p.hold = func() bool { held.Add(1); return true }
			p.mu.Unlock()
			c := v2.NewMessagingServiceClient(f.dial(grpc.WithTransportCredentials(security)))
			eventually(t, func() bool {
				var sending sync.WaitGroup
				for range 16 {
					sending.Go(func() {
						if r, err := c.SendMessage(as("s"), &v2.SendMessageRequest{Messages: []*v2.Message{plain("t", "b", "text")}}); err != nil || r.Status.Code != v2.Code_OK {
							t.Errorf("%v, %v", r, err)
						}
					})
				}
				sending.Wait()
				return held.Load() > 0
			})
			p.mu.Lock()
			p.hold = func() bool { t.Error("one that only receives was held back"); return false }
			p.mu.Unlock()
			receiver := v2.NewMessagingServiceClient(f.dial(grpc.WithTransportCredentials(security)))
			one := receiving("t", "g") // of the 16 that were sent
			one.BatchSize = 1
			for range 16 {
				s, err := receiver.ReceiveMessage(as("c"), one)
				if err != nil {
					t.Fatal(err)
				}
				for err == nil {
					_, err = s.Recv()
				}
			}
		})
	}
}
