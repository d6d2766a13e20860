// Package replay is the table of replays that are not finished: a range of a
// topic's messages that goes to one group again. Its rows say what is left, so
// that a replay which was cut off goes on where it was. A pure state machine over
// records; which messages go, and how fast, is decided before.
//
// # Concurrency
//
// Apply functions are called by the dispatcher only; everything else may be
// called concurrently with it.
package replay

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Key names one group's consumption of one topic. It has one replay at a time.
type Key struct {
	Group record.GroupID
	Topic record.TopicID
}

// Replay is one that is not finished.
type Replay struct {
	Key      Key
	From, To int64 // Unix ms: of messages that entered their queue in [From, To)
	SQL      bool  // the filter is SQL92, else tags
	Filter   string
	Queues   []Range // what is left, by queue; ascending, none is empty
	Total    int64   // messages in the range when it began
	Done     int64   // handed to the group
}

// Range is a part of a queue that has not been looked at.
type Range struct {
	Queue     uint32
	Next, End record.QueueOffset
}

// Left is how many messages have not been looked at.
func (r *Replay) Left() (n int64) {
	for _, q := range r.Queues {
		n += int64(q.End - q.Next)
	}
	return n
}

// Table holds all replays. Use New.
type Table struct {
	mu   sync.Mutex
	rows map[Key]*Replay
}

func New() *Table { return &Table{rows: map[Key]*Replay{}} }

// Get returns a copy of the replay of a group and topic.
func (t *Table) Get(key Key) (Replay, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[key]
	if r == nil {
		return Replay{}, false
	}
	out := *r
	out.Queues = slices.Clone(r.Queues)
	return out, true
}

// Drop forgets the replays of deleted topics or groups.
func (t *Table) Drop(gone func(Key) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.rows {
		if gone(k) {
			delete(t.rows, k)
		}
	}
}

// Records, each beginning  group uvarint | topic uvarint:
//
//	begin: the replay as in the snapshot; takes the place of another
//	step:  queue uvarint | next uvarint | messages handed to the group uvarint
//	end:   nothing more

// AppendBegin encodes the record that begins a replay.
func AppendBegin(dst []byte, r *Replay) []byte {
	dst, start := begin(dst, record.KindReplayBegin, r.Key)
	return record.EndCommand(r.append(dst), start)
}

// AppendStep encodes the record that a queue was looked at below next, and done
// messages of it were handed to the group.
func AppendStep(dst []byte, key Key, queue uint32, next record.QueueOffset, done int) []byte {
	dst, start := begin(dst, record.KindReplayStep, key)
	for _, v := range []uint64{uint64(queue), uint64(next), uint64(done)} {
		dst = binary.AppendUvarint(dst, v)
	}
	return record.EndCommand(dst, start)
}

// AppendEnd encodes the record that forgets a replay.
func AppendEnd(dst []byte, key Key) []byte {
	dst, start := begin(dst, record.KindReplayEnd, key)
	return record.EndCommand(dst, start)
}

func begin(dst []byte, kind record.Kind, key Key) ([]byte, int) {
	dst, start := record.BeginCommand(dst, kind)
	return appendKey(dst, key), start
}

func appendKey(dst []byte, key Key) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(key.Group)), uint64(key.Topic))
}

func readKey(d *record.Decoder) Key {
	return Key{record.GroupID(d.Uint32()), record.TopicID(d.Uint32())}
}

// A replay behind its key:
//
//	from varint | to varint, Unix ms | SQL 1 | filter string | total uvarint | done uvarint
//	| queues: count, each  queue uvarint | next uvarint | end uvarint
func (r *Replay) append(dst []byte) []byte {
	dst = binary.AppendVarint(binary.AppendVarint(dst, r.From), r.To)
	sql := byte(0)
	if r.SQL {
		sql = 1
	}
	dst = record.AppendString(append(dst, sql), r.Filter)
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(r.Total)), uint64(r.Done))
	dst = binary.AppendUvarint(dst, uint64(len(r.Queues)))
	for _, q := range r.Queues {
		for _, v := range []uint64{uint64(q.Queue), uint64(q.Next), uint64(q.End)} {
			dst = binary.AppendUvarint(dst, v)
		}
	}
	return dst
}

func read(d *record.Decoder, key Key) *Replay {
	r := &Replay{Key: key, From: d.Varint(), To: d.Varint(), SQL: d.Byte() == 1, Filter: d.String(), Total: int64(d.Uvarint()), Done: int64(d.Uvarint())}
	for n := d.Count(3); n > 0 && !d.Failed(); n-- {
		r.Queues = append(r.Queues, Range{d.Uint32(), record.QueueOffset(d.Uvarint()), record.QueueOffset(d.Uvarint())})
	}
	return r
}

// Apply applies the data of one record. exists says whether a group and topic
// are still there.
func (t *Table) Apply(kind record.Kind, data []byte, exists func(Key) bool) error {
	d := record.NewDecoder(data)
	key := readKey(d)
	if d.Failed() {
		return d.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch kind {
	case record.KindReplayBegin:
		r := read(d, key)
		if err := d.Err(); err != nil {
			return err
		}
		if exists(key) {
			t.rows[key] = r
		}
	case record.KindReplayStep:
		queue, next, done := d.Uint32(), record.QueueOffset(d.Uvarint()), int64(d.Uvarint())
		if r := t.rows[key]; r != nil && !d.Failed() {
			r.step(queue, next, done)
		}
	case record.KindReplayEnd:
		delete(t.rows, key)
	}
	return d.Err()
}

func (r *Replay) step(queue uint32, next record.QueueOffset, done int64) {
	r.Done += done
	i, ok := slices.BinarySearchFunc(r.Queues, queue, func(q Range, n uint32) int { return cmp.Compare(q.Queue, n) })
	switch {
	case !ok:
	case next >= r.Queues[i].End:
		r.Queues = slices.Delete(r.Queues, i, i+1)
	default:
		r.Queues[i].Next = max(r.Queues[i].Next, next)
	}
}

// AppendSnapshot appends the table: count, each  key | replay, in ascending
// order, so that equal tables give equal bytes.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	rows := make([]*Replay, 0, len(t.rows))
	for _, r := range t.rows {
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b *Replay) int {
		return cmp.Or(cmp.Compare(a.Key.Group, b.Key.Group), cmp.Compare(a.Key.Topic, b.Key.Topic))
	})
	dst = binary.AppendUvarint(dst, uint64(len(rows)))
	for _, r := range rows {
		dst = r.append(appendKey(dst, r.Key))
	}
	return dst
}

// Restore fills an empty table with what AppendSnapshot wrote.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := d.Count(9); n > 0 && !d.Failed(); n-- {
		key := readKey(d)
		t.rows[key] = read(d, key)
	}
}
