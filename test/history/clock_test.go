package history

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// overlay is what go build needs for a server whose clock can be set, see
// testdata/jump.go.
func overlay(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	must(t, err)
	text, err := json.Marshal(map[string]map[string]string{"Replace": {
		filepath.Join(root, "internal/clock/jump.go"): filepath.Join(root, "test/history/testdata/jump.go"),
	}})
	must(t, err)
	name := filepath.Join(t.TempDir(), "overlay.json")
	must(t, os.WriteFile(name, text, 0o600))
	return name
}

// clockFile is where the process of a server looks how wrong its clock is.
func (s *server) clockFile() string { return s.stderr.Name() + ".clock" }

// setClock has the server's clock go wrong by that much, at once.
func (s *server) setClock(off time.Duration) error {
	f, err := os.OpenFile(s.clockFile(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(off)), 0)
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// jump has a node's clock jump, back or forward, now and then of all nodes. It is never
// ahead of the true one, which the clients have: so what they see is early if it is early
// by any.
func (c *cluster) jump(r *rand.Rand) {
	for range 1 + r.IntN(8) {
		off := -time.Duration(r.Int64N(int64(20 * time.Second)))
		if r.IntN(4) == 0 {
			off = 0
		}
		i := c.some(r)
		for j, s := range c.nodes {
			if j == i || r.IntN(4) == 0 {
				must(c.t, s.setClock(off))
			}
		}
		pause(r, 3*time.Second)
	}
}

// clocksRight has all clocks be right again.
func (c *cluster) clocksRight() {
	for _, s := range c.nodes {
		must(c.t, s.setClock(0))
	}
}
