package commitlog

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the crash tests; 0 means a new one each time")
	imagesFlag = flag.Int("images", 1, "crash images per call, survival and depth: more for a longer exploration")
)

func newRNG(t *testing.T) *rand.Rand {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed: -seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// crashDir is where the log is in the file systems of these tests.
const crashDir = "/log"

// history is what callers were told. Records are in streams: each stream is one
// caller that appends 0, 1, 2 ... in order. A record's number is its stream in
// the high 32 bits and its place in the stream in the low ones.
type history struct {
	submitted, acked []atomic.Int64
	// floor is the place in stream 0 up to which retention was allowed to drop.
	floor atomic.Int64
}

func newHistory(streams int) *history {
	return &history{submitted: make([]atomic.Int64, streams), acked: make([]atomic.Int64, streams)}
}

// snapshot freezes it. What is acknowledged is read first: it must be a lower
// bound.
func (h *history) snapshot() *history {
	c := newHistory(len(h.acked))
	for i := range h.acked {
		c.acked[i].Store(h.acked[i].Load())
	}
	for i := range h.acked {
		c.submitted[i].Store(h.submitted[i].Load())
	}
	c.floor.Store(h.floor.Load())
	return c
}

// grow takes in what was submitted, and allowed to drop, since the snapshot: other
// goroutines may have gone on before the image was taken.
func (h *history) grow(now *history) {
	for i := range h.submitted {
		h.submitted[i].Store(now.submitted[i].Load())
	}
	h.floor.Store(now.floor.Load())
}

// add puts the next record of a stream into b.
func (h *history) add(b *Batch, stream int, size int) {
	i := h.submitted[stream].Add(1) - 1
	b.Add(makeRecord(uint64(stream)<<32|uint64(i), size))
}

// verify reads the whole log and compares.
func (h *history) verify(l *Log, exact bool) error {
	next := make([]int64, len(h.acked))
	for i := range next {
		next[i] = -1
	}
	r := l.Reader(l.First())
	// Cancelled from the start: Next returns frames all the same, and waits for none.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for {
		f, err := r.Next(ctx)
		if errors.Is(err, context.Canceled) {
			break
		}
		if err != nil {
			return err
		}
		for p := f.Payload; len(p) > 0; {
			n, rest, err := checkRecord(p)
			if err != nil {
				return err
			}
			stream, i := n>>32, int64(uint32(n))
			if stream >= uint64(len(next)) {
				return fmt.Errorf("record of unknown stream %d", stream)
			}
			if next[stream] < 0 && stream == 0 && i <= h.floor.Load() {
				next[stream] = i
			}
			if i != max(next[stream], 0) {
				return fmt.Errorf("stream %d: record %d, want %d", stream, i, max(next[stream], 0))
			}
			next[stream] = i + 1
			p = rest
		}
		f.Release()
	}
	for stream, n := range next {
		n = max(n, 0)
		if acked := h.acked[stream].Load(); n < acked {
			return fmt.Errorf("stream %d: %d records, %d were acknowledged", stream, n, acked)
		}
		if submitted := h.submitted[stream].Load(); n > submitted || exact && n < submitted {
			return fmt.Errorf("stream %d: %d records, %d were submitted", stream, n, submitted)
		}
		// From now on this is the truth.
		h.submitted[stream].Store(n)
		h.acked[stream].Store(n)
	}
	return nil
}

func crashOptions(fs *crashtest.FS, d Durability) Options {
	return Options{
		Dir: crashDir, FS: fs, SegmentSize: minSegmentSize, FrameBytes: 8 << 10, Durability: d,
		SyncEvery: time.Millisecond, Logger: quiet, Fatal: func(error) {},
	}
}

// recoverImage opens a crash image, which must hold what h says, appends some,
// and opens it again: then exactly that must be there. With depth, it crashes
// while it recovers, too.
func recoverImage(image *crashtest.FS, h *history, d Durability, rng *rand.Rand, depth int, images *int) error {
	*images++
	if depth > 0 {
		var nested error
		image.Hook(func(c crashtest.Call) error {
			if nested == nil && c.Op != crashtest.Read && c.Op != crashtest.Open && c.Op != crashtest.Map {
				s := crashtest.Survivals[rng.IntN(len(crashtest.Survivals))]
				if err := recoverImage(image.Crash(s, rng), h.snapshot(), d, rng, depth-1, images); err != nil {
					nested = fmt.Errorf("crashed again (%v) in recovery before call %d, %s %s: %w", s, c.N, c.Op, c.Name, err)
				}
			}
			return nil
		})
		defer image.Hook(nil)
		l, err := Open(crashOptions(image, d))
		if err != nil {
			return fmt.Errorf("open: %w", err)
		}
		image.Hook(nil)
		l.Close()
		if nested != nil {
			return nested
		}
	}
	for round := range 2 {
		l, err := Open(crashOptions(image, d))
		if err != nil {
			return fmt.Errorf("open %d: %w", round, err)
		}
		if err := h.verify(l, round > 0); err != nil {
			l.Close()
			return fmt.Errorf("round %d: %w", round, err)
		}
		for i := range 3 {
			var b Batch
			h.add(&b, 0, 300*i)
			if err := l.Append(context.Background(), &b); err != nil {
				return fmt.Errorf("append: %w", err)
			}
			h.acked[0].Add(1)
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("close: %w", err)
		}
	}
	if _, err := checkDir(image, crashDir); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}

// killImage opens what kill -9 leaves, which must hold what h says, and then
// loses power: what readers saw after the first is still there after the second.
func killImage(image *crashtest.FS, h *history, d Durability, rng *rand.Rand, images *int) error {
	*images++
	l, err := Open(crashOptions(image, d))
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	err = h.verify(l, false)
	after := image.Crash(crashtest.None, rng)
	l.Close()
	if err != nil {
		return err
	}
	if err := recoverImage(after, h, d, rng, 0, images); err != nil {
		return fmt.Errorf("then power lost: %w", err)
	}
	return nil
}

// explore runs a workload and has the power fail before every single call that
// it makes on the file system; before every fifth with -short.
func explore(t *testing.T, d Durability, streams int, workload func(fs *crashtest.FS, h *history) error) {
	rng := newRNG(t)
	fs, h := crashtest.New(), newHistory(streams)
	images, calls := 0, 0
	var failure error
	fs.Hook(func(c crashtest.Call) error {
		if failure != nil || c.Op == crashtest.Read || c.Op == crashtest.Open || c.Op == crashtest.Map {
			return nil
		}
		if calls++; testing.Short() && calls%5 != 0 {
			return nil
		}
		for _, s := range crashtest.Survivals {
			for range *imagesFlag {
				then := h.snapshot()
				if s == crashtest.All {
					image := fs.Kill()
					then.grow(h)
					if err := killImage(image, then, d, rng, &images); err != nil {
						failure = fmt.Errorf("killed before call %d, %s %s: %w", c.N, c.Op, c.Name, err)
						return nil
					}
					continue
				}
				depth := 0
				if rng.IntN(40) == 0 {
					depth = 1 + rng.IntN(2)
				}
				if d == DurabilityUnsafeAsync {
					for i := range then.acked { // a power loss takes what it wants
						then.acked[i].Store(0)
					}
				}
				image := fs.Crash(s, rng)
				then.grow(h)
				if err := recoverImage(image, then, d, rng, depth, &images); err != nil {
					failure = fmt.Errorf("power lost (%v) before call %d, %s %s: %w", s, c.N, c.Op, c.Name, err)
					return nil
				}
			}
		}
		return nil
	})
	if err := workload(fs, h); err != nil {
		t.Fatal(err)
	}
	fs.Hook(nil)
	if failure != nil {
		t.Fatal(failure)
	}
	t.Logf("%d images of %d calls", images, calls)
}

func TestPowerLossBeforeAnyCallKeepsWhatWasAcknowledged(t *testing.T) {
	script := func(d Durability) func(fs *crashtest.FS, h *history) error {
		return func(fs *crashtest.FS, h *history) error {
			var positions []record.Position
			for range 3 {
				l, err := Open(crashOptions(fs, d))
				if err != nil {
					return err
				}
				var b Batch
				for i := range 24 {
					b.Reset()
					n := 1 + i%3
					for j := range n {
						h.add(&b, 0, (i*i*211+j*997)%7000)
					}
					if err := l.Append(context.Background(), &b); err != nil {
						return err
					}
					h.acked[0].Add(int64(n))
					for j := range n {
						positions = append(positions, b.Position(j))
					}
					if i%6 != 5 {
						continue
					}
					// Retention may take all but the last 70,000 bytes.
					floor := max(l.Committed(), 70_000) - 70_000
					below, _ := slices.BinarySearch(positions, floor)
					h.floor.Store(int64(below)) // at once: an image may be taken at any moment
					if _, err := l.DropBefore(floor); err != nil {
						return err
					}
				}
				if err := l.Close(); err != nil {
					return err
				}
			}
			return nil
		}
	}
	t.Run("sync", func(t *testing.T) { explore(t, DurabilitySync, 1, script(DurabilitySync)) })
	t.Run("async", func(t *testing.T) { explore(t, DurabilityUnsafeAsync, 1, script(DurabilityUnsafeAsync)) })
}

func TestPowerLossUnderConcurrentCallersKeepsWhatWasAcknowledged(t *testing.T) {
	const streams = 4
	explore(t, DurabilitySync, streams, func(fs *crashtest.FS, h *history) error {
		l, err := Open(crashOptions(fs, DurabilitySync))
		if err != nil {
			return err
		}
		errs := make([]error, streams)
		var wg sync.WaitGroup
		for s := range streams {
			wg.Go(func() {
				var batches [3]Batch
				for i := range 12 {
					for j := range batches {
						b := &batches[j]
						b.Reset()
						h.add(b, s, (i*331+s*1511+j*4003)%6000)
						if errs[s] = l.Submit(b); errs[s] != nil {
							return
						}
					}
					for j := range batches {
						if errs[s] = batches[j].Wait(context.Background()); errs[s] != nil {
							return
						}
						h.acked[s].Add(1)
					}
				}
			})
		}
		wg.Wait()
		return errors.Join(append(errs, l.Close())...)
	})
}
