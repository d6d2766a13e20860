package broker

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/keyindex"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// damages are what may happen to a file.
func damages(r *rand.Rand) map[string]func(file string) error {
	return map[string]func(string) error{
		"another bit": func(file string) error { return flipBit(file, r) },
		"truncated": func(file string) error {
			st, err := os.Stat(file)
			if err != nil {
				return err
			}
			return os.Truncate(file, r.Int64N(st.Size()))
		},
		"empty":   func(file string) error { return os.Truncate(file, 0) },
		"missing": os.Remove,
	}
}

// flipBit changes a bit where a file says something: not in the zeros behind it.
func flipBit(file string, r *rand.Rand) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	end := len(b)
	switch filepath.Ext(file) {
	case ".arena": // of an entry it is found when that is read
		end = 44
	case ".raw":
		end = 16 * 64
	case ".sealed":
		end = 40
	}
	b[r.IntN(min(end, len(b)))] ^= 1 << r.IntN(8)
	return os.WriteFile(file, b, 0o644)
}

func TestWhatTheLogCanMakeAgainIsMadeAgainWhenItIsDamaged(t *testing.T) {
	s := rand.Uint64()
	t.Logf("seed %d", s)
	r := rand.New(rand.NewPCG(s, 1))
	dir := t.TempDir()
	options := func(o *Options) { byHand(o); o.KeySegmentEntries = 64 }
	b := open(t, dir, options)
	makeTopic(t, b, "Q", topic.Normal, 1)
	makeTopic(t, b, "Later", topic.Delay, 1)
	for i := range 200 {
		send(t, b, "Q", msg(fmt.Sprint(i), fmt.Sprint(i)))
		if i == 100 {
			send(t, b, "Later", delayed("later", "later", time.Now().Add(time.Hour)))
			got := receive(t, b, "Q", "G")
			ack(t, b, "Q", "G", got[3:]...)
			checkpoint(t, b)
		}
	}
	checkpoint(t, b)
	send(t, b, "Q", msg("last", "last"))
	at := quiet(t, b)
	want, entries := b.snapshot(at), allEntries(t, b)
	tp, _ := b.topics.Lookup(name("Q"))
	newest := func(files []string) []string { return files[len(files)-1:] }
	all := func(files []string) []string { return files }
	for what, of := range map[string]struct {
		files string
		which func([]string) []string
	}{
		"newest checkpoint":  {"state/*.ckpt", newest},
		"checkpoints":        {"state/*.ckpt", all},
		"consume queues":     {"consumequeue/*.arena", all},
		"growing key index":  {"keyindex/*.raw", all},
		"finished key index": {"keyindex/*.sealed", newest},
	} {
		for how, damage := range damages(r) {
			left := copyOf(t, dir, "")
			files, err := filepath.Glob(filepath.Join(left, of.files))
			if err != nil || len(files) == 0 {
				t.Fatal(of.files, err)
			}
			slices.Sort(files)
			for _, f := range of.which(files) {
				if err := damage(f); err != nil {
					t.Fatal(err)
				}
			}
			again := open(t, left, options)
			sameState(t, what+" "+how, b, again, at, want, entries)
			for i := range 200 {
				seen := 0
				err := again.keys.Find(keyindex.ID(tp.ID, fmt.Sprint(i)), at, func(record.Position) bool { seen++; return true })
				if err != nil || seen == 0 {
					t.Fatalf("%s %s: message %d is found %d times, %v", what, how, i, seen, err)
				}
			}
			closeBroker(t, again)
		}
	}
}

// What is read of an index that is damaged is refused, never wrong, and the next start
// makes the index again.
func TestAnIndexThatIsFoundDamagedIsMadeAgainAtTheNextStart(t *testing.T) {
	dir := t.TempDir()
	var told []error
	options := func(o *Options) {
		byHand(o)
		o.KeySegmentEntries = 64
		o.Damaged = func(err error) { told = append(told, err) }
	}
	b := open(t, dir, options)
	makeTopic(t, b, "Q", topic.Normal, 1)
	for i := range 100 {
		send(t, b, "Q", msg(fmt.Sprint(i), fmt.Sprint(i)))
	}
	checkpoint(t, b) // sorts the key index, which the next one names
	send(t, b, "Q", msg("100", "100"))
	at := quiet(t, b)
	entries := allEntries(t, b)
	closeBroker(t, b)
	arena, sealed := filepath.Join(dir, "consumequeue", "00000000.arena"), filepath.Join(dir, "keyindex", "00000000.sealed")
	flip := func(file string, at int64) {
		f, err := os.OpenFile(file, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var c [1]byte
		if _, err := f.ReadAt(c[:], at); err != nil {
			t.Fatal(err)
		}
		c[0] ^= 1
		if _, err := f.WriteAt(c[:], at); err != nil {
			t.Fatal(err)
		}
	}
	tp, _ := b.topics.Lookup(name("Q"))
	flip(arena, 4096+32*50)
	flip(sealed, 4096+8)
	hurt := open(t, dir, options)
	for range 2 {
		if _, err := hurt.load(tp, 0, 50); !errors.Is(err, consumequeue.ErrCorrupt) {
			t.Errorf("message 50: %v", err)
		}
		bad := 0
		for i := range 64 {
			if err := hurt.keys.Find(keyindex.ID(tp.ID, fmt.Sprint(i)), at, func(record.Position) bool { return true }); errors.Is(err, keyindex.ErrMissing) {
				bad++
			} else if err != nil {
				t.Error(err)
			}
		}
		if bad == 0 {
			t.Error("nobody notices the key index")
		}
	}
	if l, err := hurt.load(tp, 0, 49); err != nil || string(l.msg.Body) != "49" {
		t.Errorf("the message before: %v", err)
	} else {
		l.release()
	}
	send(t, hurt, "Q", msg("more", "more"))
	if st := hurt.Stats(); st.Damages != 2 || len(told) != 2 || st.Damage != told[1].Error() {
		t.Errorf("%d times: %q; told %v", st.Damages, st.Damage, told)
	}
	for _, f := range []string{arena, sealed} {
		if _, err := os.Stat(f); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", f, err)
		}
	}
	closeBroker(t, hurt)
	again := open(t, dir, options)
	sent, err := again.load(tp, 0, 101)
	if err != nil || string(sent.msg.Body) != "more" {
		t.Errorf("the message after: %v", err)
	}
	sent.release()
	for key, e := range entries {
		if got, ok, err := again.entryAt(key.Key, key.Offset); err != nil || !ok || got != e {
			t.Errorf("entry %v: %+v, want %+v; %v", key, got, e, err)
		}
	}
	if len(told) != 2 || again.Stats().Damages != 0 {
		t.Errorf("still damaged: %v", told)
	}
}

// A broker that is alone goes on with what can be read, and says what cannot.
func TestARecordThatIsReadDamagedHasItsSegmentVerified(t *testing.T) {
	dir := t.TempDir()
	told := make(chan error, 10)
	options := func(o *Options) { byHand(o); o.Damaged = func(err error) { told <- err } }
	b := open(t, dir, options)
	makeTopic(t, b, "Q", topic.Normal, 1)
	for i := range 100 {
		send(t, b, "Q", msg(fmt.Sprint(i), strings.Repeat(fmt.Sprint(i%10), 4000)))
	}
	checkpoint(t, b)
	closeBroker(t, b)
	b = open(t, dir, options)
	tp, _ := b.topics.Lookup(name("Q"))
	l, err := b.load(tp, 0, 20)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "commitlog", "*.log"))
	if err != nil || len(files) < 5 {
		t.Fatal(files, err)
	}
	slices.Sort(files)
	pos := l.pos
	l.release()
	file := files[pos/(64<<10)]
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[pos%(64<<10)+2000] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := b.load(tp, 0, 20); !errors.Is(err, record.ErrChecksum) {
			t.Errorf("read: %v", err)
		}
	}
	var bad *commitlog.CorruptError
	if err := <-told; !errors.As(err, &bad) || bad.Segment != file || bad.Pos > pos || !errors.Is(err, commitlog.ErrCorrupt) {
		t.Errorf("told %v, want the frame with %d", err, pos)
	}
	for _, offset := range []record.QueueOffset{19, 21, 99} {
		l, err := b.load(tp, 0, offset)
		if err != nil {
			t.Errorf("message %d: %v", offset, err)
			continue
		}
		l.release()
	}
	send(t, b, "Q", msg("more", "more"))
	if st := b.Stats(); st.Damages != 1 || st.Damage != bad.Error() {
		t.Errorf("%d times: %q", st.Damages, st.Damage)
	}
	closeBroker(t, b)
	if len(told) > 0 {
		t.Errorf("told once more: %v", <-told)
	}
}

// State that only the checkpoints had is damage that a replica has others for.
func TestAStartWithoutTheStateOfWhatRetentionTookIsRefusedAsDamage(t *testing.T) {
	dir := t.TempDir()
	options := func(o *Options) { byHand(o); o.RetentionAge = retainAge }
	b := open(t, dir, options)
	h := &oldPayloads{t: t, b: b, dir: dir}
	makeTopic(t, b, "F", topic.Normal, 1)
	h.fill(2)
	old := time.Now().Add(retainAge)
	time.Sleep(2 * time.Millisecond)
	for range 2 {
		h.fill(1)
		checkpoint(t, b)
	}
	b.retain(old)
	if !b.wal.Trimmed() {
		t.Fatal("nothing was dropped")
	}
	left := killed(t, b, dir, "state")
	o := Options{Dir: left}
	options(&o)
	if b, err := Open(t.Context(), o); !errors.Is(err, ErrDamaged) {
		t.Errorf("opened: %v, %v", b, err)
	}
}
