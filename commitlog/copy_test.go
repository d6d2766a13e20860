package commitlog

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

// trimmedLog returns a log of about ten segments without the first two.
func trimmedLog(t *testing.T) (*Log, []Entry) {
	t.Helper()
	l, err := Open(replicatedOptions(crashtest.New(), 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var all []Entry
	for i := uint64(1); l.Written() < 10*minSegmentSize; i++ {
		all = append(all, someEntry(i, 1+i/50, 7))
		if err := l.Store(all[i-1:]); err != nil {
			t.Fatal(err)
		}
	}
	// A few are not agreed on, and not sent.
	if _, _, err := l.Commit(uint64(len(all) - 3)); err != nil {
		t.Fatal(err)
	}
	if n, err := l.DropBefore(2 * minSegmentSize); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	return l, all[:len(all)-3]
}

// isCopy checks that the log on fs is that of h, from the same frame on.
func isCopy(t *testing.T, fs *crashtest.FS, h *Held, want []Entry) {
	t.Helper()
	l, err := Open(replicatedOptions(fs, h.End()))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l.FirstIndex() != h.FirstIndex() || l.Index() != h.Index() || l.LastIndex() != h.Index() || l.Committed() != h.End() || l.First() != h.First() {
		t.Fatalf("entries %d to %d, %d committed, at %d to %d", l.FirstIndex(), l.LastIndex(), l.Index(), l.First(), l.Committed())
	}
	for _, e := range want[h.FirstIndex()-1:] {
		if got, err := l.Entry(e.Index); err != nil || got.Term != e.Term || !bytes.Equal(got.Payload, e.Payload) {
			t.Fatalf("entry %d: %+v, %v", e.Index, got, err)
		}
	}
	if _, err := frames(l); err != nil {
		t.Fatal(err)
	}
	// It goes on like the one it was copied from.
	if err := l.Store([]Entry{someEntry(h.Index()+1, 1000, 0)}); err != nil {
		t.Fatal(err)
	}
}

// fetch receives what h sends from where an earlier receiver stopped.
func fetch(fs *crashtest.FS, h *Held, change func(io.Reader) io.Reader) (from int64, err error) {
	r, err := NewReceiver(fs, crashDir)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	var sent bytes.Buffer
	base := h.Base(r.Next())
	if base != r.Next() {
		if err := r.Reset(); err != nil {
			return 0, err
		}
	}
	if err := h.Send(&sent, base); err != nil {
		return 0, err
	}
	if err := r.Receive(change(&sent), h.End()); err != nil {
		return int64(base), err
	}
	return int64(base), r.Finish()
}

func asSent(r io.Reader) io.Reader { return r }

func TestACopyIsTheSameLogWhateverRetentionTakesMeanwhile(t *testing.T) {
	l, all := trimmedLog(t)
	h := l.Hold()
	defer h.Close()
	if n, err := l.DropBefore(l.Committed()); n < 5 || err != nil {
		t.Fatal(n, err)
	}
	// What takes the place of a held segment on the disk does not change it.
	for i := range uint64(60) {
		if err := l.Store([]Entry{someEntry(l.LastIndex()+1, 1000+i, 0)}); err != nil {
			t.Fatal(err)
		}
	}
	fs := crashtest.New()
	if _, err := fetch(fs, h, asSent); err != nil {
		t.Fatal(err)
	}
	isCopy(t, fs, h, all)
}

func TestDamagedBytesAreRefusedAndWholeSegmentsKept(t *testing.T) {
	l, all := trimmedLog(t)
	h := l.Hold()
	defer h.Close()
	rng := newRNG(t)
	var whole bytes.Buffer
	if err := h.Send(&whole, 0); err != nil {
		t.Fatal(err)
	}
	for range 60 {
		fs := crashtest.New()
		at := rng.IntN(whole.Len())
		_, err := fetch(fs, h, func(r io.Reader) io.Reader {
			b, _ := io.ReadAll(r)
			b[at] ^= 1 << rng.IntN(8)
			return bytes.NewReader(b)
		})
		var corrupt *CorruptError
		if !errors.As(err, &corrupt) {
			t.Fatalf("byte %d changed: %v", at, err)
		}
		if _, err := Open(replicatedOptions(fs, h.End())); err == nil {
			t.Fatal("half a log was opened")
		}
		from, err := fetch(fs, h, asSent)
		if err != nil {
			t.Fatal(err)
		}
		if first := int64(h.segs[0].base); from < first+int64(at)/minSegmentSize*minSegmentSize-minSegmentSize {
			t.Errorf("byte %d was bad, it begins again at %d of a log from %d", at, from, first)
		}
		isCopy(t, fs, h, all)
	}
}

// Whenever the power goes, what is there is gone on with, or fetched again.
func TestPowerLossWhileALogIsReceived(t *testing.T) {
	l, all := trimmedLog(t)
	h := l.Hold()
	defer h.Close()
	rng := newRNG(t)
	fs := crashtest.New()
	var images []*crashtest.FS
	fs.Hook(func(crashtest.Call) error {
		images = append(images, fs.Crash(crashtest.Survivals[rng.IntN(len(crashtest.Survivals))], rng))
		return nil
	})
	if _, err := fetch(fs, h, asSent); err != nil {
		t.Fatal(err)
	}
	fs.Hook(nil)
	for _, image := range images {
		if _, err := fetch(image, h, asSent); err != nil {
			t.Fatal(err)
		}
		isCopy(t, image, h, all)
	}
	t.Logf("%d images", len(images))
}
