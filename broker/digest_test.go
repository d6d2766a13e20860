package broker

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestADigestIsWhatAnotherReplicaOfTheLogComesTo(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", 0, 1)
	send(t, b, "T", msg("a", "first"), msg("a", "second"))
	receive(t, b, "T", "G")
	first, err := b.MarkDigest()
	if err != nil {
		t.Fatal(err)
	}
	send(t, b, "T", msg("b", "third"))
	second, err := b.MarkDigest()
	if err != nil {
		t.Fatal(err)
	}
	want, err := b.Digest(t.Context(), first)
	if err != nil || len(want) < 10 {
		t.Fatalf("%v, %v", want, err)
	}
	later, err := b.Digest(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	var differs []string
	for i, s := range later {
		if s != want[i] {
			differs = append(differs, s.Name)
		}
	}
	if !slices.Equal(differs, []string{"queues"}) {
		t.Errorf("a message more made a difference in %q", differs)
	}
	closeBroker(t, b)

	b = open(t, dir)
	if _, err := b.Digest(t.Context(), first); err == nil {
		t.Error("a broker knows a digest that was taken before its checkpoint")
	}
	closeBroker(t, b)
	for _, part := range []string{"state", "consumequeue", "keyindex"} {
		if err := os.RemoveAll(filepath.Join(dir, part)); err != nil {
			t.Fatal(err)
		}
	}
	b = open(t, dir)
	defer closeBroker(t, b)
	if got, err := b.Digest(t.Context(), first); err != nil || !slices.Equal(got, want) {
		t.Errorf("from the log alone: %v, %v; want %v", got, err, want)
	}
}

func TestADigestLeavesOutNoSectionButTheIndexes(t *testing.T) {
	covered := map[int]bool{sectionIndex: true, sectionKeys: true}
	for _, s := range digested {
		covered[s.section] = true
	}
	for i := range sectionCount {
		if !covered[i] {
			t.Errorf("section %d is in no digest", i)
		}
	}
}
