package history

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// damage kills a node, has what it has on its disk change, and starts it, and again when
// it ends, as what watches over a process does. It has to be another node then, but for
// what it can make again by itself. Of two that
// count it would stay as it is: the one before must count again, and all have written that down.
func (c *cluster) damage(r *rand.Rand, i int) {
	s := c.nodes[i]
	c.await(c.settled)
	time.Sleep(2 * time.Second)
	must(c.t, s.kill())
	what, derived := "its log is lost", false
	switch r.IntN(12) {
	case 10, 11:
		c.damageCold(r, i)
		return
	case 0:
		must(c.t, os.RemoveAll(filepath.Join(s.data(), "commitlog")))
	case 1:
		what = "its identity has another bit"
		must(c.t, flip(filepath.Join(s.data(), "replica", "node"), r.Int64N(128)))
	case 2:
		what = "its vote has other bits"
		vote := filepath.Join(s.data(), "replica", "vote")
		must(c.t, flip(vote, r.Int64N(4096)))
		must(c.t, flip(vote, 4096+r.Int64N(4096)))
	case 3, 4, 5, 6:
		if what = c.damageDerived(s, r); what == "" {
			must(c.t, s.start())
			must(c.t, s.await())
			return
		}
		derived = true
	default:
		file, from, to, err := s.replayed()
		must(c.t, err)
		if from >= to {
			c.t.Logf("%s has nothing that its next start must read", c.names[i])
			must(c.t, s.start())
			must(c.t, s.await())
			return
		}
		at := from + r.Int64N(to-from)
		what = fmt.Sprintf("its log has another bit in byte %d of %s", at, filepath.Base(file))
		must(c.t, flip(file, at))
	}
	c.t.Logf("%s: %s", c.names[i], what)
	pause(r, 2*time.Second)
	c.comeBack(i, what)
	if derived {
		if _, err := os.Stat(filepath.Join(s.data(), "damaged")); err == nil {
			c.t.Fatalf("%s: %s, and it was set aside", c.names[i], what)
		}
		return
	}
	c.setAside(i, what)
}

// damageCold changes a bit of the log of a node that is down, in a part that its start does
// not read, mostly. It is found while the node serves: it leaves, ends, and comes back as
// another.
func (c *cluster) damageCold(r *rand.Rand, i int) {
	s := c.nodes[i]
	files, err := filepath.Glob(filepath.Join(s.data(), "commitlog", "*.log"))
	must(c.t, err)
	slices.Sort(files)
	last, _, _, err := s.replayed()
	must(c.t, err)
	cold := slices.Index(files, last)
	if cold == 0 {
		c.t.Logf("%s has read all of its log", c.names[i])
		must(c.t, s.start())
		must(c.t, s.await())
		return
	}
	file, at := files[r.IntN(cold)], 4096+r.Int64N(2<<20) // the end of a segment may mean nothing
	what := fmt.Sprintf("its log has another bit in byte %d of %s, which its start may not read", at, filepath.Base(file))
	c.t.Logf("%s: %s", c.names[i], what)
	must(c.t, flip(file, at))
	c.comeBack(i, what)
	if _, err := os.Stat(filepath.Join(s.data(), "damaged")); err != nil { // its start has not read it
		select {
		case <-s.ended:
		case <-time.After(startLimit):
			c.t.Fatalf("%s: %s, and it goes on", c.names[i], what)
		}
		s.wait()
		c.comeBack(i, what)
	}
	c.setAside(i, what)
}

// comeBack starts a node, and again when it ends, as what watches over a process does.
func (c *cluster) comeBack(i int, what string) {
	s := c.nodes[i]
	for starts := 1; ; starts++ {
		must(c.t, s.start())
		err := s.await()
		if err == nil {
			break
		}
		if starts == 3 {
			c.t.Fatalf("%s: started %d times: %v", c.names[i], starts, err)
		}
		s.wait() // it has said why
	}
}

// setAside checks that a node has kept what was damaged, and removes that.
func (c *cluster) setAside(i int, what string) {
	kept := filepath.Join(c.nodes[i].data(), "damaged")
	if dirs, err := os.ReadDir(kept); err != nil || len(dirs) != 1 {
		c.t.Fatalf("%s: %s, and it did not set that aside: %v, %v", c.names[i], what, dirs, err)
	}
	must(c.t, os.RemoveAll(kept))
}

// damageDerived damages files of a node that it can make again by itself, from its log
// or what else it has, and says which; "" when there are none yet.
func (c *cluster) damageDerived(s *server, r *rand.Rand) string {
	type kind struct {
		pattern string
		until   int64 // a bit before this is found when the file is opened
		all     bool  // of them, not the newest alone
		files   []string
	}
	var there []kind
	for _, k := range []kind{
		{"state/*.ckpt", math.MaxInt64, r.IntN(2) == 0, nil},
		{"consumequeue/*.arena", 44, false, nil},
		{"keyindex/*.sealed", 40, false, nil},
		{"replica/snapshots/*/meta.json", math.MaxInt64, true, nil},
		{"replica/snapshots/*/state.bin", math.MaxInt64, true, nil},
		{"replica/peers", math.MaxInt64, true, nil},
	} {
		files, err := filepath.Glob(filepath.Join(s.data(), k.pattern))
		must(c.t, err)
		if len(files) == 0 {
			continue
		}
		if k.files = files; !k.all {
			k.files = []string{slices.Max(files)}
		}
		there = append(there, k)
	}
	if len(there) == 0 {
		return ""
	}
	k := there[r.IntN(len(there))]
	how := r.IntN(4)
	if k.pattern == "consumequeue/*.arena" && r.IntN(2) == 0 {
		must(c.t, scramble(r, k.files[0]))
		return "all entries of an arena with another bit, which is found when they are read"
	}
	for _, file := range k.files {
		st, err := os.Stat(file)
		must(c.t, err)
		if st.Size() == 0 {
			continue // of a snapshot that was not finished
		}
		switch how {
		case 0:
			must(c.t, flip(file, r.Int64N(min(k.until, st.Size()))))
		case 1:
			must(c.t, os.Truncate(file, r.Int64N(st.Size())))
		case 2:
			must(c.t, os.Truncate(file, 0))
		case 3:
			must(c.t, os.Remove(file))
		}
	}
	return fmt.Sprintf("%d of %s %s", len(k.files), k.pattern, [...]string{"with another bit", "truncated", "empty", "missing"}[how])
}

// scramble changes a bit of each entry of an arena.
func scramble(r *rand.Rand, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for at := 4096; at < len(b); at += 32 {
		if b[at] != 0 || b[at+8] != 0 {
			b[at+r.IntN(32)] ^= 1 << r.IntN(8)
		}
	}
	return os.WriteFile(file, b, 0o600)
}

// flip changes a bit of a file.
func flip(file string, at int64) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var b [1]byte
	if _, err = f.ReadAt(b[:], at); err == nil {
		b[0] ^= 1 << (at % 8)
		_, err = f.WriteAt(b[:], at)
	}
	return err
}

// replayed returns what of the last file of a killed server's log its next start has to
// read: what is behind the checkpoint. The very last of it may be taken for a write
// that did not finish.
func (s *server) replayed() (file string, from, to int64, err error) {
	files, err := filepath.Glob(filepath.Join(s.data(), "commitlog", "*.log"))
	if err != nil || len(files) == 0 {
		return "", 0, 0, fmt.Errorf("%q: %w", files, err)
	}
	file = slices.Max(files)
	base, err := number(file)
	if err != nil {
		return "", 0, 0, err
	}
	checkpoints, err := filepath.Glob(filepath.Join(s.data(), "state", "*.ckpt"))
	if err != nil {
		return "", 0, 0, err
	}
	from = base + 4096
	if len(checkpoints) > 0 {
		at, err := number(slices.Max(checkpoints))
		if err != nil {
			return "", 0, 0, err
		}
		from = max(from, at)
	}
	b, err := os.ReadFile(file)
	end := int64(len(bytes.TrimRight(b, "\x00")))
	return file, from - base, end - 64<<10, err
}

// number is the position in a file's name.
func number(file string) (int64, error) {
	digits, _, _ := strings.Cut(filepath.Base(file), ".")
	return strconv.ParseInt(digits, 10, 64)
}
