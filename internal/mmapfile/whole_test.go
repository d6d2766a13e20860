package mmapfile_test

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/internal/mmapfile"
	"github.com/gantry-mq/gantry/internal/mmapfile/crashtest"
)

func TestAWholeFileIsReadBack(t *testing.T) {
	name := t.TempDir() + "/f"
	if _, err := mmapfile.ReadFile(mmapfile.OS, name); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	for _, text := range []string{"first", "the second, longer", "3"} {
		if err := mmapfile.WriteFile(mmapfile.OS, name, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got, err := mmapfile.ReadFile(mmapfile.OS, name); string(got) != text || err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// At every call, and with every survival: the old content or the new, and the new
// when the write had returned.
func TestAWholeFileIsNeverHalfWritten(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	long := strings.Repeat("x", 5000)
	disk := crashtest.New()
	if err := disk.MkdirAll("/d"); err != nil {
		t.Fatal(err)
	}
	want := func(disk *crashtest.FS, contents ...string) {
		t.Helper()
		for _, s := range crashtest.Survivals {
			after := disk.Crash(s, rng)
			got, err := mmapfile.ReadFile(after, "/d/f")
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			if err != nil || !slices.Contains(contents, string(got)) {
				t.Fatalf("%v: %d bytes, %v", s, len(got), err)
			}
			if err := mmapfile.WriteFile(after, "/d/f", []byte("later")); err != nil { // whatever is left in the way
				t.Fatal(err)
			}
		}
	}
	old := ""
	for _, text := range []string{"first", long, "3"} {
		disk.Hook(func(crashtest.Call) error { want(disk, old, text); return nil })
		if err := mmapfile.WriteFile(disk, "/d/f", []byte(text)); err != nil {
			t.Fatal(err)
		}
		disk.Hook(nil)
		want(disk, text)
		old = text
	}
}
