package broker

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
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

// until waits for what happens by itself.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for begun := time.Now(); !f(); time.Sleep(time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("it did not come to it that %s", what)
		}
	}
}
