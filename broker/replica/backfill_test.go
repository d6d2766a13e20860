package replica

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/pki"
)

// stored gives a server a Store. Its checkpoint is the position, and filler.
func (s *server) stored() *server {
	state := filepath.Join(s.dir, "state")
	s.opts.Store = &Store{
		LogDir:  filepath.Join(s.dir, "commitlog"),
		OpenLog: s.openLog,
		Checkpoint: func() ([]byte, record.Position, error) {
			at := s.node.Log().Committed()
			b := append(le.AppendUint64(nil, uint64(at)), bytes.Repeat([]byte{'s'}, 20<<10)...)
			return le.AppendUint32(b, record.CRC(b)), at, nil
		},
		Restore: func(b []byte) (record.Position, error) {
			if n := len(b) - 4; n < 8 || record.CRC(b[:n]) != le.Uint32(b[n:]) {
				return 0, errors.New("a damaged checkpoint")
			}
			return record.Position(le.Uint64(b)), os.WriteFile(state, b, 0o600)
		},
	}
	return s
}

// trimmed makes a server the leader of a cluster whose log has lost its beginning.
func (s *server) trimmed() *server {
	s.t.Helper()
	s.bootstrap()
	eventually(s.t, "16 segments", func() bool {
		if err := s.appendBatches(1, 700); err != nil && !errors.Is(err, ErrNotLeading) && !errors.Is(err, ErrUnknown) {
			s.t.Fatal(err)
		}
		return s.log.Committed() > 16*64<<10
	})
	if dropped, err := s.log.DropBefore(3 * 64 << 10); err != nil || dropped != 3 {
		s.t.Fatalf("%d segments, %v", dropped, err)
	}
	return s
}

// sameLogs waits until all servers have committed as much, and checks that their
// records are the same, at the same positions, without gaps.
func sameLogs(t *testing.T, servers ...*server) {
	t.Helper()
	eventually(t, "logs of one length", func() bool {
		for _, s := range servers {
			if s.log.Committed() != servers[0].log.Committed() || s.log.Committed() != s.log.Written() {
				return false
			}
		}
		return true
	})
	var want []numbered
	for _, s := range servers {
		got, err := records(s.log)
		if err != nil || len(got) == 0 {
			t.Fatalf("%s: %d records, %v", s.opts.Name, len(got), err)
		}
		for i, r := range got {
			if r.number != got[0].number+uint64(i) {
				t.Fatalf("%s: record %d behind %d", s.opts.Name, r.number, got[0].number+uint64(i))
			}
		}
		if want == nil {
			want = got
		}
		if n := min(len(got), len(want)); !slices.Equal(got[len(got)-n:], want[len(want)-n:]) {
			t.Errorf("%s and %s have different records", s.opts.Name, servers[0].opts.Name)
		}
	}
}

func TestANodeJoinsAfterRetentionWhileTheLeaderIsWrittenTo(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, ca *pki.Pair) {
		n1 := newServer(t, "n1", ca).stored().trimmed()
		var writer sync.WaitGroup
		defer writer.Wait()
		var over atomic.Bool
		defer over.Store(true)
		writer.Go(func() {
			for !over.Load() {
				if err := n1.appendBatches(1, 20); err != nil && !errors.Is(err, ErrNotLeading) && !errors.Is(err, ErrUnknown) {
					t.Error(err)
					return
				}
			}
		})
		n2 := newServer(t, "n2", ca).stored().join(n1)
		n3 := newServer(t, "n3", ca).stored().join(n2) // which does not lead
		voters(t, n1, n2, n3)
		over.Store(true)
		writer.Wait()
		for _, s := range []*server{n2, n3} {
			if s.log.FirstIndex() != n1.log.FirstIndex() {
				t.Errorf("the log of %s begins with entry %d, want %d", s.opts.Name, s.log.FirstIndex(), n1.log.FirstIndex())
			}
		}
		sameLogs(t, n1, n2, n3)

		// What was fetched is good enough to lead, to start again with, and to be fetched.
		eventually(t, "a transfer to n3", func() bool {
			return n2.node.Transfer(t.Context(), "n3") == nil && leader(t, n1, n2, n3) == n3
		})
		eventually(t, "an append", func() bool { return n3.append(10) == nil })
		n1.close()
		eventually(t, "an append with two of three", func() bool { return leader(t, n2, n3).append(10) == nil })
		n2.close()
		n2.must(n2.open(t.Context()))
		n4 := newServer(t, "n4", ca).stored().join(n2)
		n1.must(n1.open(t.Context()))
		voters(t, n1, n2, n3, n4)
		eventually(t, "an append", func() bool { return leader(t, n1, n2, n3, n4).append(10) == nil })
		sameLogs(t, n1, n2, n3, n4)
	})
}

// relay stands between nodes. spoil sees what the node at address says, by
// connection and bytes before; false cuts the connection.
type relay struct {
	net.Listener
	run   sync.WaitGroup
	total atomic.Int64 // bytes that came through
	spoil func(conn int, at int64, b []byte) bool
}

func newRelay(t *testing.T, address func() string, spoil func(conn int, at int64, b []byte) bool) *relay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{Listener: l, spoil: spoil}
	t.Cleanup(func() {
		l.Close()
		r.run.Wait()
	})
	r.run.Go(func() {
		for i := 0; ; i++ {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", address())
			if err != nil {
				conn.Close()
				continue
			}
			r.run.Go(func() {
				io.Copy(to, conn)
				to.Close()
			})
			r.run.Go(func() {
				r.pass(i, conn, to)
				conn.Close()
				to.Close()
			})
		}
	})
	return r
}

func (r *relay) pass(conn int, to, from net.Conn) {
	b := make([]byte, 8<<10)
	for at := int64(0); ; {
		n, err := from.Read(b)
		if err != nil || !r.spoil(conn, at, b[:n]) {
			return
		}
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
		at += int64(n)
		r.total.Add(int64(n))
	}
}

func TestAFetchGoesOnAfterCutsDamageAndTheReceiversDeath(t *testing.T) {
	t.Parallel()
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	// The first three connections that get so far are of the fetch.
	const far = 150 << 10
	var fetches atomic.Int32
	spoiled := map[int]int32{} // by connection; the goroutines of one connection take turns
	var mu sync.Mutex
	var real atomic.Pointer[string]
	r := newRelay(t, func() string { return *real.Load() }, func(conn int, at int64, b []byte) bool {
		if at < far || at >= far+int64(len(b)) {
			return true
		}
		mu.Lock()
		defer mu.Unlock()
		if _, seen := spoiled[conn]; seen {
			return true
		}
		spoiled[conn] = fetches.Add(1)
		switch spoiled[conn] {
		case 1:
			return false
		case 2:
			b[len(b)/2] ^= 0x10
		case 3:
			kill()
			return false
		}
		return true
	})
	// After the relay: it ends when they have closed their connections.
	n1, n2 := newServer(t, "n1", nil).stored(), newServer(t, "n2", nil).stored()
	n1.opts.Advertise = r.Addr().String()
	n1.trimmed()
	listens := n1.opts.Listen
	real.Store(&listens)
	size := int64(n1.log.Committed() - n1.log.First())
	var refused atomic.Int64
	n2.opts.Logger = slog.New(heard{slog.DiscardHandler, "the log is not fetched yet", &refused})
	n2.opts.Join = n1.opts.Listen
	if err := n2.open(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("opened by a process that was to die: %v", err)
	}
	if refused.Load() < 2 {
		t.Errorf("%d refusals, want one for the cut and one for the damage", refused.Load())
	}
	whole, err := filepath.Glob(filepath.Join(n2.opts.Store.LogDir, "*.log"))
	if err != nil || len(whole) < 3 {
		t.Errorf("there are %d segments, %v", len(whole), err)
	}
	if _, err := n2.openLog(); err == nil {
		t.Error("a log was opened that is not all there")
	}
	n2.join(n1)
	n1.opts.Listen = r.Addr().String() // as the membership has it
	voters(t, n1, n2)
	eventually(t, "an append", func() bool { return n1.append(1) == nil })
	sameLogs(t, n1, n2)
	// Each of the four times begins behind what was whole: a checkpoint and a part of a
	// segment come again, not all that came before.
	if got := r.total.Load(); got > 2*size {
		t.Errorf("%d bytes were sent of a log of %d", got, size)
	}
	eventually(t, "a transfer to n2", func() bool { return n1.node.Transfer(t.Context(), "n2") == nil && leader(t, n1, n2) == n2 })
	eventually(t, "an append", func() bool { return n2.append(1) == nil })
	sameLogs(t, n1, n2)
}
