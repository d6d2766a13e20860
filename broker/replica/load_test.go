package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// A record of these tests: its number among all records, which sequence gives,
// and whose it is.
const recordLen = 24

func sequenced(next uint64) func(int64, *commitlog.Batch) {
	return func(_ int64, b *commitlog.Batch) {
		for i := range b.Len() {
			binary.LittleEndian.PutUint64(b.Head(i), next)
			next++
		}
	}
}

func batchOf(ids ...uint64) *commitlog.Batch {
	b := new(commitlog.Batch)
	for _, id := range ids {
		head := make([]byte, recordLen)
		binary.LittleEndian.PutUint64(head[8:], id)
		b.Add(head, nil)
	}
	return b
}

type numbered struct {
	pos    record.Position
	number uint64
	id     uint64
}

// records returns what is committed in a log.
func records(l *commitlog.Log) (out []numbered, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for r := l.Reader(l.First()); ; {
		f, err := r.Next(ctx)
		if errors.Is(err, context.Canceled) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		for i := 0; i < len(f.Payload); i += recordLen {
			b := f.Payload[i:]
			out = append(out, numbered{f.Base() + record.Position(i), binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])})
		}
		f.Release()
	}
}

// workload is senders whose appends are judged in the end: what was acknowledged must
// be where it was said to be, once; numbers must have no gaps; all logs must be equal.
type workload struct {
	c    *cluster
	ids  atomic.Uint64
	run  sync.WaitGroup
	stop context.CancelFunc

	mu      sync.Mutex
	acked   map[uint64]record.Position
	end     record.Position // of what was acknowledged
	refused int
}

// load begins to send; pause is between two appends of a sender.
func (c *cluster) load(senders int, pause time.Duration) *workload {
	ctx, cancel := context.WithCancel(context.Background())
	w := &workload{c: c, stop: cancel, acked: map[uint64]record.Position{}}
	for range senders {
		w.run.Go(func() {
			for ctx.Err() == nil {
				w.append(3)
				time.Sleep(pause)
			}
		})
	}
	w.progress("the start")
	return w
}

// append appends n records and reports whether they are acknowledged.
func (w *workload) append(n int) (end record.Position, ok bool) {
	last := w.ids.Add(uint64(n))
	var ids []uint64
	for i := range n {
		ids = append(ids, last-uint64(n-1-i))
	}
	b := batchOf(ids...)
	ok = w.c.submit(context.Background(), b)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !ok {
		w.refused++
		return 0, false
	}
	for i, id := range ids {
		w.acked[id] = b.Position(i)
	}
	w.end = max(w.end, b.End())
	return b.End(), true
}

// progress waits for an append that is acknowledged from now on.
func (w *workload) progress(what string) {
	w.c.t.Helper()
	w.mu.Lock()
	before := len(w.acked)
	w.mu.Unlock()
	eventually(w.c.t, "going on after "+what, func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.acked) > before
	})
}

// judge ends the load, when all hosts are up and reach each other, and holds what
// is there against what was said.
func (w *workload) judge() {
	c, t := w.c, w.c.t
	t.Helper()
	w.stop()
	w.run.Wait()
	// What was unknown may be committed yet; nothing is any more once this is.
	var end record.Position
	eventually(t, "a last append", func() (ok bool) {
		end, ok = w.append(1)
		return ok
	})
	var want []numbered
	eventually(t, "all logs equally long", func() bool {
		for _, h := range c.hosts {
			if at := h.log.Committed(); at < end || at != c.hosts[0].log.Committed() {
				return false
			}
		}
		return true
	})
	for i, h := range c.hosts {
		got, err := records(h.log)
		if err != nil {
			t.Fatalf("%s: %v", h.name, err)
		}
		if i == 0 {
			want = got
		} else if len(got) != len(want) {
			t.Fatalf("%s has %d records, %s has %d", h.name, len(got), c.hosts[0].name, len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%s has %+v, %s has %+v", h.name, got[i], c.hosts[0].name, want[i])
			}
		}
	}
	seen := map[uint64]bool{}
	for i, r := range want {
		if r.number != uint64(i) {
			t.Fatalf("record %d has number %d", i, r.number)
		}
		if seen[r.id] {
			t.Fatalf("%d is there twice", r.id)
		}
		seen[r.id] = true
		if pos, ok := w.acked[r.id]; ok && pos != r.pos {
			t.Fatalf("%d was acknowledged at %d, is at %d", r.id, pos, r.pos)
		}
	}
	for id := range w.acked {
		if !seen[id] {
			t.Errorf("%d was acknowledged and is lost", id)
		}
	}
	t.Logf("%d records, %d acknowledged, %d appends refused or unknown", len(want), len(w.acked), w.refused)
	for _, h := range c.hosts {
		c.stop(h)
		if n := h.log.Stats().Views; n != 0 {
			t.Errorf("%s: %d views are open", h.name, n)
		}
	}
}
