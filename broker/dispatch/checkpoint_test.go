package dispatch

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/mmapfile"
)

func checkpoint(at record.Position) Checkpoint {
	return Checkpoint{Position: at, Sections: [][]byte{[]byte("topics"), nil, bytes.Repeat([]byte("x"), 300)}}
}

func TestCheckpointRoundTrip(t *testing.T) {
	want := checkpoint(12345)
	got, err := ParseCheckpoint(AppendCheckpoint(nil, want))
	if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Fatalf("%v, %v", got, err)
	}
}

func TestDamagedCheckpointIsRefused(t *testing.T) {
	whole := AppendCheckpoint(nil, checkpoint(12345))
	for n := range whole {
		if _, err := ParseCheckpoint(whole[:n]); !errors.Is(err, ErrBadCheckpoint) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	for bit := range len(whole) * 8 {
		bad := bytes.Clone(whole)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := ParseCheckpoint(bad); !errors.Is(err, ErrBadCheckpoint) {
			t.Fatalf("bit %d of byte %d: %v", bit%8, bit/8, err)
		}
	}
}

func TestNewestGoodCheckpointIsRead(t *testing.T) {
	dir := t.TempDir()
	if _, found, _, err := ReadCheckpoint(mmapfile.OS, filepath.Join(dir, "none")); found || err != nil {
		t.Fatal(found, err)
	}
	for at := record.Position(10); at <= 40; at += 10 {
		if err := WriteCheckpoint(mmapfile.OS, dir, checkpoint(at), at-10); err != nil {
			t.Fatal(err)
		}
	}
	if names, _ := checkpoints(mmapfile.OS, dir); len(names) != 2 {
		t.Fatalf("%v are kept", names)
	}
	read := func() (record.Position, int) {
		c, found, skipped, err := ReadCheckpoint(mmapfile.OS, dir)
		if err != nil || !found && c.Position != 0 {
			t.Fatal(found, err)
		}
		return c.Position, len(skipped)
	}
	if at, skipped := read(); at != 40 || skipped != 0 {
		t.Fatal(at, skipped)
	}
	// A crash while the newest was written leaves a name without its bytes at
	// worst; damage can hit any.
	if err := os.WriteFile(filepath.Join(dir, checkpointFile(40)), []byte("GNTRYCKP"), 0o644); err != nil {
		t.Fatal(err)
	}
	if at, skipped := read(); at != 30 || skipped != 1 {
		t.Fatal(at, skipped)
	}
	// Who went on from there keeps that, not the one that is damaged.
	if err := WriteCheckpoint(mmapfile.OS, dir, checkpoint(50), 30); err != nil {
		t.Fatal(err)
	}
	if names, _ := checkpoints(mmapfile.OS, dir); fmt.Sprint(names) != fmt.Sprint([]string{checkpointFile(50), checkpointFile(30)}) {
		t.Fatalf("%v are kept", names)
	}
	if err := os.Remove(filepath.Join(dir, checkpointFile(50))); err != nil {
		t.Fatal(err)
	}
	if at, skipped := read(); at != 30 || skipped != 0 {
		t.Fatal(at, skipped)
	}
	if err := os.WriteFile(filepath.Join(dir, checkpointFile(30)), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if at, skipped := read(); at != 0 || skipped != 1 {
		t.Fatal(at, skipped)
	}
}

func FuzzCheckpoint(f *testing.F) {
	f.Add(AppendCheckpoint(nil, checkpoint(1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCheckpoint(b)
		if err != nil {
			return
		}
		if again := AppendCheckpoint(nil, c); !bytes.Equal(again, b) {
			// Lengths may be written in more bytes than needed; the meaning stays.
			if c2, err := ParseCheckpoint(again); err != nil || fmt.Sprint(c2) != fmt.Sprint(c) {
				t.Fatalf("%v reads back as %v, %v", c, c2, err)
			}
		}
	})
}

func TestWaitersLeaveInOrderOfPosition(t *testing.T) {
	var h waiterHeap
	for _, at := range []record.Position{5, 1, 9, 3, 3, 7, 2, 8} {
		h.push(waiter{at: at})
	}
	last := record.Position(0)
	for len(h) > 0 {
		w := h.pop()
		if w.at < last {
			t.Fatalf("%d after %d", w.at, last)
		}
		last = w.at
	}
}
