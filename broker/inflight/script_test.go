package inflight_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
)

var rewrite = flag.Bool("rewrite", false, "write what the scripts in testdata print into them")

// TestScripts runs testdata/*.txt. A script is commands, each followed by what
// it prints, indented by two spaces. Time stands still between the commands
// that move it. The commands:
//
//	sub plain|fifo|priority|lite [max=N]
//	                             first: the group's kind and its attempts; priority: of every
//	                             4 messages one is from below; lite: all queues are lite topics'
//	now MS                       the time
//	put Q NAME...                messages into queue Q; the first letter is the message group
//	retain Q LOW                 retention: queue Q begins at LOW
//	receive CLIENT [n=] [inv=] [attempt=] [only=LETTERS] [auto] [fail]
//	                             each message gets a handle h1, h2, ...; fail: the append fails
//	begin ID CLIENT ... / end ID [fail]
//	                             a receive in two steps: scanned, then submitted
//	ack H... / change H MS [suspend] / dead H / release CLIENT
//	skip Q NAME / heads          an operator's: bury it, whoever holds it; who waits for whom
//	reopen Q NAME... [fail]      an operator's: hand them out again
//	history Q NAME               the message's deliveries
//	commit Q OFFSET / committed Q / cursor Q OFFSET
//	due                          lite queues whose lease has ended, as the timer asks
//	hold / apply                 records are submitted but not applied / now they are
//	state                        the snapshot, decoded
//	restart                      only the snapshot is left
//
// After every command the snapshot must restore to equal bytes, and a second
// tracker that applies the same records must have equal bytes too.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := runScript(t, string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != string(want) {
				t.Errorf("%s prints\n%s\nwant\n%s", file, got, want)
			}
		})
	}
}

func runScript(t *testing.T, text string) string {
	w := &world{t: t, handles: map[string]handle{}, begun: map[string]*receive{}, names: map[uint64]string{}}
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			continue // what it printed when it was written
		}
		out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		w.out = &out
		w.command(words[0], words[1:])
		w.checkSnapshot(line)
	}
	return out.String()
}

// key is the Sub of all scripts.
var key = inflight.SubKey{Group: 3, Topic: 7}

// handle is what a client was given.
type handle struct {
	queue   uint32
	offset  record.QueueOffset
	leaseID uint64
}

// receive is a receive under way.
type receive struct {
	client      string
	n           int
	invisible   int64
	attempt     string
	only        string
	auto        bool
	resumed     []inflight.Held
	redelivered []inflight.Held
	scans       []inflight.Scanned
	found       int // in scans
}

// world is a tracker with a topic, a log and clients around it.
type world struct {
	t       *testing.T
	out     *strings.Builder
	fifo    bool
	levels  bool
	base    uint32 // number of the queue that scripts call 0
	max     int32
	now     int64
	tracker *inflight.Tracker
	twin    *inflight.Tracker // applies the same records, is never asked for anything
	queues  [][]string
	low     map[uint32]record.QueueOffset
	pending [][]byte // submitted, not applied
	holding bool
	handles map[string]handle
	names   map[uint64]string // of handles, by lease id
	begun   map[string]*receive
}

func (w *world) printf(format string, args ...any) { fmt.Fprintf(w.out, "  "+format+"\n", args...) }

func (w *world) number(s string) int64 {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) sub() *inflight.Sub { return w.tracker.Sub(key, w.fifo) }

func (w *world) command(name string, args []string) {
	switch name {
	case "sub":
		w.fifo, w.levels, w.max = args[0] == "fifo", args[0] == "priority", 1000
		if args[0] == "lite" {
			w.fifo, w.base = true, record.FirstLiteQueue
		}
		if len(args) > 1 {
			w.max = int32(w.number(strings.TrimPrefix(args[1], "max=")))
		}
		w.tracker, w.twin = w.newTracker(), newTracker()
		w.low = map[uint32]record.QueueOffset{}
	case "now":
		w.now = w.number(args[0])
	case "put":
		q := w.queue(args[0])
		for len(w.queues) <= int(q-w.base) {
			w.queues = append(w.queues, nil)
		}
		*w.content(q) = append(*w.content(q), args[1:]...)
	case "retain":
		w.low[w.queue(args[0])] = record.QueueOffset(w.number(args[1]))
	case "receive":
		args, fail := cut(args, "fail")
		w.end(w.begin(args), fail)
	case "begin":
		r := w.begin(args[1:])
		w.begun[args[0]] = r
		for _, sc := range r.scans {
			w.printf("claims queue %d from %d, looked at all below %d", sc.Queue-w.base, sc.From, sc.To)
		}
	case "end":
		_, fail := cut(args, "fail")
		w.end(w.begun[args[0]], fail)
	case "ack":
		w.ack(args)
	case "change":
		args, suspend := cut(args, "suspend")
		w.change(args[0], w.number(args[1]), suspend)
	case "dead":
		h := w.handles[args[0]]
		if held, err := w.sub().BeginMove(h.queue, h.offset, h.leaseID, w.now); err != nil {
			w.printf("%v", err)
		} else {
			w.bury(held)
		}
	case "skip":
		q := w.queue(args[0])
		if held, err := w.sub().BeginSkip(q, record.QueueOffset(slices.Index(*w.content(q), args[1]))); err != nil {
			w.printf("%v", err)
		} else {
			w.bury(held)
		}
	case "heads":
		for _, h := range w.sub().Heads() {
			w.printf("%d wait for %s, attempt %d until %d of %s", h.Behind, w.name(h.Queue, h.Offset), h.Attempt, h.Deadline, h.Owner)
		}
	case "reopen":
		args, fail := cut(args, "fail")
		w.reopen(uint32(w.number(args[0])), args[1:], fail)
	case "history":
		q := w.queue(args[0])
		for _, a := range w.sub().Attempts(q, record.QueueOffset(slices.Index(*w.content(q), args[1]))) {
			w.printf("%d: %s from %d, changed at %d, %v at %d", a.Number, a.Owner, a.Leased, a.Changed, a.End, a.Ended)
		}
	case "release":
		held := w.sub().BeginRelease(func(owner string, _ inflight.Held) bool { return owner == args[0] })
		slices.SortFunc(held, func(a, b inflight.Held) int { return int(a.Offset - b.Offset) })
		for _, h := range held {
			w.printf("released %s", w.name(h.Queue, h.Offset))
		}
		if len(held) > 0 {
			w.submit(inflight.AppendExtend(nil, key, w.now+1000, 0, false, held))
		}
	case "commit":
		w.submit(inflight.AppendOffset(nil, key, w.queue(args[0]), record.QueueOffset(w.number(args[1]))))
	case "cursor":
		w.submit(inflight.AppendCursor(nil, key, w.queue(args[0]), record.QueueOffset(w.number(args[1]))))
	case "committed":
		if off, ok := w.sub().Committed(w.queue(args[0])); ok {
			w.printf("%d", off)
		} else {
			w.printf("none")
		}
	case "due":
		for _, q := range w.sub().Fired(w.now) {
			w.printf("queue %d", q-w.base)
		}
	case "hold":
		w.holding = true
	case "apply":
		w.holding = false
		w.applyPending()
	case "state":
		w.state()
	case "restart":
		w.tracker = restored(w.t, w.tracker, w.newTracker())
		w.begun = map[string]*receive{}
	case "takeover": // as after a replay of the log
		w.tracker, w.twin = w.twin, restored(w.t, w.twin, newTracker())
		w.begun = map[string]*receive{}
	default:
		w.t.Fatalf("no command %q", name)
	}
}

// cut takes a word out of args.
func cut(args []string, word string) (rest []string, found bool) {
	i := slices.Index(args, word)
	if i < 0 {
		return args, false
	}
	return slices.Delete(slices.Clone(args), i, i+1), true
}

// submit is the log: records apply in the order they are submitted in.
func (w *world) submit(rec []byte) {
	w.pending = append(w.pending, rec)
	if !w.holding {
		w.applyPending()
	}
}

func (w *world) applyPending() {
	for _, rec := range w.pending {
		for _, t := range []*inflight.Tracker{w.tracker, w.twin} {
			if err := w.apply(t, rec); err != nil {
				w.t.Fatal(err)
			}
		}
	}
	w.pending = nil
}

// apply applies one record; a dead letter is written here as its lease's id,
// behind the queue and the offset, as a command of its kind.
func (w *world) apply(t *inflight.Tracker, rec []byte) error {
	if record.KindOf(rec) == record.KindDeadLetter {
		d := record.NewDecoder(record.Command(rec))
		t.ApplyDeadLetter(key, uint32(d.Uint64()), record.QueueOffset(d.Uint64()), d.Uint64())
		return d.Err()
	}
	return t.Apply(record.KindOf(rec), record.Command(rec), func(k inflight.SubKey) (bool, bool) { return k == key, w.fifo })
}

func (w *world) reopen(q uint32, names []string, fail bool) {
	sc, ok := w.sub().BeginReopen(q, w.bounds, 1000)
	if !ok {
		w.printf("busy")
		return
	}
	for off, name := range w.queues[q] {
		if slices.Contains(names, name) {
			sc.Held = append(sc.Held, inflight.Held{Queue: q, Offset: record.QueueOffset(off), GroupHash: uint32(name[0])})
		}
	}
	err := w.sub().EndReopen(&sc, func() error {
		if fail {
			return errAppend
		}
		for _, h := range sc.Held {
			w.printf("reopened %s", w.name(q, h.Offset))
		}
		w.submit(inflight.AppendReopen(nil, key, &sc, w.now))
		return nil
	})
	if err != nil {
		w.printf("%v", err)
	}
}

func (w *world) bury(h inflight.Held) {
	rec, start := record.BeginCommand(nil, record.KindDeadLetter)
	for _, v := range []uint64{uint64(h.Queue), uint64(h.Offset), h.LeaseID} {
		for range 8 {
			rec, v = append(rec, byte(v)), v>>8
		}
	}
	w.submit(record.EndCommand(rec, start))
	w.printf("dead %s", w.name(h.Queue, h.Offset))
}

func (w *world) queue(s string) uint32 { return w.base + uint32(w.number(s)) }

// content is the names of the messages of a queue.
func (w *world) content(q uint32) *[]string { return &w.queues[q-w.base] }

func (w *world) name(q uint32, off record.QueueOffset) string { return (*w.content(q))[off] }

func (w *world) bounds(q uint32) (low, high record.QueueOffset) {
	return w.low[q], record.QueueOffset(len(*w.content(q)))
}

// all is all queues, as an order.
func (w *world) all(yield func(uint32) bool) {
	for q := w.base; q < w.base+uint32(len(w.queues)) && yield(q); q++ {
	}
}

func (w *world) newTracker() *inflight.Tracker {
	return inflight.New(func(inflight.SubKey, []uint32) {}, func(record.QueueKey) bool { return true }, func(_ inflight.SubKey, queue uint32) {
		w.printf("queue %d is free", queue-w.base)
	})
}

func newTracker() *inflight.Tracker {
	return inflight.New(func(inflight.SubKey, []uint32) {}, func(record.QueueKey) bool { return true }, func(inflight.SubKey, uint32) {})
}

// begin does a receive up to its scans, as broker.Receive does.
func (w *world) begin(args []string) *receive {
	r := &receive{client: args[0], n: 32, invisible: 10_000}
	for _, a := range args[1:] {
		k, v, _ := strings.Cut(a, "=")
		switch k {
		case "n":
			r.n = int(w.number(v))
		case "inv":
			r.invisible = w.number(v)
		case "attempt":
			r.attempt = v
		case "only":
			r.only = v
		case "auto":
			r.auto = true
		default:
			w.t.Fatalf("what is %q", a)
		}
	}
	s := w.sub()
	if r.resumed = s.Resume(attemptID(r.attempt), r.client, w.now); len(r.resumed) > 0 {
		return r
	}
	take := func(take func() (ready, dead []inflight.Held)) {
		for {
			ready, dead := take()
			r.redelivered = append(r.redelivered, ready...)
			for _, h := range dead {
				w.bury(h)
			}
			if len(ready) > 0 || len(dead) == 0 {
				break
			}
		}
	}
	if w.levels || w.base > 0 {
		var plan []inflight.Level
		if w.levels {
			plan = s.PlanLevels(uint32(len(w.queues)), w.bounds, 1000, r.n, 4, w.now)
		} else {
			plan = s.PlanLite(w.all, w.bounds, r.n, w.now)
		}
		for _, l := range plan {
			take(func() (ready, dead []inflight.Held) {
				switch {
				case l.Again == 0:
					return nil, nil
				case w.levels:
					return s.TakeLevel(nil, l.Queue, l.Again, w.max, w.now)
				}
				return s.TakeLite(l.Queue, w.max, w.now)
			})
		}
		for _, l := range plan {
			if l.Fresh > 0 {
				w.scan(r, func(yield func(uint32) bool) { yield(l.Queue) }, len(r.redelivered)+r.found+l.Fresh)
			}
		}
		if w.base > 0 {
			return r
		}
	} else {
		take(func() (ready, dead []inflight.Held) { return s.TakeReady(nil, r.n, w.max, w.now) })
	}
	w.scan(r, w.all, r.n)
	return r
}

// scan looks for new messages until r has want in all.
func (w *world) scan(r *receive, order iter.Seq[uint32], want int) {
	s := w.sub()
	for len(r.redelivered)+r.found < want {
		sc, to, ok := s.BeginScan(order, w.bounds, 1000)
		if !ok {
			break
		}
		q := sc.Queue
		met := map[uint32]bool{}
		for ; sc.To < to && len(r.redelivered)+r.found < want; sc.To++ {
			letter := w.name(q, sc.To)[:1]
			if r.only != "" && !strings.Contains(r.only, letter) {
				continue
			}
			h := inflight.Held{Queue: q, Offset: sc.To, Attempt: 1, GroupHash: uint32(letter[0])}
			h.Deferred = s.Admit(q, h.GroupHash, met[h.GroupHash])
			met[h.GroupHash] = true
			sc.Held = append(sc.Held, h)
			if !h.Deferred {
				r.found++
			}
		}
		r.scans = append(r.scans, sc)
	}
}

func attemptID(s string) uint64 {
	id := uint64(0)
	for i := range len(s) {
		id = id<<8 | uint64(s[i])
	}
	return id
}

var errAppend = errors.New("the append failed")

// end submits what begin found, and prints what the client gets.
func (w *world) end(r *receive, fail bool) {
	if len(r.resumed) > 0 {
		w.deliver(r.resumed)
		return
	}
	s := w.sub()
	rec := inflight.LeaseRecord{Key: key, Deadline: w.now + r.invisible, Auto: r.auto, AttemptID: attemptID(r.attempt), Owner: r.client}
	for _, h := range r.redelivered {
		rec.Queues = append(rec.Queues, inflight.Scanned{Queue: h.Queue, Epoch: h.Epoch, Held: []inflight.Held{h}})
	}
	rec.Queues = append(rec.Queues, r.scans...)
	must := len(r.redelivered) > 0
	for _, sc := range r.scans {
		must = must || len(sc.Held) > 0 || s.MustRecord(sc)
	}
	if !must {
		if err := s.EndScan(r.scans, nil); err != nil {
			w.t.Fatal(err)
		}
		w.printf("nothing")
		return
	}
	var got []inflight.Held
	for _, q := range rec.Queues {
		for _, h := range q.Held {
			if !h.Deferred {
				h.Deadline = rec.Deadline
				got = append(got, h)
			}
		}
	}
	rec.FirstID = w.tracker.LeaseIDs(len(got), w.now)
	for i := range got {
		got[i].LeaseID = rec.FirstID + uint64(i)
	}
	err := s.EndScan(r.scans, func() error {
		if fail {
			return errAppend
		}
		w.submit(inflight.AppendLease(nil, &rec))
		return nil
	})
	if err != nil {
		s.PutBack(r.redelivered)
		w.printf("%v", err)
		return
	}
	if !w.holding {
		got = slices.DeleteFunc(got, func(h inflight.Held) bool { return !s.Holds(h) })
	}
	w.deliver(got)
}

func (w *world) deliver(held []inflight.Held) {
	for _, h := range held {
		name := w.names[h.LeaseID]
		if name == "" {
			name = w.newHandle(handle{h.Queue, h.Offset, h.LeaseID})
		}
		w.printf("%s: %s attempt %d until %d", name, w.name(h.Queue, h.Offset), h.Attempt, h.Deadline)
	}
	if len(held) == 0 {
		w.printf("nothing")
	}
}

func (w *world) newHandle(h handle) string {
	name := fmt.Sprint("h", len(w.handles)+1)
	w.handles[name], w.names[h.leaseID] = h, name
	return name
}

func (w *world) ack(names []string) {
	var held []inflight.Held
	for _, name := range names {
		h, ok := w.handles[name]
		if !ok {
			w.t.Fatalf("no handle %q", name)
		}
		lease, err := w.sub().BeginAck(h.queue, h.offset, h.leaseID, w.now)
		if err != nil {
			w.printf("%s: %v", name, err)
			continue
		}
		held = append(held, lease)
	}
	if len(held) > 0 {
		w.submit(inflight.AppendAck(nil, key, held))
	}
}

func (w *world) change(name string, invisible int64, suspend bool) {
	h := w.handles[name]
	held, err := w.sub().BeginMove(h.queue, h.offset, h.leaseID, w.now)
	if err != nil {
		w.printf("%v", err)
		return
	}
	h.leaseID = w.tracker.LeaseIDs(1, w.now)
	w.submit(inflight.AppendExtend(nil, key, w.now+invisible, h.leaseID, suspend, []inflight.Held{held}))
	w.printf("%s", w.newHandle(h))
}

// state prints the snapshot, field by field.
func (w *world) state() {
	d := record.NewDecoder(w.tracker.AppendSnapshot(nil))
	for range d.Count(1) {
		d.Uint32()
		d.Uint32()
		d.Byte()
		for range d.Count(1) {
			q := d.Uint32()
			_, cursor, committed := d.Uvarint(), d.Uvarint(), d.Varint()
			w.printf("queue %d cursor %d committed %d", q-w.base, cursor, committed)
			off := record.QueueOffset(0)
			for range d.Count(1) {
				off += record.QueueOffset(d.Varint())
				id, attempt, deadline := d.Uvarint(), d.Uint32(), d.Varint()
				d.Uint32()
				auto := map[byte]string{1: " auto"}[d.Byte()]
				receive := ""
				if id := d.Uint64(); id != 0 {
					receive = " by a receive with an id"
				}
				owner := d.String()
				if id == 0 {
					w.printf("  %s put aside", w.name(q, off))
					continue
				}
				w.printf("  %s attempt %d until %d %s of %s%s%s", w.name(q, off), attempt, deadline, w.names[id], owner, auto, receive)
			}
		}
	}
	if err := d.Err(); err != nil {
		w.t.Fatal(err)
	}
}

// restored returns tracker, which is empty, with the snapshot of another one.
func restored(t *testing.T, from, tracker *inflight.Tracker) *inflight.Tracker {
	t.Helper()
	d := record.NewDecoder(from.AppendSnapshot(nil))
	tracker.Restore(d)
	history := record.NewDecoder(from.AppendHistory(nil))
	tracker.RestoreHistory(history)
	if err := errors.Join(d.Err(), history.Err()); err != nil {
		t.Fatal(err)
	}
	return tracker
}

func (w *world) checkSnapshot(line string) {
	w.t.Helper()
	snapshot := w.tracker.AppendHistory(w.tracker.AppendSnapshot(nil))
	again := restored(w.t, w.tracker, newTracker())
	if again := again.AppendHistory(again.AppendSnapshot(nil)); !bytes.Equal(again, snapshot) {
		w.t.Fatalf("after %q: the snapshot\n%x restores to\n%x", strings.TrimSpace(line), snapshot, again)
	}
	if twin := w.twin.AppendHistory(w.twin.AppendSnapshot(nil)); !bytes.Equal(twin, snapshot) {
		w.t.Fatalf("after %q: the snapshot is\n%x, that of a tracker with the same records\n%x", strings.TrimSpace(line), snapshot, twin)
	}
}
