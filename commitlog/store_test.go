package commitlog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// replicatedOptions have segments so small that a run has many, and Known as the
// owner of a log would have saved it.
func replicatedOptions(fs *crashtest.FS, known record.Position) Options {
	return Options{
		Dir: crashDir, FS: fs, SegmentSize: minSegmentSize, Replicated: true, Known: known,
		Logger: quiet, Fatal: func(error) {},
	}
}

// someEntry returns what a protocol could store at index: the same for the same
// index, term and salt.
func someEntry(index, term uint64, salt uint64) Entry {
	rng := rand.New(rand.NewPCG(index<<20|term, salt))
	e := Entry{Index: index, Term: term, Type: FrameType(1 + rng.IntN(4)), Time: int64(index)}
	size := rng.IntN(3000)
	if rng.IntN(10) == 0 {
		size = rng.IntN(20000)
	}
	if e.Type == FrameRecords {
		size = record.Padded(size)
	}
	e.Payload = make([]byte, size)
	for i := range e.Payload {
		e.Payload[i] = byte(rng.Uint32())
	}
	return e
}

// sameEntries checks that l holds want, of which the first has index 1, and
// nothing else.
func sameEntries(l *Log, want []Entry) error {
	if n := l.LastIndex(); n != uint64(len(want)) {
		return fmt.Errorf("the last index is %d, want %d", n, len(want))
	}
	for _, e := range want {
		got, err := l.Entry(e.Index)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		if got.Index != e.Index || got.Term != e.Term || got.Type != e.Type || got.Time != e.Time || !bytes.Equal(got.Payload, e.Payload) {
			return fmt.Errorf("entry %d is %d of term %d, type %d, time %d, %d bytes; want %d, %d, %d, %d, %d",
				e.Index, got.Index, got.Term, got.Type, got.Time, len(got.Payload), e.Index, e.Term, e.Type, e.Time, len(e.Payload))
		}
	}
	if _, err := l.Entry(uint64(len(want)) + 1); !errors.Is(err, ErrOutOfRange) {
		return fmt.Errorf("an entry behind the last: %v", err)
	}
	return nil
}

// frames returns what readers see: ends and payloads of all committed frames.
func frames(l *Log) (out []Frame, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for r := l.Reader(l.First()); ; {
		f, err := r.Next(ctx)
		if errors.Is(err, context.Canceled) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		f.Payload = bytes.Clone(f.Payload)
		f.Release()
		out = append(out, f)
	}
}

// TestReplicasHoldTheSameFramesWhateverTheyTookBack drives two logs at random: each
// stores in groups of its own, takes back what is not committed and stores
// something else, closes and opens. In the end both are given the same entries.
func TestReplicasHoldTheSameFramesWhateverTheyTookBack(t *testing.T) {
	rng := newRNG(t)
	for range 3 {
		var all []Entry
		for i := range 150 {
			all = append(all, someEntry(uint64(i+1), uint64(1+i/50), 0))
		}
		var replicas [2][]Frame
		for i := range replicas {
			fs := crashtest.New()
			l, err := Open(replicatedOptions(fs, 0))
			if err != nil {
				t.Fatal(err)
			}
			var held []Entry // agreed up to right, the rest may be anything
			right, committed, known := 0, 0, record.Position(0)
			for right < len(all) || len(held) > right {
				switch do := rng.IntN(10); {
				case do < 4 && len(held) == right: // what all agree on
					n := min(1+rng.IntN(12), len(all)-right)
					held = append(held, all[right:right+n]...)
					if err := l.Store(held[right:]); err != nil {
						t.Fatal(err)
					}
					right += n
				case do < 5: // what a leader that nobody follows makes up
					last := len(held)
					term := uint64(1)
					if last > 0 {
						term = held[last-1].Term
					}
					for range 1 + rng.IntN(20) {
						held = append(held, someEntry(uint64(len(held)+1), term, 1+rng.Uint64()))
					}
					if err := l.Store(held[last:]); err != nil {
						t.Fatal(err)
					}
				case do < 7 && len(held) > right: // and what the next one does to that
					keep := right + rng.IntN(len(held)-right)
					if err := l.TruncateAfter(uint64(keep)); err != nil {
						t.Fatal(err)
					}
					held = held[:keep]
				case do < 8 && right > committed:
					committed += 1 + rng.IntN(right-committed)
					_, end, err := l.Commit(uint64(committed))
					if err != nil {
						t.Fatal(err)
					}
					if rng.IntN(2) == 0 {
						known = end
					}
				case do < 9 && committed > 0:
					if err := l.TruncateAfter(uint64(rng.IntN(committed))); !errors.Is(err, ErrAgreed) {
						t.Fatalf("committed frames were taken back: %v", err)
					}
				case do == 9 && rng.IntN(3) == 0:
					if err := l.Close(); err != nil {
						t.Fatal(err)
					}
					if l, err = Open(replicatedOptions(fs, known)); err != nil {
						t.Fatal(err)
					}
					if got := l.Index(); got > uint64(committed) || l.Committed() < known {
						t.Fatalf("after a restart %d is committed, up to %d; %d was, and up to %d is known", got, l.Committed(), committed, known)
					}
				}
				if rng.IntN(20) == 0 {
					if err := sameEntries(l, held); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := sameEntries(l, all); err != nil {
				t.Fatal(err)
			}
			if _, _, err := l.Commit(uint64(len(all))); err != nil {
				t.Fatal(err)
			}
			if replicas[i], err = frames(l); err != nil {
				t.Fatal(err)
			}
			if n := len(replicas[i]); n != len(all) {
				t.Fatalf("%d frames are read of %d", n, len(all))
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if n := l.Stats().Views; n != 0 {
				t.Errorf("%d views are open", n)
			}
		}
		for i, f := range replicas[0] {
			g := replicas[1][i]
			if f.Position != g.Position || f.End != g.End || f.Index != g.Index || f.Term != g.Term || f.Time != g.Time || !bytes.Equal(f.Payload, g.Payload) {
				t.Fatalf("frame %d: [%d, %d) term %d here, [%d, %d) term %d there", f.Index, f.Position, f.End, f.Term, g.Position, g.End, g.Term)
			}
			if want := all[i]; want.Type == FrameRecords && !bytes.Equal(f.Payload, want.Payload) || want.Type != FrameRecords && len(f.Payload) > 0 {
				t.Fatalf("frame %d of type %d is read with %d bytes", f.Index, want.Type, len(f.Payload))
			}
		}
	}
}

// TestPowerLossInAReplicatedLogKeepsWhatWasStored crashes before every call of a
// life in which frames are taken back, over the ends of segments. What was committed must be there;
// what was stored must be, unless it was being taken back.
func TestPowerLossInAReplicatedLogKeepsWhatWasStored(t *testing.T) {
	rng := newRNG(t)
	crashes := rand.New(rand.NewPCG(rng.Uint64(), 2))
	fs := crashtest.New()
	var (
		mu        sync.Mutex // the preparer's calls are places to crash, too
		stored    []Entry    // returned by Store
		writing   []Entry    // given to Store
		cutting   = -1       // to where TruncateAfter cuts
		committed int
		known     record.Position
		images    int
		broken    error
	)
	check := func(image *crashtest.FS, what string) error {
		l, err := Open(replicatedOptions(image, known))
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		defer l.Close()
		n, least := int(l.LastIndex()), len(stored)
		if cutting >= 0 {
			least = cutting
		}
		all := slices.Concat(stored, writing)
		if n < least || n > len(all) {
			return fmt.Errorf("%s: %d entries, want %d to %d", what, n, least, len(all))
		}
		if err := sameEntries(l, all[:n]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if l.Committed() < known || l.Index() > uint64(committed) {
			return fmt.Errorf("%s: %d is committed, up to %d; %d was, up to %d is known", what, l.Index(), l.Committed(), committed, known)
		}
		// It goes on, from where its life ended or from before.
		if err := l.TruncateAfter(uint64(max(committed, n-2))); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		n = int(l.LastIndex())
		next := append(slices.Clone(all[:n]), someEntry(uint64(n+1), 9, 7))
		if err := l.Store(next[n:]); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return sameEntries(l, next)
	}
	fs.Hook(func(c crashtest.Call) error {
		mu.Lock()
		defer mu.Unlock()
		if broken == nil && c.Op != crashtest.Read && c.Op != crashtest.Open && c.Op != crashtest.Map {
			for _, s := range crashtest.Survivals {
				images++
				if err := check(fs.Crash(s, crashes), fmt.Sprintf("power lost (%v) before call %d, %s %s", s, c.N, c.Op, c.Name)); err != nil {
					broken = err
					break
				}
			}
		}
		return nil
	})
	l, err := Open(replicatedOptions(fs, 0))
	if err != nil {
		t.Fatal(err)
	}
	term := uint64(1)
	set := func(f func()) {
		mu.Lock()
		defer mu.Unlock()
		f()
	}
	for range 8 {
		for range 1 + rng.IntN(3) {
			var next []Entry
			for range 1 + rng.IntN(15) {
				next = append(next, someEntry(uint64(len(stored)+len(next)+1), term, rng.Uint64()))
			}
			set(func() { writing = next })
			if err := l.Store(next); err != nil {
				t.Fatal(err)
			}
			set(func() { stored, writing = append(stored, next...), nil })
		}
		if rng.IntN(2) == 0 && len(stored) > committed {
			set(func() { committed += 1 + rng.IntN(len(stored)-committed) })
			_, end, err := l.Commit(uint64(committed))
			if err != nil {
				t.Fatal(err)
			}
			if rng.IntN(2) == 0 {
				set(func() { known = end })
			}
		}
		if rng.IntN(2) == 0 {
			set(func() { cutting = committed + rng.IntN(len(stored)-committed+1) })
			if err := l.TruncateAfter(uint64(cutting)); err != nil {
				t.Fatal(err)
			}
			set(func() { stored, cutting = stored[:cutting:cutting], -1 })
			term++
		}
	}
	fs.Hook(nil)
	if broken != nil {
		t.Fatal(broken)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d images", images)
}

func TestALogThatWasNotReplicatedGoesOnReplicated(t *testing.T) {
	fs := crashtest.New()
	opt := replicatedOptions(fs, 0)
	opt.Replicated = false
	l, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint64(200) {
		var b Batch
		b.Add(makeRecord(i, 1000))
		if err := l.Append(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	}
	before, err := frames(l)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = Open(replicatedOptions(fs, 0)); err != nil {
		t.Fatal(err)
	}
	if err := l.Submit(new(Batch)); !errors.Is(err, ErrReplicated) {
		t.Errorf("Submit: %v", err)
	}
	if l.Index() != 200 || l.LastIndex() != 200 || l.FirstIndex() != 1 {
		t.Errorf("[%d, %d], %d committed", l.FirstIndex(), l.LastIndex(), l.Index())
	}
	for _, i := range []uint64{200, 1, 100, 101, 37} {
		if e, err := l.Entry(i); err != nil || e.Index != i || !bytes.Equal(e.Payload, before[i-1].Payload) {
			t.Errorf("entry %d: %d, %v", i, e.Index, err)
		}
	}
	if err := l.TruncateAfter(199); !errors.Is(err, ErrAgreed) {
		t.Errorf("what was acknowledged was taken back: %v", err)
	}
	if err := l.Store([]Entry{someEntry(201, 2, 0)}); err != nil {
		t.Fatal(err)
	}
	if n := l.Index(); n != 200 {
		t.Errorf("%d is committed before anybody said so", n)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnEmptyReplicatedLogIsReadAsEmpty(t *testing.T) {
	l, err := Open(replicatedOptions(crashtest.New(), 0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if all, err := frames(l); err != nil || len(all) > 0 {
		t.Errorf("%d frames, %v", len(all), err)
	}
	if l.FirstIndex() != 0 || l.LastIndex() != 0 || l.Committed() != l.First() {
		t.Errorf("[%d, %d], committed up to %d, begins at %d", l.FirstIndex(), l.LastIndex(), l.Committed(), l.First())
	}
}

func TestEntriesThatDoNotFollowAreRefused(t *testing.T) {
	l, err := Open(replicatedOptions(crashtest.New(), 0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good := []Entry{someEntry(1, 3, 0), someEntry(2, 3, 0)}
	if err := l.Store(good); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		e    Entry
		want error
	}{
		"a gap":            {someEntry(4, 3, 0), ErrSequence},
		"again":            {someEntry(2, 3, 0), ErrSequence},
		"an older term":    {someEntry(3, 2, 0), ErrSequence},
		"no type":          {Entry{Index: 3, Term: 3}, ErrMalformed},
		"a segment's end":  {Entry{Index: 3, Term: 3, Type: segmentEnd}, ErrMalformed},
		"half a record":    {Entry{Index: 3, Term: 3, Type: FrameRecords, Payload: make([]byte, 12)}, ErrMalformed},
		"more than a file": {Entry{Index: 3, Term: 3, Type: FrameBarrier, Payload: make([]byte, minSegmentSize)}, ErrBatchTooLarge},
	} {
		if err := l.Store([]Entry{tt.e}); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if _, _, err := l.Commit(3); !errors.Is(err, ErrOutOfRange) {
		t.Errorf("commit of what is not there: %v", err)
	}
	if err := sameEntries(l, good); err != nil {
		t.Error(err)
	}
}
