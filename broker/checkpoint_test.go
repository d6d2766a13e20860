package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/gantry-mq/gantry/broker/topic"
)

// The index goes on with the newest checkpoint: pages that this one does not name
// have other queues' entries. The one before it must not be used with them.
func TestABrokerStartsFromTheCheckpointBeforeTheNewest(t *testing.T) {
	small := func(o *Options) { o.ArenaSize = 64 << 10 }
	dir := t.TempDir()
	b := open(t, dir, small)
	makeTopic(t, b, "Q", topic.Normal, 1)
	makeTopic(t, b, "R", topic.Normal, 1)
	makeTopic(t, b, "Stay", topic.Normal, 1)
	send(t, b, "Stay", msg("1", "1")) // and with it the file
	fill := func(topic string) {
		for i := range 200 {
			send(t, b, topic, msg(fmt.Sprint(i), fmt.Sprint(i)))
		}
	}
	checkpoint := func() {
		quiet(t, b)
		if err := b.checkpt.final(); err != nil {
			t.Fatal(err)
		}
	}
	fill("Q")
	checkpoint()
	deleteMessage(t, b, "Q", "0") // whose entry a restart from here looks for
	if _, err := b.PurgeTopic(t.Context(), name("Q"), PurgeRequest{}); err != nil {
		t.Fatal(err)
	}
	checkpoint()
	fill("R")
	for _, damage := range []func(string) error{os.Remove, func(path string) error { return os.WriteFile(path, []byte("x"), 0o644) }} {
		left := copyOf(t, dir, "")
		files, err := filepath.Glob(filepath.Join(left, "state", "*.ckpt"))
		if err != nil || len(files) != 2 {
			t.Fatal(files, err)
		}
		if err := damage(slices.Max(files)); err != nil {
			t.Fatal(err)
		}
		again := open(t, left, small)
		if got := readAll(t, again, "R"); len(got) != 200 {
			t.Errorf("R has %d messages", len(got))
		}
		if got := readAll(t, again, "Q"); len(got) != 0 {
			t.Errorf("Q has %v", got)
		}
		survivesKills(t, again, left, small)
	}
}
