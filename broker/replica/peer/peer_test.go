package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/internal/pki"
)

var (
	quiet   = slog.New(slog.DiscardHandler)
	stream7 = Purpose{Kind: Backfill, Group: 7}
)

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// authority makes identities; the zero value makes none, for plaintext.
type authority struct{ ca pki.Pair }

func newAuthority(t testing.TB) authority {
	return authority{must(pki.NewCA("test", time.Now()))(t)}
}

func (a authority) identity(t testing.TB, node string) *pki.Identity {
	if a.ca.Cert == nil {
		return nil
	}
	own := must(pki.NewNode(a.ca, node, nil, time.Now(), time.Hour))(t)
	return must(pki.NewIdentity(node, a.ca.Cert, own))(t)
}

func listen(t testing.TB, cfg Config) *Endpoint {
	t.Helper()
	if cfg.Cluster == 0 {
		cfg.Cluster = 1
	}
	cfg.Logger = quiet
	e := must(Listen("127.0.0.1:0", cfg))(t)
	t.Cleanup(func() { e.Close() })
	return e
}

// both runs f in plaintext and with certificates.
func both(t *testing.T, f func(t *testing.T, a authority)) {
	t.Run("plaintext", func(t *testing.T) { f(t, authority{}) })
	t.Run("certificates", func(t *testing.T) { f(t, newAuthority(t)) })
}

func TestAConnectionReachesTheHandlerOfItsPurpose(t *testing.T) {
	both(t, func(t *testing.T, a authority) {
		n1 := listen(t, Config{Node: "n1", Identity: a.identity(t, "n1")})
		n2 := listen(t, Config{Node: "n2", Identity: a.identity(t, "n2")})
		for _, p := range []Purpose{stream7, {Kind: Control}, {Kind: Backfill, Group: 8}} {
			n2.Handle(p, func(conn net.Conn, from string) {
				defer conn.Close()
				b, err := io.ReadAll(io.LimitReader(conn, 5))
				if err == nil {
					_, err = conn.Write([]byte(p.String() + " from " + from + ": " + string(b)))
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		for _, p := range []Purpose{stream7, {Kind: Control}} {
			conn := must(n1.Dial(t.Context(), n2.Addr().String(), "n2", p))(t)
			if _, err := conn.Write([]byte("hello")); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(conn); err != nil || string(got) != p.String()+" from n1: hello" {
				t.Errorf("%q, %v", got, err)
			}
			conn.Close()
		}
	})
}

func TestARefusedDiallerIsToldWhy(t *testing.T) {
	both(t, func(t *testing.T, a authority) {
		n2 := listen(t, Config{Node: "n2", Cluster: 0xc1, Identity: a.identity(t, "n2")})
		n2.Handle(stream7, func(conn net.Conn, _ string) { conn.Close() })
		for what, c := range map[string]struct {
			from    string
			cluster uint64
			purpose Purpose
			reason  Reason
			told    string
		}{
			"another cluster":    {"n1", 0xc2, stream7, WrongCluster, "00000000000000c1"},
			"an unknown purpose": {"n1", 0xc1, Purpose{Kind: 77}, NotServed, "kind 77"},
			"a group not here":   {"n1", 0xc1, Purpose{Kind: Raft, Group: 3}, NotServed, "raft of group 3"},
			"its own name":       {"n2", 0xc1, stream7, WrongSender, "own name"},
		} {
			n1 := listen(t, Config{Node: c.from, Cluster: c.cluster, Identity: a.identity(t, c.from)})
			_, err := n1.Dial(t.Context(), n2.Addr().String(), "n2", c.purpose)
			var refused *RefusedError
			if !errors.As(err, &refused) || refused.Reason != c.reason || !strings.Contains(err.Error(), c.told) || !strings.Contains(err.Error(), n2.Addr().String()) {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
}

// A data directory is a node: one with another directory is not taken for the one
// that had this name before.
func TestANodeWithAnotherDirectoryIsAnother(t *testing.T) {
	both(t, func(t *testing.T, a authority) {
		n1 := listen(t, Config{Node: NewID("n1", 1), Identity: a.identity(t, "n1")})
		n2 := listen(t, Config{Node: NewID("n2", 2), Identity: a.identity(t, "n2")})
		n2.Handle(stream7, func(conn net.Conn, _ string) { conn.Close() })
		must(n1.Dial(t.Context(), n2.Addr().String(), NewID("n2", 2), stream7))(t).Close()
		_, err := n1.Dial(t.Context(), n2.Addr().String(), NewID("n2", 3), stream7)
		if refused := (*RefusedError)(nil); !errors.As(err, &refused) || refused.Reason != WrongTarget {
			t.Errorf("%v", err)
		}
	})
}

func TestANodeOfNoClusterMayAskOneAndNothingElse(t *testing.T) {
	both(t, func(t *testing.T, a authority) {
		control := Purpose{Kind: Control}
		n2 := listen(t, Config{Node: "n2", Identity: a.identity(t, "n2"), Cluster: 7})
		n1 := must(Listen("127.0.0.1:0", Config{Node: "n1", Identity: a.identity(t, "n1"), Logger: quiet}))(t)
		defer n1.Close()
		for _, e := range []*Endpoint{n1, n2} {
			e.Handle(control, func(conn net.Conn, from string) { conn.Close() })
			e.Handle(stream7, func(conn net.Conn, from string) { conn.Close() })
		}
		dial := func(from, to *Endpoint, target string, p Purpose) Reason {
			conn, err := from.Dial(t.Context(), to.Addr().String(), target, p)
			var refused *RefusedError
			if errors.As(err, &refused) {
				return refused.Reason
			}
			must(conn, err)(t).Close()
			return accepted
		}
		for what, c := range map[string]struct{ got, want Reason }{
			"whoever is there, control": {dial(n1, n2, "", control), accepted},
			"by name, control":          {dial(n1, n2, "n2", control), WrongCluster},
			"whoever is there, else":    {dial(n1, n2, "", stream7), WrongCluster},
			"to one of no cluster":      {dial(n2, n1, "n1", control), WrongCluster},
		} {
			if c.got != c.want {
				t.Errorf("%s: %d, want %d", what, c.got, c.want)
			}
		}
		n1.SetCluster(7)
		if got := dial(n1, n2, "n2", stream7); got != accepted {
			t.Errorf("after it joined: %d", got)
		}
	})
}

func TestAnIDNamesANodeAndItsDirectory(t *testing.T) {
	for id, ok := range map[string]bool{
		"n1": true, NewID("n1", 0): true, NewID("n1.example", 1<<63): true,
		"": false, "n1/": false, "n1/8": false, "n1/00000000000000AB": false, "/0000000000000001": false, "n@1": false,
		NewID(strings.Repeat("n", 46), 1): true, NewID(strings.Repeat("n", 47), 1): false,
	} {
		if err := CheckID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
	if name := NameOf(NewID("n1", 5)); name != "n1" {
		t.Error(name)
	}
}

func TestAnotherNodeAtTheAddressIsNoticed(t *testing.T) {
	n2 := listen(t, Config{Node: "n2"})
	n2.Handle(stream7, func(conn net.Conn, _ string) { conn.Close() })
	n1 := listen(t, Config{Node: "n1"})
	_, err := n1.Dial(t.Context(), n2.Addr().String(), "n3", stream7)
	if refused := (*RefusedError)(nil); !errors.As(err, &refused) || refused.Reason != WrongTarget {
		t.Errorf("plaintext: %v", err)
	}
	// With certificates the dialler sees it first.
	a := newAuthority(t)
	n2 = listen(t, Config{Node: "n2", Identity: a.identity(t, "n2")})
	n1 = listen(t, Config{Node: "n1", Identity: a.identity(t, "n1")})
	if _, err := n1.Dial(t.Context(), n2.Addr().String(), "n3", stream7); err == nil || !strings.Contains(err.Error(), "n3") {
		t.Errorf("certificates: %v", err)
	}
}

// speak writes b to the endpoint and returns all that it answers.
func speak(t *testing.T, e *Endpoint, conf *tls.Config, b []byte) []byte {
	t.Helper()
	conn := must(net.Dial("tcp", e.Addr().String()))(t)
	if conf != nil {
		conn = tls.Client(conn, conf)
	}
	defer conn.Close()
	if _, err := conn.Write(b); err != nil {
		return nil
	}
	var answer [300]byte
	n, _ := io.ReadAtLeast(conn, answer[:], 10)
	return answer[:n]
}

func TestAPreambleIsCheckedBeforeAnythingElseReads(t *testing.T) {
	a := newAuthority(t)
	secure := listen(t, Config{Node: "n2", Identity: a.identity(t, "n2")})
	plain := listen(t, Config{Node: "n2"})
	for _, e := range []*Endpoint{secure, plain} {
		e.Handle(stream7, func(conn net.Conn, from string) {
			t.Errorf("handler was called, from %q", from)
			conn.Close()
		})
	}
	good := (&preamble{Purpose: stream7, Cluster: 1, Sender: "n1", Target: "n2"}).encode()
	change := func(off int, v byte) []byte {
		b := bytes.Clone(good)
		b[off] = v
		return b
	}
	client := a.identity(t, "n1").Client("n2")
	for what, c := range map[string]struct {
		to     *Endpoint
		conf   *tls.Config
		sent   []byte
		reason Reason // 0 = closed without an answer
	}{
		"version to come":       {plain, nil, append(change(8, 2), make([]byte, 100)...), WrongVersion},
		"a short later version": {plain, nil, change(8, 9)[:versionEnd], WrongVersion},
		"field to come":         {plain, nil, change(12, 1), WrongPreamble},
		"name too long":         {plain, nil, change(senderOff, 64), WrongPreamble},
		"no name":               {plain, nil, change(targetOff, 0), WrongPreamble},
		"a path as a name":      {plain, nil, change(senderOff+1, '/'), WrongPreamble},
		"name behind the name":  {plain, nil, change(senderOff+40, 'x'), WrongPreamble},
		"HTTP":                  {plain, nil, []byte("GET / HTTP/1.1\r\n\r\n"), 0},
		"raft without preamble": {plain, nil, bytes.Repeat([]byte{0, 0x80}, 100), 0},
		"plaintext to TLS":      {secure, nil, good, 0},
		"no certificate":        {secure, &tls.Config{InsecureSkipVerify: true}, good, 0},
		"another CA":            {secure, newAuthority(t).identity(t, "n1").Client("n2").Clone(), good, 0},
		"certificate of another": {secure, client, func() []byte {
			return (&preamble{Purpose: stream7, Cluster: 1, Sender: "n9", Target: "n2"}).encode()
		}(), WrongSender},
	} {
		t.Run(what, func(t *testing.T) {
			if what == "another CA" {
				c.conf.InsecureSkipVerify = true // the client does not mind, the server does
				c.conf.VerifyConnection = nil
			}
			err := readAnswer(bytes.NewReader(speak(t, c.to, c.conf, c.sent)))
			var refused *RefusedError
			if errors.As(err, &refused) != (c.reason != 0) || c.reason != 0 && refused.Reason != c.reason {
				t.Errorf("%v, want reason %d", err, c.reason)
			}
		})
	}
}

func TestWhoSaysNothingIsCutOff(t *testing.T) {
	both(t, func(t *testing.T, a authority) {
		e := listen(t, Config{Node: "n2", Identity: a.identity(t, "n2"), HandshakeTimeout: 20 * time.Millisecond})
		conn := must(net.Dial("tcp", e.Addr().String()))(t)
		defer conn.Close()
		if _, err := conn.Write([]byte("GNT")); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%q, %v", b, err)
		}
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	silent := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer silent.Close()
	both(t, func(t *testing.T, a authority) {
		n1 := listen(t, Config{Node: "n1", Identity: a.identity(t, "n1")})
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		accepted := make(chan net.Conn, 1)
		go func() {
			conn, err := silent.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- conn
			cancel(enough)
		}()
		if _, err := n1.Dial(ctx, silent.Addr().String(), "n2", stream7); !errors.Is(err, enough) {
			t.Errorf("%v", err)
		}
		(<-accepted).Close()
	})
}

func TestPlaintextIsForLoopbackOnly(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", ":0", "192.0.2.1:1"} {
		if e, err := Listen(address, Config{Node: "n1", Logger: quiet}); !errors.Is(err, ErrPlaintext) {
			if err == nil {
				e.Close()
			}
			t.Errorf("listen on %s: %v", address, err)
		}
	}
	n1 := listen(t, Config{Node: "n1"})
	if _, err := n1.Dial(t.Context(), "192.0.2.1:1", "n2", stream7); !errors.Is(err, ErrPlaintext) {
		t.Errorf("dial: %v", err)
	}
}

func TestCloseEndsConnectionsAndWaitsForHandlers(t *testing.T) {
	both(t, func(t *testing.T, a authority) {
		n1 := listen(t, Config{Node: "n1", Identity: a.identity(t, "n1")})
		n2 := listen(t, Config{Node: "n2", Identity: a.identity(t, "n2")})
		var running sync.WaitGroup
		var ended int
		var mu sync.Mutex
		n2.Handle(stream7, func(conn net.Conn, _ string) {
			running.Done()
			io.Copy(io.Discard, conn) // until it is closed
			conn.Close()
			mu.Lock()
			ended++
			mu.Unlock()
		})
		for range 3 {
			running.Add(1)
			conn := must(n1.Dial(t.Context(), n2.Addr().String(), "n2", stream7))(t)
			defer conn.Close()
		}
		silent := must(net.Dial("tcp", n2.Addr().String()))(t)
		defer silent.Close()
		running.Wait()
		if err := n2.Close(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if ended != 3 {
			t.Errorf("%d handlers have ended", ended)
		}
		if err := n2.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

func FuzzPreamble(f *testing.F) {
	f.Add((&preamble{Purpose: stream7, Cluster: 1, Sender: "n1", Target: "n2"}).encode())
	f.Add((&preamble{Purpose: Purpose{Kind: Raft}, Cluster: 1 << 60, Sender: strings.Repeat("x", maxID), Target: "a"}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, err := readPreamble(r)
		if err != nil {
			return
		}
		if got := p.encode(); !bytes.Equal(got, b[:preambleLen]) || r.Len() != len(b)-preambleLen {
			t.Fatalf("%+v encodes to other bytes, or %d are left of %d", p, r.Len(), len(b))
		}
	})
}
