package commitlog

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// logImage is a log's file system after kill -9, and where its frames are.
type logImage struct {
	fs     *crashtest.FS
	frames []Frame // without payload
}

// writeImage appends n batches of one record, one frame each. The last group of
// them are written together, when all before them are durable.
func writeImage(t *testing.T, n, group int, closed bool) *logImage {
	t.Helper()
	fs := crashtest.New()
	opt := crashOptions(fs, DurabilitySync)
	opt.FrameBytes = 1 // no frame takes two batches
	l, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	im := &logImage{}
	h := newHistory(1)
	for range n - group - min(group, 1) {
		var b Batch
		h.add(&b, 0, 700)
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	batches := make([]Batch, group)
	if group > 0 {
		// While the sync is held up, what is submitted piles up and is one group.
		gate, held := make(chan struct{}), make(chan struct{})
		first := true
		fs.Hook(func(c crashtest.Call) error {
			if c.Op == crashtest.Write && first {
				first = false
				close(held)
				<-gate
			}
			return nil
		})
		var b Batch
		h.add(&b, 0, 700)
		if err := l.Submit(&b); err != nil {
			t.Fatal(err)
		}
		<-held
		for i := range batches {
			h.add(&batches[i], 0, 700)
			if err := l.Submit(&batches[i]); err != nil {
				t.Fatal(err)
			}
		}
		close(gate)
		for i := range batches {
			if err := batches[i].Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		fs.Hook(nil)
	}
	im.fs = fs.Kill()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if closed {
		im.fs = fs.Kill()
	}
	_, err = scanDir(im.fs, crashDir, 0, func(f Frame) error {
		f.Payload = nil
		im.frames = append(im.frames, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// flip flips a bit of a byte of the first segment, also while a log is open.
func (im *logImage) flip(t *testing.T, at int64) {
	t.Helper()
	file, err := im.fs.Open(filepath.Join(crashDir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], at); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := file.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// damage changes bytes of the first segment of a log that is closed.
func (im *logImage) damage(t *testing.T, f func(b []byte)) {
	t.Helper()
	file, err := im.fs.Open(filepath.Join(crashDir, segmentName(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	m, err := file.MapWritable()
	if err != nil {
		t.Fatal(err)
	}
	f(m.Bytes())
}

func (im *logImage) bytes(t *testing.T) (b []byte) {
	im.damage(t, func(p []byte) { b = bytes.Clone(p) })
	return b
}

var damages = map[string]func(b []byte, at, end int){
	"header bit flipped":        func(b []byte, at, end int) { b[at+9] ^= 4 },
	"magic bit flipped":         func(b []byte, at, end int) { b[at] ^= 1 },
	"payload bit flipped":       func(b []byte, at, end int) { b[at+frameHeaderLen+5] ^= 1 },
	"last payload bit flipped":  func(b []byte, at, end int) { b[end-9] ^= 0x80 },
	"header cut in half":        func(b []byte, at, end int) { clear(b[at+13 : at+frameHeaderLen]) },
	"first sector of it zeroed": func(b []byte, at, end int) { clear(b[at:min(at+512, end)]) },
	"all of it zeroed":          func(b []byte, at, end int) { clear(b[at:end]) },
	"length runs past":          func(b []byte, at, end int) { le.PutUint32(b[at+32:], 1<<30) },
	"garbage":                   func(b []byte, at, end int) { copy(b[at:end], bytes.Repeat([]byte("garbage!"), 1000)) },
}

func TestDamageToTheUnsyncedTailIsCutAndNothingElse(t *testing.T) {
	const n, group = 12, 4
	for name, damage := range damages {
		for bad := n - group; bad < n; bad++ { // any frame of the last group
			im := writeImage(t, n, group, false)
			if len(im.frames) != n {
				t.Fatalf("%d frames", len(im.frames))
			}
			f := im.frames[bad]
			im.damage(t, func(b []byte) { damage(b, int(f.Position), int(f.End)) })
			l, err := Open(crashOptions(im.fs, DurabilitySync))
			if err != nil {
				t.Errorf("%s, frame %d of %d: %v", name, bad, n, err)
				continue
			}
			if got := l.Index(); got != uint64(bad) {
				t.Errorf("%s, frame %d: kept %d frames", name, bad, got)
			}
			if l.Committed() != f.Position {
				t.Errorf("%s, frame %d: ends at %d, want %d", name, bad, l.Committed(), f.Position)
			}
			magic := magicOf(l.last().nonce)
			l.Close()
			// Nothing of the tail looks like a frame any more.
			b := im.bytes(t)
			for off := int(f.Position); off < len(b); off += 8 {
				if le.Uint32(b[off:]) == magic {
					t.Errorf("%s, frame %d: frame header left at %d", name, bad, off)
				}
			}
		}
	}
}

func TestDamageToWhatWasDurableIsAnErrorAndChangesNothing(t *testing.T) {
	const n, group = 12, 4
	for name, damage := range damages {
		for bad := range n {
			// A frame before the last group is proved durable by the hints of later
			// ones; any frame is, once the log was closed.
			for _, closed := range []bool{false, true} {
				if !closed && bad >= n-group {
					continue
				}
				im := writeImage(t, n, group, closed)
				f := im.frames[bad]
				im.damage(t, func(b []byte) { damage(b, int(f.Position), int(f.End)) })
				if closed { // the whole log is to be scanned, its end is known
					im.rewindCheckpoint(t)
				}
				before := im.bytes(t)
				opt := crashOptions(im.fs, DurabilitySync)
				if closed {
					opt.Known = im.frames[n-1].End
				}
				_, err := Open(opt)
				var corrupt *CorruptError
				if !errors.As(err, &corrupt) || !errors.Is(err, ErrCorrupt) || corrupt.Pos != f.Position || corrupt.Segment == "" {
					t.Errorf("%s, frame %d, closed %v: Open: %v, want a CorruptError at %d", name, bad, closed, err, f.Position)
				}
				if !bytes.Equal(im.bytes(t), before) {
					t.Errorf("%s, frame %d, closed %v: Open changed the log", name, bad, closed)
				}
				if !closed {
					if _, err := checkDir(im.fs, crashDir); !errors.As(err, &corrupt) {
						t.Errorf("%s, frame %d: Check: %v", name, bad, err)
					}
				}
			}
		}
	}
}

// A bad frame may be followed by as much as was ever unsynced before there is one
// that was written when the bad one was durable.
func TestAFrameThatProvesDamageIsFoundAsFarAwayAsItCanBe(t *testing.T) {
	for name, tt := range map[string]struct {
		beyond int64
		found  bool
	}{
		"next":             {0, true},
		"a sync further":   {maxUnsynced, true},
		"as far as it can": {asyncUnsynced + 32<<20, true},
		"further":          {lookAheadBytes, false},
	} {
		t.Run(name, func(t *testing.T) {
			opt := Options{Dir: t.TempDir(), Logger: quiet, Fatal: func(error) {}} // on a disk: it is sparse there
			l, err := Open(opt)
			if err != nil {
				t.Fatal(err)
			}
			var b Batch
			b.Add(makeRecord(1, 100))
			if err := l.Append(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			s := l.last()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			h := frameHeader{Index: 100, Term: 1, Hint: 2, Length: 8, Type: FrameRecords, Time: 1}
			raw := make([]byte, frameHeaderLen)
			h.encode(raw, s.nonce)
			file, err := mmapfile.OS.Open(s.path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := file.WriteAt(raw, int64(b.End()-s.base)+tt.beyond); err != nil {
				t.Fatal(err)
			}
			file.Close()
			l, err = Open(opt)
			var corrupt *CorruptError
			if found := errors.As(err, &corrupt) && corrupt.Pos == b.End() && errors.Is(err, ErrSequence); found != tt.found {
				t.Errorf("found: %v, %v", found, err)
			}
			if err == nil {
				l.Close()
			}
		})
	}
}

// rewindCheckpoint makes Open scan from the start, as after a crash.
func (im *logImage) rewindCheckpoint(t *testing.T) {
	t.Helper()
	file, err := im.fs.Open(filepath.Join(crashDir, manifestName))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	mf := &manifestFile{file: file}
	for range 2 {
		mf.m.Seq += 100
		if err := mf.save(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDamageBeforeTheCheckpointOfACleanCloseIsFoundByOpenOrCheck(t *testing.T) {
	im := writeImage(t, 12, 0, true)
	for bad, f := range im.frames {
		fs := &logImage{fs: im.fs.Kill()}
		fs.damage(t, func(b []byte) { b[f.Position+70] ^= 1 })
		if _, err := checkDir(fs.fs, crashDir); !errors.Is(err, ErrCorrupt) {
			t.Errorf("frame %d: Check: %v", bad, err)
		}
	}
}

func TestMissingFilesAreCorruptionNotAnEmptyLog(t *testing.T) {
	full := crashtest.New()
	l, err := Open(crashOptions(full, DurabilitySync))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		var b Batch
		b.Add(makeRecord(0, 20_000))
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := full.List(crashDir)
	if err != nil {
		t.Fatal(err)
	}
	var segments []string
	for _, name := range names {
		if _, ok := parseSegmentName(name); ok {
			segments = append(segments, name)
		}
	}
	if len(segments) < 4 {
		t.Fatalf("%d segments", len(segments))
	}
	for name, remove := range map[string][]string{
		"the manifest":     {manifestName},
		"a middle segment": {segments[1]},
		"the last segment": {segments[len(segments)-1]},
		"all segments":     segments,
	} {
		fs := full.Kill()
		for _, n := range remove {
			if err := fs.Remove(filepath.Join(crashDir, n)); err != nil {
				t.Fatal(err)
			}
		}
		before, _ := fs.List(crashDir)
		if l, err := Open(crashOptions(fs, DurabilitySync)); !errors.Is(err, ErrCorrupt) || !errors.Is(err, ErrMissing) {
			t.Errorf("without %s: %v", name, err)
			if l != nil {
				l.Close()
			}
		}
		if after, _ := fs.List(crashDir); !slices.Equal(before, after) {
			t.Errorf("without %s: Open made %v of %v", name, after, before)
		}
	}
	// Without the first it is what retention leaves.
	fs := full.Kill()
	if err := fs.Remove(filepath.Join(crashDir, segments[0])); err != nil {
		t.Fatal(err)
	}
	l, err = Open(crashOptions(fs, DurabilitySync))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}

func TestADamagedManifestSlotIsReplacedByTheOther(t *testing.T) {
	im := writeImage(t, 5, 0, true)
	for slot := range 2 {
		fs := im.fs.Kill()
		file, err := fs.Open(filepath.Join(crashDir, manifestName))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt([]byte("x"), int64(slot)*manifestSlotLen+30); err != nil {
			t.Fatal(err)
		}
		l, err := Open(crashOptions(fs, DurabilitySync))
		if err != nil {
			t.Fatalf("slot %d: %v", slot, err)
		}
		if l.Index() != 5 {
			t.Errorf("slot %d: %d frames", slot, l.Index())
		}
		l.Close()
	}
}

func TestAStrangeFileIsMovedToQuarantineWithItsContent(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		if err := os.WriteFile(filepath.Join(dir, "notes.txt"), []byte{byte('0' + round)}, 0o600); err != nil {
			t.Fatal(err)
		}
		l := openTest(t, Options{Dir: dir, SegmentSize: minSegmentSize})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"notes.txt", "notes.txt.1"} {
		b, err := os.ReadFile(filepath.Join(dir, quarantine, name))
		if err != nil || string(b) != string(rune('0'+i)) {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestASecondOpenIsRefusedAndNamesTheHolder(t *testing.T) {
	dir := t.TempDir()
	openTest(t, Options{Dir: dir, SegmentSize: minSegmentSize})
	_, err := Open(Options{Dir: dir, SegmentSize: minSegmentSize, Logger: quiet})
	var locked *mmapfile.LockedError
	if !errors.As(err, &locked) || locked.PID != os.Getpid() || locked.Dir != dir {
		t.Fatalf("%v", err)
	}
}

func TestTimeNeverGoesBackAcrossARestart(t *testing.T) {
	fs := crashtest.New()
	opt := crashOptions(fs, DurabilitySync)
	var last int64
	opt.Sequence = func(now int64, b *Batch) {
		if now < last {
			t.Errorf("time %d after %d", now, last)
		}
		last = now
	}
	for range 3 {
		l, err := Open(opt)
		if err != nil {
			t.Fatal(err)
		}
		l.w.tail.time += 3600e9 // as if the clock had been an hour ahead when this was written
		for range 3 {
			var b Batch
			b.Add(makeRecord(0, 10))
			if err := l.Append(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A reader that has read up to the end of the last frame is at the end, though
// the crash came when the next segment had been made and nothing was in it.
func TestAnEmptyLastSegmentDoesNotMoveTheEnd(t *testing.T) {
	fs := crashtest.New()
	var image *crashtest.FS
	renamed := false
	fs.Hook(func(c crashtest.Call) error {
		if renamed && image == nil {
			image = fs.Kill() // the second segment has its name and nothing in it
		}
		renamed = c.Op == crashtest.Rename && c.Name == filepath.Join(crashDir, segmentName(minSegmentSize))
		return nil
	})
	opt := crashOptions(fs, DurabilitySync)
	l, err := Open(opt)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := newHistory(1)
	var before record.Position
	for image == nil {
		var b Batch
		h.add(&b, 0, 9000)
		before = l.Committed()
		if err := l.Append(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 3 { // empty for as long as nothing is appended
		opt.FS = image
		l, err := Open(opt)
		if err != nil {
			t.Fatal(err)
		}
		if len(*l.segs.Load()) != 2 || l.Committed() != before {
			t.Errorf("round %d: %d segments, ends at %d, want %d", round, len(*l.segs.Load()), l.Committed(), before)
		}
		r := l.Reader(l.First())
		for r.Position() < l.Committed() {
			f, err := r.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			f.Release()
		}
		if round == 2 {
			var b Batch
			b.Add(makeRecord(99, 10))
			if err := l.Append(t.Context(), &b); err != nil {
				t.Fatal(err)
			}
			f, err := r.Next(t.Context())
			if err != nil || f.Position != minSegmentSize+segmentHeaderLen {
				t.Errorf("next frame at %d, %v", f.Position, err)
			}
			f.Release()
		}
		l.Close()
	}
}
