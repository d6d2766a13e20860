package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/replica/peer"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/internal/pki"
)

// server is a node as a process has it: files, sockets, and someone who serves when
// it leads.
type server struct {
	t       *testing.T
	dir     string
	segment int64
	opts    Options
	log     *commitlog.Log
	node    *Node
	led     sync.WaitGroup

	mu   sync.Mutex
	term *Term
}

// newServer describes a node; ca is the authority of its certificate, nil for none.
func newServer(t *testing.T, name string, ca *pki.Pair) *server {
	s := &server{t: t, dir: t.TempDir(), segment: 64 << 10}
	s.opts = Options{
		Dir: filepath.Join(s.dir, "replica"), Name: name, Listen: "127.0.0.1:0", Client: name + ".example:8081",
		Timing: Timing{Heartbeat: 200 * time.Millisecond, Lease: 150 * time.Millisecond, Commit: 5 * time.Millisecond},
		Logger: slog.New(slog.DiscardHandler),
		Fatal:  func(err error) { t.Errorf("%s: %v", name, err) },
	}
	if ca != nil {
		own, err := pki.NewNode(*ca, name, nil, time.Now(), time.Hour)
		if err == nil {
			s.opts.Certificates, err = pki.NewIdentity(name, ca.Cert, own)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(s.close)
	return s
}

func (s *server) open(ctx context.Context) (err error) {
	if s.opts.Store == nil {
		if s.log, err = s.openLog(); err != nil {
			s.t.Fatal(err)
		}
		s.opts.Log = s.log
	}
	if s.node, err = Open(ctx, s.opts); err != nil {
		s.node = nil
		if s.opts.Log != nil {
			err = errors.Join(err, s.log.Close())
		}
		return err
	}
	s.log = s.node.Log()
	s.opts.Listen = s.node.parts.endpoint.Addr().String() // when it comes back, too
	s.led.Go(s.lead)
	return nil
}

func (s *server) openLog() (*commitlog.Log, error) {
	return commitlog.Open(commitlog.Options{Dir: filepath.Join(s.dir, "commitlog"), SegmentSize: s.segment, Replicated: true, Logger: s.opts.Logger})
}

func (s *server) must(err error) *server {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", s.opts.Name, err)
	}
	return s
}

func (s *server) bootstrap() *server {
	s.t.Helper()
	s.opts.Bootstrap = true
	return s.must(s.open(s.t.Context()))
}

func (s *server) join(to *server) *server {
	s.t.Helper()
	s.opts.Join = to.opts.Listen
	return s.must(s.open(s.t.Context()))
}

// remove takes a member out, whatever becomes of the leader meanwhile.
func (s *server) remove(name string) {
	s.t.Helper()
	eventually(s.t, name+" removed", func() bool {
		err := s.node.Remove(s.t.Context(), name)
		select {
		case <-s.node.Removed(): // it was this one
			return true
		default:
			return err == nil || errors.Is(err, ErrNoMember)
		}
	})
}

func (s *server) lead() {
	for {
		t, err := s.node.Lead(context.Background())
		if errors.Is(err, ErrClosed) || errors.Is(err, ErrRemoved) {
			return
		}
		all, err := records(s.log)
		if err != nil {
			s.t.Error(err)
			return
		}
		next := uint64(0)
		if len(all) > 0 {
			next = all[len(all)-1].number + 1
		}
		t.Begin(func() int64 { return time.Now().UnixNano() }, sequenced(next))
		s.mu.Lock()
		s.term = t
		s.mu.Unlock()
		<-t.Over()
	}
}

// append has the server append count records, if it leads.
func (s *server) append(count int) error { return s.appendBatches(count, 1) }

// appendBatches appends batches of size records.
func (s *server) appendBatches(count, size int) error {
	s.mu.Lock()
	t := s.term
	s.mu.Unlock()
	if t == nil {
		return ErrNotLeading
	}
	for range count {
		b := batchOf(slices.Repeat([]uint64{1}, size)...)
		if err := t.Submit(b); err != nil {
			return err
		}
		if err := b.Wait(context.Background()); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) close() {
	if s.node == nil {
		return
	}
	if err := s.node.Close(); err != nil {
		s.t.Errorf("%s: %v", s.opts.Name, err)
	}
	s.led.Wait()
	if err := s.log.Close(); err != nil {
		s.t.Errorf("%s: %v", s.opts.Name, err)
	}
	s.node, s.term = nil, nil
}

// wipe is a new disk.
func (s *server) wipe() {
	s.close()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Fatal(err)
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		s.t.Fatal(err)
	}
}

// voters waits until all servers say that exactly they are the voters, and where
// they are.
func voters(t *testing.T, servers ...*server) {
	t.Helper()
	eventually(t, "all voters, known to all", func() bool {
		for _, s := range servers {
			members := map[string]Member{}
			for _, m := range s.node.Members() {
				members[m.Name] = m
			}
			for _, o := range servers {
				m := members[o.opts.Name]
				if !m.Voter || m.ID != o.node.parts.id || m.Client != o.opts.Client || m.Peer != o.opts.Listen {
					return false
				}
			}
			if _, ok := s.node.Leader(); !ok || len(members) != len(servers) {
				return false
			}
		}
		return true
	})
}

// leader returns the one of the servers that all say leads, and which says so itself.
func leader(t *testing.T, servers ...*server) (l *server) {
	t.Helper()
	eventually(t, "one leader", func() bool {
		for _, s := range servers {
			m, ok := s.node.Leader()
			if !ok {
				return false
			}
			for _, o := range servers {
				if o.node.parts.id == m.ID {
					l = o
				}
			}
		}
		return l != nil && l.node.Verify() == nil
	})
	return l
}

func equal(t *testing.T, least int, servers ...*server) {
	t.Helper()
	eventually(t, "equal logs", func() bool {
		for _, s := range servers {
			if s.log.Committed() != servers[0].log.Committed() {
				return false
			}
		}
		return true
	})
	for _, s := range servers {
		all, err := records(s.log)
		if err != nil || len(all) < least {
			t.Fatalf("%s: %d records, %v", s.opts.Name, len(all), err)
		}
		for i, r := range all {
			if r.number != uint64(i) {
				t.Fatalf("%s: record %d has number %d", s.opts.Name, i, r.number)
			}
		}
	}
}

// three is a cluster.
func three(t *testing.T) (n1, n2, n3 *server) {
	t.Helper()
	n1 = newServer(t, "n1", nil).bootstrap()
	n2 = newServer(t, "n2", nil).join(n1)
	n3 = newServer(t, "n3", nil).join(n1)
	voters(t, n1, n2, n3)
	return n1, n2, n3
}

// both runs f in plaintext and with certificates.
func both(t *testing.T, f func(t *testing.T, ca *pki.Pair)) {
	t.Run("plaintext", func(t *testing.T) { f(t, nil) })
	t.Run("certificates", func(t *testing.T) {
		ca, err := pki.NewCA("test", time.Now())
		if err != nil {
			t.Fatal(err)
		}
		f(t, &ca)
	})
}

func TestANodeJoinsThroughAnyMemberAndCountsWhenItHasCaughtUp(t *testing.T) {
	t.Parallel()
	both(t, func(t *testing.T, ca *pki.Pair) {
		n1 := newServer(t, "n1", ca).bootstrap()
		eventually(t, "200 records", func() bool { return n1.append(200) == nil })
		n2 := newServer(t, "n2", ca).join(n1)
		voters(t, n1, n2)
		n3 := newServer(t, "n3", ca).join(n2) // which does not lead
		voters(t, n1, n2, n3)
		equal(t, 200, n1, n2, n3)

		for _, s := range []*server{n1, n2, n3} {
			l := leader(t, n1, n2, n3)
			eventually(t, s.opts.Name+" told how far all are", func() bool {
				status := s.node.Status(t.Context())
				for _, m := range status {
					if m.Err != nil || m.Lag != 0 || m.State.Last == 0 || m.State.Committed != m.State.Last || m.State.Term == 0 || m.Leader != (m.ID == l.node.parts.id) || m.State.Contact < 0 {
						return false
					}
				}
				return len(status) == 3
			})
		}
		// Who does not answer is said to do so, and why.
		n3.close()
		for _, m := range n1.node.Status(t.Context()) {
			if (m.Err != nil) != (m.Name == "n3") {
				t.Errorf("%s: %v", m.Name, m.Err)
			}
		}
	})
}

func TestALearnerCountsWhenItIsPromoted(t *testing.T) {
	first := newServer(t, "n1", nil).bootstrap()
	learner := newServer(t, "n2", nil)
	learner.opts.Learner = true
	learner.join(first)
	is := func(voter bool) func() bool {
		return func() bool {
			m, err := first.node.member("n2")
			return err == nil && m.Voter == voter && learner.log.Index() == first.log.Index()
		}
	}
	eventually(t, "all of the log with the learner", is(false))
	learner.close() // nobody waits for it, and after a start it is one still
	learner.must(learner.open(t.Context()))
	for begun := time.Now(); time.Since(begun) < 5*learner.opts.Timing.Heartbeat; time.Sleep(10 * time.Millisecond) {
		if m, err := first.node.member("n2"); err != nil || m.Voter {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if err := first.node.Promote(t.Context(), "n3"); !errors.Is(err, ErrNoMember) {
		t.Errorf("who is not there: %v", err)
	}
	for range 2 { // by a learner too, and again
		if err := learner.node.Promote(t.Context(), "n2"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the learner counts", is(true))
	other := newServer(t, "n3", nil)
	other.opts.Learner = true
	other.join(first)
	other.close()
	if err := first.node.Promote(t.Context(), "n3"); err == nil || errors.Is(err, ErrNoLeader) {
		t.Errorf("one that does not answer: %v", err)
	}
}

func TestAnyMemberIsAskedForATransfer(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := three(t)
	for _, to := range []*server{n2, n3, n1} {
		eventually(t, "a transfer to "+to.opts.Name, func() bool {
			return n2.node.Transfer(t.Context(), to.opts.Name) == nil && leader(t, n1, n2, n3) == to
		})
	}
	if err := leader(t, n1, n2, n3).node.Transfer(t.Context(), "n4"); !errors.Is(err, ErrNoMember) {
		t.Errorf("to a stranger: %v", err)
	}
}

// A leader that has no disk space hands over to a node that has, and to none that
// has not.
func TestALeaderWithoutDiskSpaceHandsOver(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := newServer(t, "n1", nil), newServer(t, "n2", nil), newServer(t, "n3", nil)
	full := map[*server]*atomic.Bool{}
	for _, s := range []*server{n1, n2, n3} {
		full[s] = new(atomic.Bool)
		s.opts.Full = full[s].Load
	}
	n1.bootstrap()
	n2.join(n1)
	n3.join(n1)
	voters(t, n1, n2, n3)
	one := leader(t, n1, n2, n3)
	relieve := func(want bool) {
		t.Helper()
		if handed, err := one.node.Relieve(); handed != want || err != nil {
			t.Fatalf("handed over: %v, %v; want %v", handed, err, want)
		}
	}
	relieve(false) // it has space
	for _, f := range full {
		f.Store(true)
	}
	relieve(false) // so has nobody
	for _, to := range []*server{n3, n2, n1} {
		if to == leader(t, n1, n2, n3) {
			continue
		}
		full[to].Store(false)
		// On a busy machine another may be elected meanwhile: that one hands over, too.
		tried := false
		eventually(t, to.opts.Name+", which has space, leading", func() bool {
			for _, s := range []*server{n1, n2, n3} {
				led := s.node.State().Leads
				handed, err := s.node.Relieve()
				if led = led || s.node.State().Leads; (handed || err != nil) && (s == to || !led) {
					t.Fatalf("%s, leads: %v, handed over: %v, %v", s.opts.Name, led, handed, err)
				}
				tried = tried || handed || err != nil
			}
			return leader(t, n1, n2, n3) == to
		})
		if handed, err := to.node.Relieve(); !tried || handed || err != nil {
			t.Fatalf("%s leads, and was handed that: %v; it has space, and hands over: %v, %v", to.opts.Name, tried, handed, err)
		}
		full[to].Store(true)
	}
}

// heard is a logger's handler that counts a message.
type heard struct {
	slog.Handler
	message string
	times   *atomic.Int64
}

func (h heard) Enabled(context.Context, slog.Level) bool { return true }
func (h heard) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h heard) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		h.times.Add(1)
	}
	return nil
}

// raft alone might hand over to the one that is down, and wait.
func TestALeaderThatClosesHandsOverToOneThatIsThere(t *testing.T) {
	t.Parallel()
	var failures atomic.Int64
	n1, n2, n3 := newServer(t, "n1", nil), newServer(t, "n2", nil), newServer(t, "n3", nil)
	all := []*server{n1, n2, n3}
	for _, s := range all {
		s.opts.Logger = slog.New(heard{slog.DiscardHandler, "leadership could not be handed over", &failures})
	}
	n1.bootstrap()
	n2.join(n1)
	n3.join(n1)
	voters(t, all...)
	l := leader(t, all...)
	others := slices.DeleteFunc(slices.Clone(all), func(s *server) bool { return s == l })
	others[0].close()
	l.close() // the other one can be chosen as long as this one is there
	others[0].must(others[0].open(t.Context()))
	l = leader(t, others...)
	eventually(t, "an append", func() bool { return l.append(1) == nil })
	equal(t, 1, others...)
	if n := failures.Load(); n > 0 {
		t.Errorf("%d leaders closed and did not hand over", n)
	}
}

func TestANodeThatCameBackElsewhereIsFound(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := three(t)
	for _, s := range []*server{n1, n2, n3} {
		s.close()
		s.opts.Listen, s.opts.Client = "127.0.0.1:0", s.opts.Name+".elsewhere:1"
		s.must(s.open(t.Context()))
		voters(t, n1, n2, n3)
	}
}

func TestARemovedNodeStops(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := three(t)
	old := n3.node.parts.id
	n2.remove("n3")
	<-n3.node.Removed()
	n3.led.Wait()
	if _, err := n3.node.Lead(t.Context()); !errors.Is(err, ErrRemoved) {
		t.Errorf("lead: %v", err)
	}
	if err := leader(t, n1, n2).node.Remove(t.Context(), "n3"); !errors.Is(err, ErrNoMember) {
		t.Errorf("again: %v", err)
	}
	voters(t, n1, n2)
	// It was away when it was removed: it asks.
	n3.close()
	n3.must(n3.open(t.Context()))
	<-n3.node.Removed()
	// Under the same name, but as another node.
	n3.wipe()
	n3.join(n2)
	voters(t, n1, n2, n3)
	if n3.node.parts.id == old {
		t.Error("it is the node it was before")
	}
	// The leader removes itself.
	l := leader(t, n1, n2, n3)
	l.remove(l.opts.Name)
	<-l.node.Removed()
}

// Of two, the other one may lack what the lost one had.
func TestOneOfTwoThatLostItsDiskHasToBeRemoved(t *testing.T) {
	t.Parallel()
	n1 := newServer(t, "n1", nil).bootstrap()
	n2 := newServer(t, "n2", nil).join(n1)
	voters(t, n1, n2)
	lost, there := n1, n2
	if leader(t, n1, n2) == n1 {
		lost, there = n2, n1
	}
	old := lost.node.parts.id
	lost.wipe()
	lost.opts.Bootstrap, lost.opts.Join = false, there.opts.Listen
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := lost.open(ctx); err == nil {
		t.Fatal("it was taken")
	}
	if m, err := there.node.member(lost.opts.Name); err != nil || m.ID != old {
		t.Errorf("%+v, %v", m, err)
	}
}

func TestANodeWithoutItsDiskIsNotTakenForTheOneThatVoted(t *testing.T) {
	t.Parallel()
	n1, n2, n3 := three(t)
	old := n3.node.parts.id
	was := n3.opts.Listen
	n3.close()
	kept := n3.dir + ".kept"
	t.Cleanup(func() { os.RemoveAll(kept) })
	if err := os.Rename(n3.dir, kept); err != nil {
		t.Fatal(err)
	}
	n3.wipe()
	// Elsewhere it may be somebody else.
	n3.opts.Join, n3.opts.Listen = n1.opts.Listen, "127.0.0.1:0"
	if err := n3.open(t.Context()); !errors.Is(err, ErrNameTaken) {
		t.Fatalf("%v", err)
	}
	if m, err := n1.node.member("n3"); err != nil || m.ID != old {
		t.Errorf("n3 is %+v, %v", m, err)
	}
	n3.wipe()
	n3.opts.Listen = was
	n3.join(n2)
	voters(t, n1, n2, n3)
	if n3.node.parts.id == old {
		t.Error("it is the node it was before")
	}
	// What was thought lost comes back, elsewhere.
	lost := newServer(t, "n3", nil)
	if err := errors.Join(os.Remove(lost.dir), os.Rename(kept, lost.dir)); err != nil {
		t.Fatal(err)
	}
	lost.must(lost.open(t.Context()))
	<-lost.node.Removed()
	voters(t, n1, n2, n3)

	// Its identity alone lost: the log says that there was one.
	n3.close()
	if err := os.Remove(filepath.Join(n3.opts.Dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	if err := n3.open(t.Context()); err == nil {
		t.Error("it joined with the log of another")
	}
	// Its vote alone lost.
	n2.close()
	if err := os.Remove(filepath.Join(n2.opts.Dir, voteFile)); err != nil {
		t.Fatal(err)
	}
	if err := n2.open(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without its vote: %v", err)
	}
}

func TestALogOfOneNodeBecomesTheClusters(t *testing.T) {
	t.Parallel()
	n1 := newServer(t, "n1", nil)
	l, err := commitlog.Open(commitlog.Options{Dir: filepath.Join(n1.dir, "commitlog"), SegmentSize: 64 << 10, Logger: n1.opts.Logger})
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(50) {
		b := batchOf(i)
		binary.LittleEndian.PutUint64(b.Head(0), i)
		if err := l.Append(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if yes, err := Exists(n1.opts.Dir); yes || err != nil {
		t.Errorf("before: %v, %v", yes, err)
	}
	n1.bootstrap()
	if yes, err := Exists(n1.opts.Dir); !yes || err != nil {
		t.Errorf("after: %v, %v", yes, err)
	}
	n2 := newServer(t, "n2", nil).join(n1)
	voters(t, n1, n2)
	equal(t, 50, n1, n2)
	for _, s := range []*server{n1, n2} {
		s.close()
		s.must(s.open(t.Context())) // the options say again how it began
		voters(t, n1, n2)
	}
	eventually(t, "an append", func() bool { return leader(t, n1, n2).append(1) == nil })
	equal(t, 51, n1, n2)
}

func TestANodeThatCouldNotHaveTheSameLogIsNotLetIn(t *testing.T) {
	t.Parallel()
	n1 := newServer(t, "n1", nil).bootstrap()
	n3 := newServer(t, "n3", nil)
	n3.opts.Join, n3.segment = n1.opts.Listen, 128<<10
	if err := n3.open(t.Context()); !errors.Is(err, ErrSegmentSize) {
		t.Errorf("%v", err)
	}
	eventually(t, "more than a segment", func() bool {
		if err := n1.append(200); err != nil && !errors.Is(err, ErrNotLeading) {
			t.Fatal(err)
		}
		return n1.log.LastIndex() > 1500
	})
	if dropped, err := n1.log.DropBefore(n1.log.Committed()); err != nil || dropped == 0 {
		t.Fatalf("%d segments, %v", dropped, err)
	}
	n2 := newServer(t, "n2", nil)
	n2.opts.Join = n1.opts.Listen
	if err := n2.open(t.Context()); !errors.Is(err, ErrTrimmed) {
		t.Errorf("%v", err)
	}
	if m := n1.node.Members(); len(m) != 1 {
		t.Errorf("%+v", m)
	}
}

func TestANodeThatCanNotJoinSaysWhyAndTriesAsItself(t *testing.T) {
	t.Parallel()
	n1, n2 := newServer(t, "n1", nil), newServer(t, "n2", nil)
	if err := n2.open(t.Context()); !errors.Is(err, ErrNoMember) {
		t.Errorf("without options: %v", err)
	}
	n2.opts.Join, n2.opts.Bootstrap = "127.0.0.1:1", true
	if err := n2.open(t.Context()); err == nil {
		t.Error("both of the ways")
	}
	n2.opts.Bootstrap = false
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := n2.open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody is there: %v", err)
	}
	first, err := readIdentity(n2.opts.Dir)
	if err != nil || first.member {
		t.Fatalf("%+v, %v", first, err)
	}
	n1.bootstrap()
	n2.join(n1)
	voters(t, n1, n2)
	if n2.node.parts.id != first.id() {
		t.Errorf("%s joined, %s asked first", n2.node.parts.id, first.id())
	}
	n2.close()
	n2.opts.Name = "n9"
	if err := n2.open(t.Context()); err == nil {
		t.Error("under another name")
	}
	n2.opts.Name, n2.opts.Client = "n2", "0.0.0.0:8081"
	if err := n2.open(t.Context()); err == nil {
		t.Error("at an address that nobody can reach")
	}
}

func TestAnIdentityIsReadAsItWasWritten(t *testing.T) {
	want := identity{name: "n1.example", directory: 7, cluster: 1 << 63, member: true}
	b := want.encode()
	if got, err := decodeIdentity(b); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for i := range b {
		for _, flip := range []byte{1, 0x80} {
			b[i] ^= flip
			if got, err := decodeIdentity(b); err == nil {
				t.Errorf("byte %d changed: %+v", i, got)
			}
			b[i] ^= flip
		}
	}
	for _, n := range []int{0, 1, len(b) - 1} {
		if _, err := decodeIdentity(b[:n]); err == nil {
			t.Errorf("%d bytes of it are read", n)
		}
	}
}

// Questions come over the wire: what a node may not ask is refused.
func TestANodeAsksForItselfAlone(t *testing.T) {
	t.Parallel()
	n1 := newServer(t, "n1", nil).bootstrap()
	leader(t, n1)
	stranger, err := peer.Listen("127.0.0.1:0", peer.Config{Node: peer.NewID("n5", 5), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	at := n1.opts.Listen
	for what, c := range map[string]struct {
		q    question
		want verdict
	}{
		"for another":     {question{Ask: askJoin, Node: peer.NewID("n6", 6), Address: "127.0.0.1:1,127.0.0.1:2"}, failed},
		"no address":      {question{Ask: askJoin, Node: peer.NewID("n5", 5)}, failed},
		"no member yet":   {question{Ask: askUpdate, Node: peer.NewID("n5", 5), Address: "127.0.0.1:1,127.0.0.1:2"}, noMember},
		"not its cluster": {question{Ask: askRemove, Node: "n1"}, failed},
		"a later build's": {question{Ask: "other"}, failed},
		"its state":       {question{Ask: askState}, granted},
	} {
		if a, err := consult(t.Context(), stranger, "", at, c.q); err != nil || a.Verdict != c.want {
			t.Errorf("%s: %+v, %v", what, a, err)
		}
	}
}
