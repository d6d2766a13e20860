package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/host"
)

// On a small file system of its own: sends are refused by name when space is short,
// and when there is none; receives, acks, timers and transactions go on, and so do sends
// when there is space again.
func TestAFullDiskRefusesSendsUntilThereIsSpace(t *testing.T) {
	for _, c := range []struct {
		name    string
		reserve int64
		says    string
	}{
		{"below the reserve", 16 << 20, "disk space is short"},
		{"nothing left", 0, "the disk is full"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=256m"); err != nil {
				t.Skipf("a file system cannot be mounted here: %v", err)
			}
			defer syscall.Unmount(dir, syscall.MNT_DETACH)
			b := open(t, filepath.Join(dir, "data"), func(o *Options) {
				o.SegmentSize, o.DiskReserve = 1<<20, c.reserve
				o.DiskFree = func() (int64, error) {
					_, free, err := host.Disk(dir)
					return free, err
				}
			})
			defer b.Close()
			makeTopic(t, b, "T", topic.Normal, 1)
			send(t, b, "T", msg("a", "x"))
			makeTopic(t, b, "D", topic.Delay, 1)
			due := msg("due", "later")
			due.DueTime = time.Now().Add(3 * time.Second).UnixMilli()
			send(t, b, "D", due)
			makeTopic(t, b, "X", topic.Transaction, 1)
			half := sendHalf(t, b, "X", msg("half", "undecided"))
			filler := filepath.Join(dir, "filler")
			f, err := os.Create(filler)
			if err != nil {
				t.Fatal(err)
			}
			for chunk := make([]byte, 1<<20); ; {
				if _, free, err := host.Disk(dir); err != nil || c.reserve > 0 && free < c.reserve {
					break
				}
				if _, err := f.Write(chunk); err != nil {
					break
				}
			}
			f.Close()
			m := msg("b", strings.Repeat("x", 64<<10))
			m.Topic = name("T")
			until(t, "the broker looks", func() bool { return c.reserve == 0 || b.diskShort.Load() })
			until(t, "a send is refused", func() bool {
				_, err = b.Send(t.Context(), []Outgoing{m})
				return err != nil
			})
			if ReasonOf(err) != TooManyRequests || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("refused with: %v", err)
			}
			if st := b.Stats(); !st.Log.DiskFull || st.Admission.Refused[DiskSpace] == 0 {
				t.Errorf("Stats say nothing: %+v", st.Admission)
			}
			got := receive(t, b, "T", "G")
			if len(got) == 0 {
				t.Fatal("nothing is received")
			}
			if out, err := b.Ack(t.Context(), name("G"), name("T"), []AckEntry{{Handle: got[0].Handle}}); err != nil || errors.Join(out...) != nil {
				t.Fatalf("ack: %v, %v", out, err)
			}
			end(t, b, "X", half, transaction.Committed)
			for _, from := range []string{"X", "D"} {
				var got []Delivered
				until(t, "what was committed, or is due, is received", func() bool { got = receive(t, b, from, "G"); return len(got) > 0 })
				if out, err := b.Ack(t.Context(), name("G"), name(from), []AckEntry{{Handle: got[0].Handle}}); err != nil || errors.Join(out...) != nil {
					t.Fatalf("ack: %v, %v", out, err)
				}
			}
			if _, err := b.Send(t.Context(), []Outgoing{m}); ReasonOf(err) != TooManyRequests {
				t.Fatalf("a send meanwhile: %v", err)
			}
			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			until(t, "sends go on", func() bool {
				_, err := b.Send(t.Context(), []Outgoing{m})
				return err == nil
			})
			if b.Stats().Log.DiskFull {
				t.Error("Stats say that the disk is full")
			}
		})
	}
}

// Somebody else may take what is kept in reserve, too. A broker waits then, at its start
// as well, and nothing is lost or applied twice.
func TestAnIndexThatTheDiskHasNoRoomForIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("a file system cannot be mounted here: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	options := func(o *Options) { byHand(o); o.SegmentSize = 4 << 20 }
	data, filler := filepath.Join(dir, "data"), filepath.Join(dir, "filler")
	b := open(t, data, options)
	makeTopic(t, b, "T", topic.Normal, 1)
	checkpoint(t, b)
	message := func(id int64) Outgoing {
		m := msg(fmt.Sprint(id), fmt.Sprint(id))
		m.Topic = name("T")
		return m
	}
	var sent, answered atomic.Int64
	// full fills the disk and has messages sent, until an index has no room and on.
	full := func() (stop func()) {
		if err := os.WriteFile(filler, make([]byte, 80<<20), 0o600); err == nil {
			t.Fatal("the disk is not full")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var sending sync.WaitGroup
		sending.Go(func() {
			for ctx.Err() == nil {
				_, err := b.Send(ctx, []Outgoing{message(sent.Load())})
				if err == nil {
					answered.Add(1)
				}
				if err == nil || ReasonOf(err) != TooManyRequests {
					sent.Add(1)
				}
			}
		})
		until(t, "an index has no room", func() bool { return b.indexShort.Load() })
		return func() { cancel(); sending.Wait() }
	}
	stop := full()
	if _, err := b.Send(t.Context(), []Outgoing{message(-1)}); ReasonOf(err) != TooManyRequests || !strings.Contains(err.Error(), "no room for an index") {
		t.Errorf("a send meanwhile: %v", err)
	}
	if err := b.Ready(); err != nil || !b.Stats().Log.DiskFull {
		t.Errorf("%v; Stats say nothing: %+v", err, b.Stats().Log)
	}
	before := answered.Load()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	until(t, "sends go on", func() bool { return answered.Load() > before+1 })
	stop()
	if b.DiskFull() {
		t.Error("it says that the disk is full")
	}

	stop = full()
	time.Sleep(3 * noRoomLook) // it has tried again
	b.Close()
	if !b.indexShort.Load() {
		t.Error("it was closed while it waited, and says that there is room: then its last checkpoint may be of a frame that is applied in part")
	}
	stop()
	ctx, cancel := context.WithCancel(t.Context())
	o := Options{Dir: data, Logger: slog.New(slog.NewTextHandler(writer(func(line []byte) {
		if strings.Contains(string(line), "no room for an index") {
			cancel()
		}
	}), nil))}
	options(&o)
	if _, err := Open(ctx, o); !errors.Is(err, context.Canceled) {
		t.Fatalf("opened without room: %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	b = open(t, data, options)
	defer b.Close()
	tp, _ := b.topics.Lookup(name("T"))
	for off := range sent.Load() {
		l, err := b.load(tp, 0, record.QueueOffset(off))
		if err != nil || string(l.msg.Body) != fmt.Sprint(off) {
			t.Fatalf("message %d of %d is %q, %v", off, sent.Load(), l.msg.Body, err)
		}
		l.release()
	}
	if _, end, _ := b.index.Bounds(record.Key(tp.ID, 0)); int64(end) != sent.Load() {
		t.Errorf("the queue ends at %d, want %d", end, sent.Load())
	}
}

// writer is an io.Writer that is told each line.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) { w(b); return len(b), nil }

// until waits for what happens by itself.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("it did not come to it that %s", what)
		}
	}
}
