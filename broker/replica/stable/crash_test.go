package stable

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

var seedFlag = flag.Uint64("seed", 0, "seed of the crash tests; 0 means a new one each time")

func newRNG(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// past is what was promised when the power went: states[acked] was acknowledged,
// any later one may have been on its way.
type past struct {
	states []map[string][]byte
	acked  int // -1: not even created
}

func (p past) check(s *Store) error {
	for _, want := range p.states[max(p.acked, 0):] {
		if maps.EqualFunc(s.slot.values, want, bytes.Equal) {
			return nil
		}
	}
	return fmt.Errorf("found %q; acknowledged state %d of %q", s.slot.values, p.acked, p.states)
}

// reopen opens what a crash left. With depth, the power goes again at every call
// of the opening, with the same promise.
func (p past) reopen(image *crashtest.FS, rng *rand.Rand, depth int) error {
	var nested error
	if depth > 0 {
		image.Hook(func(c crashtest.Call) error {
			survival := crashtest.Survivals[rng.IntN(len(crashtest.Survivals))]
			for _, found := range []*crashtest.FS{image.Crash(survival, rng), image.Kill()} {
				if err := p.reopen(found, rng, depth-1); err != nil && nested == nil {
					nested = fmt.Errorf("again (%v) while opening, before call %d, %s: %w", survival, c.N, c.Op, err)
				}
			}
			return nil
		})
		defer image.Hook(nil)
	}
	s, err := Open(image, name, quiet)
	switch {
	case nested != nil:
		return nested
	case errors.Is(err, fs.ErrNotExist) && p.acked < 0:
		return nil
	case err != nil:
		return err
	}
	return p.check(s)
}

// elections sets what raft sets, term after term, and calls at before every call of
// the file system with what is promised at that moment.
func elections(t *testing.T, fsys *crashtest.FS, terms int, at func(past)) {
	p := past{states: []map[string][]byte{{}}, acked: -1}
	fsys.Hook(func(crashtest.Call) error {
		at(past{states: p.states, acked: p.acked})
		return nil
	})
	defer fsys.Hook(nil)
	s, err := Create(fsys, name)
	if err != nil {
		t.Fatal(err)
	}
	p.acked = 0
	set := func(key string, value []byte, forget string) {
		next := maps.Clone(p.states[len(p.states)-1])
		delete(next, forget)
		next[key] = value
		p.states = append(p.states, next)
		if err := s.Set([]byte(key), value); err != nil {
			t.Fatal(err)
		}
		p.acked = len(p.states) - 1
	}
	for term := range uint64(terms) {
		number := le.AppendUint64(nil, term+1)
		set("CurrentTerm", number, "")
		set(keyVoteTerm, number, keyVoteCandidate)
		// From the second on longer than a sector, so that a slot can tear.
		set(keyVoteCandidate, bytes.Repeat([]byte{byte('a' + term)}, 20+700*int(term)), "")
	}
	at(p)
}

func TestPowerLossAtEveryCallKeepsWhatWasAcknowledged(t *testing.T) {
	rng := newRNG(t)
	fsys := newFS(t)
	images := 0
	elections(t, fsys, 4, func(p past) {
		for _, survival := range crashtest.Survivals {
			images++
			if err := p.reopen(fsys.Crash(survival, rng), rng, 1); err != nil {
				t.Fatalf("power lost (%v): %v", survival, err)
			}
		}
		if err := p.reopen(fsys.Kill(), rng, 1); err != nil {
			t.Fatalf("killed: %v", err)
		}
	})
	t.Logf("%d images", images)
}

// What one bad slot may cost is a refusal to start, never a vote. With slots written
// in turn, where a bad slot was replaced by the older one, this fails.
func TestOneBadSlotNeverBringsAnOldStateBack(t *testing.T) {
	rng := newRNG(t)
	fsys := newFS(t)
	opened, refused := 0, 0
	elections(t, fsys, 4, func(p past) {
		if p.acked < 0 {
			return
		}
		for _, survival := range crashtest.Survivals {
			for i := range int64(2) {
				image := fsys.Crash(survival, rng)
				f := must(image.Open(name))(t)
				var b [1]byte
				off := i*slotLen + rng.Int64N(slotLen)
				if _, err := f.ReadAt(b[:], off); err != nil {
					t.Fatal(err)
				}
				b[0] ^= 1 << rng.IntN(8)
				if _, err := f.WriteAt(b[:], off); err != nil {
					t.Fatal(err)
				}
				s, err := Open(image, name, quiet)
				switch {
				case errors.Is(err, ErrCorrupt):
					refused++
				case err != nil:
					t.Fatal(err)
				default:
					opened++
					if err := p.check(s); err != nil {
						t.Fatalf("power lost (%v), then byte %d flipped: %v", survival, off, err)
					}
				}
			}
		}
	})
	t.Logf("%d opened, %d refused", opened, refused)
	if opened == 0 {
		t.Error("a bad slot is never replaced")
	}
}
