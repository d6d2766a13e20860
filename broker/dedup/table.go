// Package dedup remembers, for topics that ask for it, which messages were stored
// not long ago, so that one that is sent again gets the first result and is not
// stored twice.
//
// # State
//
// A message is remembered by 128 bits of the SHA-256 of what identifies it, for
// the topic's window from its store time, and at most so many of a topic: beyond
// that the oldest are forgotten before their time. What is remembered follows from
// the records that were applied and the times in them.
//
// It costs 56 bytes a message and some 36 for the table that finds it, 23 in a
// checkpoint; and nothing for topics without deduplication.
//
// # Reservation
//
// Whoever is about to store messages begins a [Claim] on them, which says of each
// whether it is remembered, is being stored by somebody else, or is now the
// claimer's to store. So of any number of senders of the same message one appends
// it; the others wait for it and find it remembered. A claim ends when the record
// is applied, whether or not its owner still waits. Claims are this node's memory.
//
// # Concurrency
//
// Apply, Advance, Configure, Drop, AppendSnapshot and Restore are called by the
// goroutine that applies the log. All else may be called from anywhere. Table.mu is
// held for memory only.
package dedup

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Key identifies a message within its topic. The zero Key is that of a message
// like no other.
type Key [16]byte

// KeyOf returns the key of what identity identifies.
func KeyOf(identity []byte) Key {
	sum := sha256.Sum256(identity)
	return Key(sum[:16])
}

// First is where a message was stored first.
type First struct {
	Position record.Position
	Queue    uint32
	Offset   record.QueueOffset // record.NoOffset when it was half; its timer's place when it was delayed
	Due      int64              // Unix ms when it was delayed, else 0
	Time     int64              // when it was stored, Unix ms
}

// Table remembers messages of all topics. Use New.
type Table struct {
	swept int64 // the whole minute, in record time, Unix ms, that was swept last; the applier's

	mu     sync.Mutex
	topics map[record.TopicID]*memory
}

// New returns an empty table.
func New() *Table { return &Table{topics: map[record.TopicID]*memory{}} }

// memory is what is remembered of one topic: entries in the order of the log,
// numbered from 0, in chunks, and a table that finds them by the first half of
// their keys. Should two keys share that half, the older one is forgotten.
type memory struct {
	window int64 // ms
	max    int
	by     string

	chunks [][]entry // all but the last are full; entry first is in chunks[0]
	first  uint64
	next   uint64
	find   map[uint64]uint64 // number of the newest entry

	claimed map[Key]claimed
}

type entry struct {
	key Key
	First
}

const (
	chunkBits = 8
	chunkLen  = 1 << chunkBits

	sweepMs = 60_000
)

func half(k *Key) uint64 { return binary.LittleEndian.Uint64(k[:]) }

func (m *memory) at(number uint64) *entry {
	return &m.chunks[number>>chunkBits-m.first>>chunkBits][number%chunkLen]
}

func (m *memory) add(e entry) {
	if m.next%chunkLen == 0 {
		m.chunks = append(m.chunks, make([]entry, chunkLen))
	}
	*m.at(m.next) = e
	m.find[half(&e.key)] = m.next
	m.next++
	m.shrink()
}

// shrink forgets the oldest beyond max.
func (m *memory) shrink() {
	for m.count() > m.max {
		m.forget()
	}
}

func (m *memory) count() int { return int(m.next - m.first) }

// forget takes out the oldest entry.
func (m *memory) forget() {
	h := half(&m.at(m.first).key)
	if m.find[h] == m.first {
		delete(m.find, h)
	}
	m.first++
	if m.first%chunkLen == 0 {
		m.chunks[0] = nil
		m.chunks = m.chunks[1:]
	}
}

// lookup returns what is remembered at now, Unix ms.
func (m *memory) lookup(k *Key, now int64) (First, bool) {
	number, ok := m.find[half(k)]
	if !ok {
		return First{}, false
	}
	e := m.at(number)
	return e.First, e.key == *k && e.Time+m.window > now
}

// Configure sets how long a topic's messages are remembered, and how many at
// most; window 0 forgets them all. by is a name for what identifies them: those
// that are claimed by another name will not be applied as they were claimed.
func (t *Table) Configure(id record.TopicID, window time.Duration, max uint32, by string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.topics[id]
	if m != nil && (window <= 0 || m.by != by) {
		for k := range m.claimed {
			m.settle(k)
		}
	}
	switch {
	case window <= 0:
		delete(t.topics, id)
		return
	case m == nil:
		m = &memory{find: map[uint64]uint64{}, claimed: map[Key]claimed{}}
		t.topics[id] = m
	}
	m.window, m.max, m.by = window.Milliseconds(), int(max), by
	m.shrink()
	// What the new window forgets at this minute is forgotten now: a table restored
	// within the minute sweeps with the new window, and must not differ.
	m.sweep(t.swept)
}

// Drop forgets a topic.
func (t *Table) Drop(id record.TopicID) { t.Configure(id, 0, 0, "") }

// Apply remembers a message of the topic, unless the topic has no window, and ends
// the claim on it.
func (t *Table) Apply(id record.TopicID, k Key, first First) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.topics[id]; m != nil && k != (Key{}) {
		m.add(entry{k, first})
		m.settle(k)
	}
}

// Advance forgets what is past its window at now, the time of the record that is
// applied next. It does so by whole minutes, so that what is remembered does not
// depend on when it is called.
func (t *Table) Advance(now int64) {
	if now < t.swept+sweepMs {
		return
	}
	t.swept = now - now%sweepMs
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, m := range t.topics {
		m.sweep(t.swept)
	}
}

// sweep forgets what is past its window at now.
func (m *memory) sweep(now int64) {
	for m.count() > 0 && m.at(m.first).Time+m.window <= now {
		m.forget()
	}
	if m.count() == 0 {
		m.find = map[uint64]uint64{} // gives its memory back
	}
}

// Status is what is remembered of a topic.
type Status struct {
	Count  int
	Oldest int64 // Unix ms, 0 = nothing is
}

// Status returns how much is remembered of a topic at this moment.
func (t *Table) Status(id record.TopicID) Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.topics[id]
	if m == nil || m.count() == 0 {
		return Status{}
	}
	return Status{Count: m.count(), Oldest: m.at(m.first).Time}
}
