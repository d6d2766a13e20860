package host

import (
	"os"
	"testing"
	"time"
)

func TestWhatTheSystemSaysIsPlausible(t *testing.T) {
	total, free, err := Disk(t.TempDir())
	if err != nil || total <= 0 || free < 0 || free > total {
		t.Errorf("disk: %d of %d free, %v", free, total, err)
	}
	if _, _, err := Disk(t.TempDir() + "/none"); err == nil {
		t.Error("a directory that is not there has a disk")
	}
	before, limit := OpenFiles()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if after, _ := OpenFiles(); after <= before || limit <= int64(after) {
		t.Errorf("%d files open, %d after one more, limit %d", before, after, limit)
	}
	if m := Memory(); m < 64<<20 {
		t.Errorf("the host has %d bytes of memory", m)
	}
	if r := Resident(); r < 1<<20 {
		t.Errorf("%d bytes resident", r)
	}
	begun := CPU()
	for at := time.Now(); CPU() == begun && time.Since(at) < 10*time.Second; {
	}
	if CPU() == begun {
		t.Error("ten seconds of work took no processor time")
	}
	if Kind("/proc") != "" || Kind("/none") != "" {
		t.Error("a kind is named that is none of ours")
	}
}
