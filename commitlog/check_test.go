package commitlog

import (
	"bytes"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

func TestScanGoesOnFromAnyFrame(t *testing.T) {
	im := writeImage(t, 20, 5, true)
	for i, from := range im.frames {
		want := i
		_, err := scanDir(im.fs, crashDir, from.Position, func(f Frame) error {
			n, _, err := checkRecord(f.Payload)
			if err != nil || f.Position != im.frames[want].Position || n != uint64(want) {
				t.Errorf("from %d: frame at %d holds %d, %v", i, f.Position, n, err)
			}
			want++
			return nil
		})
		if err != nil || want != len(im.frames) {
			t.Errorf("from %d: ends before frame %d, %v", i, want, err)
		}
	}
	stop := errors.New("enough")
	if _, err := scanDir(im.fs, crashDir, 0, func(Frame) error { return stop }); err != stop {
		t.Errorf("%v", err)
	}
}

// Scan and Check read what is being written, rolled and dropped, and must not
// take that for damage.
func TestScanAndCheckBesideARunningLogSeeNoDamage(t *testing.T) {
	l := openTest(t, Options{SegmentSize: minSegmentSize, FrameBytes: 2 << 10, Durability: DurabilityUnsafeAsync})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		var b Batch
		for i := uint64(0); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			b.Reset()
			b.Add(makeRecord(i, int(i*37)%3000))
			if err := l.Append(t.Context(), &b); err != nil {
				t.Error(err)
				return
			}
			if i%100 == 0 {
				if _, err := l.DropBefore(max(l.Committed(), 6*minSegmentSize) - 6*minSegmentSize); err != nil {
					t.Error(err)
					return
				}
			}
		}
	}()
	for range 100 {
		if _, err := Check(l.opt.Dir); err != nil && !errors.Is(err, ErrOutOfRange) && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		last := uint64(0)
		err := Scan(l.opt.Dir, 0, func(f Frame) error {
			for p := f.Payload; len(p) > 0; {
				n, rest, err := checkRecord(p)
				if err != nil {
					return err
				}
				if last > 0 && n != last+1 {
					t.Fatalf("record %d after %d", n, last)
				}
				last, p = n, rest
			}
			return nil
		})
		if err != nil && !errors.Is(err, ErrOutOfRange) {
			t.Fatal(err)
		}
	}
	close(stop)
	<-stopped
}

// staleFS lists what is gone by the time it is opened.
type staleFS struct {
	*crashtest.FS
	gone []string
}

func (s staleFS) List(dir string) ([]string, error) {
	names, err := s.FS.List(dir)
	return append(slices.Clone(s.gone), names...), err
}

// However many segments retention takes in each listing, a scan begins with the
// first that is still there.
func TestScanBeginsBehindWhatRetentionTakesMeanwhile(t *testing.T) {
	im := writeImage(t, 30, 0, true)
	stale := staleFS{FS: im.fs}
	for i := range 20 {
		stale.gone = append(stale.gone, segmentName(record.Position(i)))
	}
	frames := 0
	_, err := scanDir(stale, crashDir, 0, func(Frame) error { frames++; return nil })
	if err != nil || frames != len(im.frames) {
		t.Fatalf("%d frames of %d, %v", frames, len(im.frames), err)
	}
	names, err := im.fs.List(crashDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := im.fs.Remove(filepath.Join(crashDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := scanDir(stale, crashDir, 0, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("nothing is there at all: %v", err)
	}
}

// Whatever a disk makes of the file: no panic, and what is read is a beginning
// of what was written. An error is always allowed, an invention never.
func TestRandomDamageIsNeverReadAsSomethingElse(t *testing.T) {
	rng := newRNG(t)
	im := writeImage(t, 30, 12, false) // more bytes in the last group than the damage can reach
	end := int(im.frames[29].End)
	opened, refused := 0, 0
	for range 1500 {
		image := &logImage{fs: im.fs.Kill()}
		image.damage(t, func(b []byte) {
			original := bytes.Clone(b)
			for range 1 + rng.IntN(3) {
				at, n := rng.IntN(end), 1+rng.IntN(2000)
				switch rng.IntN(5) {
				case 0:
					b[at] ^= 1 << rng.IntN(8)
				case 1:
					clear(b[at:min(at+n, len(b))])
				case 2: // a sector that went to the wrong place
					copy(b[at&^511:][:512], original[rng.IntN(end)&^511:])
				case 3: // a frame that went to the wrong place
					f, g := im.frames[rng.IntN(30)], im.frames[rng.IntN(30)]
					copy(b[f.Position:], original[g.Position:g.End])
				case 4:
					for i := range b[at:min(at+n, len(b))] {
						b[at+i] = byte(rng.Uint32())
					}
				}
			}
		})
		check := func(f Frame) error {
			n, _, err := checkRecord(f.Payload)
			if err != nil || n != f.Index-1 || f.Position != im.frames[n].Position {
				t.Fatalf("frame %d at %d holds record %d, %v", f.Index, f.Position, n, err)
			}
			return nil
		}
		scanDir(image.fs, crashDir, 0, check)
		l, err := Open(crashOptions(image.fs, DurabilitySync))
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Fatalf("%v", err)
			}
			refused++
			continue
		}
		opened++
		if l.Index() < 18 {
			t.Fatalf("only %d frames are left, 18 were durable", l.Index())
		}
		r := l.Reader(l.First())
		for r.Position() < l.Committed() {
			f, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			check(f)
			f.Release()
		}
		l.Close()
	}
	if opened == 0 || refused == 0 {
		t.Errorf("opened %d, refused %d", opened, refused)
	}
}

func TestRetentionReusesAFileOfWhichNoViewIsOpen(t *testing.T) {
	for _, viewed := range []bool{false, true} {
		fs := crashtest.New()
		l, err := Open(crashOptions(fs, DurabilitySync))
		if err != nil {
			t.Fatal(err)
		}
		var view View
		fill := func(until int) {
			for i := uint64(0); len(*l.segs.Load()) < until; i++ {
				var b Batch
				b.Add(makeRecord(i, 9000))
				if err := l.Append(t.Context(), &b); err != nil {
					t.Fatal(err)
				}
				if i == 0 && viewed && view.b == nil {
					if view, err = l.View(b.Position(0), 9016); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		fill(4)
		l.mu.Lock()
		spares := len(l.spares)
		l.mu.Unlock()
		renames := 0
		fs.Hook(func(c crashtest.Call) error {
			if c.Op == crashtest.Rename && filepath.Ext(c.Name) == ".tmp" {
				renames++
			}
			return nil
		})
		if n, err := l.DropBefore(minSegmentSize); n != 1 || err != nil {
			t.Fatalf("dropped %d, %v", n, err)
		}
		fs.Hook(nil)
		if want := !viewed && spares == 0; (renames == 1) != want {
			t.Errorf("view open %v, %d spares: file reused %v", viewed, spares, renames == 1)
		}
		fill(7) // over the old bytes, if it was
		if viewed {
			if n, _, err := checkRecord(view.Bytes()); n != 0 || err != nil {
				t.Errorf("the view reads %d, %v", n, err)
			}
			view.Release()
		}
		h := record.Position(0)
		r := l.Reader(l.First())
		for r.Position() < l.Committed() {
			f, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			h = f.End
			f.Release()
		}
		if h != l.Committed() {
			t.Errorf("read to %d of %d", h, l.Committed())
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := checkDir(fs, crashDir); err != nil {
			t.Error(err)
		}
	}
}
