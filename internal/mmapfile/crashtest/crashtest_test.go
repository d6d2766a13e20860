package crashtest

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

func newFile(t *testing.T, s *FS, name string) mmapfile.File {
	t.Helper()
	if err := s.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	f, err := s.Create(name, 8*sectorLen)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func contents(t *testing.T, s *FS, name string) []byte {
	t.Helper()
	f, err := s.OpenRead(name)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, f.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func rng() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

func TestOnlySyncedBytesSurviveACrashForSure(t *testing.T) {
	for name, write := range map[string]func(f mmapfile.File, m mmapfile.Mapping, p []byte, off int64) error{
		"write": func(f mmapfile.File, _ mmapfile.Mapping, p []byte, off int64) error {
			_, err := f.WriteAt(p, off)
			return err
		},
		"store": func(_ mmapfile.File, m mmapfile.Mapping, p []byte, off int64) error {
			copy(m.Bytes()[off:], p)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := New()
			f := newFile(t, s, "/d/f")
			m, err := f.MapWritable()
			if err != nil {
				t.Fatal(err)
			}
			full := bytes.Repeat([]byte{1}, 8*sectorLen)
			for _, err := range []error{write(f, m, full, 0), f.Datasync(), s.SyncDir("/d")} {
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := write(f, m, bytes.Repeat([]byte{2}, 4*sectorLen), sectorLen); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, s.Crash(None, rng()), "/d/f"); !bytes.Equal(got, full) {
				t.Error("none: something survived, or something synced did not")
			}
			if got := contents(t, s.Crash(All, rng()), "/d/f"); !bytes.Equal(got, contents(t, s, "/d/f")) {
				t.Error("all: something was lost")
			}
			seen := map[string]bool{}
			r := rng()
			for range 200 {
				got := contents(t, s.Crash(Subset, r), "/d/f")
				key := ""
				for off := 0; off < len(got); off += sectorLen {
					sector := got[off : off+sectorLen]
					if bytes.Count(sector, sector[:1]) != sectorLen {
						t.Fatal("a sector was torn")
					}
					key += string('0' + rune(sector[0]))
				}
				seen[key] = true
			}
			if len(seen) != 1<<4 {
				t.Errorf("%d outcomes of 4 unsynced sectors", len(seen))
			}
		})
	}
}

func TestAFailedSyncLosesItsDataThoughTheNextOneSucceeds(t *testing.T) {
	s := New()
	f := newFile(t, s, "/d/f")
	broken := errors.New("broken")
	for _, err := range []error{f.Datasync(), s.SyncDir("/d")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	other, err := s.Open("/d/f")
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("lost"), 0)
	s.Hook(func(c Call) error { return broken })
	if err := f.Datasync(); err != broken {
		t.Fatal(err)
	}
	s.Hook(nil)
	f.WriteAt([]byte("kept"), sectorLen)
	if err := f.Datasync(); err != nil {
		t.Fatal(err)
	}
	if first, second := other.Datasync(), other.Datasync(); !errors.Is(first, syscall.EIO) || second != nil {
		t.Errorf("a file that was open is told %v, then %v; want one error", first, second)
	}
	got := contents(t, s.Crash(None, rng()), "/d/f")
	if string(got[:4]) == "lost" || string(got[sectorLen:][:4]) != "kept" {
		t.Errorf("%q, %q", got[:4], got[sectorLen:][:4])
	}
}

func TestNamesAreDurableAfterSyncDirOnly(t *testing.T) {
	s := New()
	f := newFile(t, s, "/d/a")
	f.Datasync()
	if _, err := s.Crash(None, rng()).Open("/d/a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("created: %v", err)
	}
	s.SyncDir("/d")
	if err := s.Rename("/d/a", "/d/b"); err != nil {
		t.Fatal(err)
	}
	for survival, want := range map[Survival]string{None: "/d/a", All: "/d/b"} {
		c := s.Crash(survival, rng())
		if _, err := c.Open(want); err != nil {
			t.Errorf("renamed, %v: %v", survival, err)
		}
		if names, _ := c.List("/d"); len(names) != 1 {
			t.Errorf("renamed, %v: %v", survival, names)
		}
	}
	s.SyncDir("/d")
	s.Remove("/d/b")
	if _, err := s.Crash(None, rng()).Open("/d/b"); err != nil {
		t.Errorf("removed: %v", err)
	}
	s.SyncDir("/d")
	if _, err := s.Crash(None, rng()).Open("/d/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removed and synced: %v", err)
	}
}

func TestAKillKeepsEverythingAndMakesNothingDurable(t *testing.T) {
	s := New()
	f := newFile(t, s, "/d/f")
	f.Datasync()
	s.SyncDir("/d")
	f.WriteAt([]byte("x"), 0)
	newFile(t, s, "/d/g")
	k := s.Kill()
	if got := contents(t, k, "/d/f"); got[0] != 'x' {
		t.Error("kill lost a write")
	}
	if _, err := k.Open("/d/g"); err != nil {
		t.Error(err)
	}
	c := k.Crash(None, rng())
	if got := contents(t, c, "/d/f"); got[0] != 0 {
		t.Error("kill made a write durable")
	}
	if _, err := c.Open("/d/g"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("kill made a name durable: %v", err)
	}
}

func TestTheCapacityIsForAllFiles(t *testing.T) {
	s := New()
	s.SetCapacity(12 * sectorLen)
	newFile(t, s, "/d/a")
	if _, err := s.Create("/d/b", 8*sectorLen); !errors.Is(err, mmapfile.ErrNoSpace) {
		t.Errorf("%v", err)
	}
	s.Remove("/d/a")
	if _, err := s.Create("/d/b", 8*sectorLen); err != nil {
		t.Errorf("%v", err)
	}
}

func TestNothingIsSyncedAfterThePowerWentOff(t *testing.T) {
	s := New()
	f := newFile(t, s, "/d/f")
	if _, err := f.WriteAt([]byte("before"), 0); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Datasync(), s.SyncDir("/d")); err != nil {
		t.Fatal(err)
	}
	image := s.PowerOff(All, rng())
	_, writeErr := f.WriteAt([]byte("behind"), 0)
	_, createErr := s.Create("/d/g", 1)
	for what, err := range map[string]error{
		"write": writeErr, "sync": f.Datasync(), "create": createErr, "rename": s.Rename("/d/f", "/d/g"),
		"remove": s.Remove("/d/f"), "syncdir": s.SyncDir("/d"),
	} {
		if !errors.Is(err, ErrPowerOff) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, fs := range []*FS{s, image} {
		if got := contents(t, fs, "/d/f"); !bytes.HasPrefix(got, []byte("before")) {
			t.Errorf("%q", got)
		}
	}
}
