// Package longpoll parks receives until there may be something for them.
//
// # No lost wake-up
//
// A receive registers, then looks, then sleeps. Whoever makes a message
// available does so first and wakes last. So either the look finds the message
// or the wake finds the waiter. A wake is a hint, never a promise.
//
// # One message, one waiter
//
// Each message wakes one waiter per group. A waiter that leaves without having
// used its wake passes it on, and one that found more than it could take wakes
// the next.
//
// # Concurrency
//
// All methods may be called concurrently. One mutex, held for a few map
// operations; wakes never block.
package longpoll

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

var (
	// ErrFull reports that too many receives wait already.
	ErrFull = errors.New("longpoll: too many waiting")
	// ErrOver reports that the time to wait is over.
	ErrOver = errors.New("longpoll: nothing came in time")
)

// Key is what a waiter waits for. Group 0 waits alone: every message of the topic
// wakes it. With a Client it waits for that client's lite topics only.
type Key struct {
	Topic  record.TopicID
	Group  record.GroupID
	Client string
}

// reader is a Key within its topic.
type reader struct {
	group  record.GroupID
	client string
}

func (k Key) reader() reader { return reader{k.Group, k.Client} }

// Hub holds the waiters.
type Hub struct {
	perKey, total int

	mu     sync.Mutex
	topics map[record.TopicID]map[reader]*line
	count  int
}

// line is the waiters of one key, longest waiting first.
type line struct {
	first, last *Waiter
	length      int
}

// New returns a hub that parks at most perKey waiters of one key, total in all.
func New(perKey, total int) *Hub {
	return &Hub{perKey: perKey, total: total, topics: map[record.TopicID]map[reader]*line{}}
}

// Waiter is one parked receive. It belongs to one goroutine.
type Waiter struct {
	hub        *Hub
	key        Key
	wake       chan struct{} // capacity 1
	prev, next *Waiter
	queued     bool // in its line: waiting and not woken since
}

// Register makes a waiter. End it with Leave.
func (h *Hub) Register(key Key) (*Waiter, error) {
	w := &Waiter{hub: h, key: key, wake: make(chan struct{}, 1)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count >= h.total || h.length(key) >= h.perKey {
		return nil, ErrFull
	}
	h.count++
	h.enqueue(w)
	return w, nil
}

func (h *Hub) length(key Key) int {
	if l := h.topics[key.Topic][key.reader()]; l != nil {
		return l.length
	}
	return 0
}

func (h *Hub) enqueue(w *Waiter) {
	readers := h.topics[w.key.Topic]
	if readers == nil {
		readers = map[reader]*line{}
		h.topics[w.key.Topic] = readers
	}
	l := readers[w.key.reader()]
	if l == nil {
		l = &line{}
		readers[w.key.reader()] = l
	}
	w.prev, w.next = l.last, nil
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	l.length++
	w.queued = true
}

func (h *Hub) dequeue(w *Waiter) {
	readers := h.topics[w.key.Topic]
	l := readers[w.key.reader()]
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	l.length--
	w.prev, w.next, w.queued = nil, nil, false
	if l.first == nil {
		delete(readers, w.key.reader())
		if len(readers) == 0 {
			delete(h.topics, w.key.Topic)
		}
	}
}

// Sleep returns nil when woken, ErrOver when until or stop is first, ctx's error
// when that is done first. Look again after nil; the waiter is in line again by
// then.
func (w *Waiter) Sleep(ctx context.Context, until <-chan time.Time, stop <-chan struct{}) error {
	select {
	case <-w.wake:
		w.Requeue()
		return nil
	case <-until:
		return ErrOver
	case <-stop:
		return ErrOver
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Woken tells of a wake, for a waiter that waits for other things too. It is not
// in line any more when it has received one: Requeue, and look.
func (w *Waiter) Woken() <-chan struct{} { return w.wake }

// Requeue puts a waiter that was woken back in line.
func (w *Waiter) Requeue() {
	w.hub.mu.Lock()
	defer w.hub.mu.Unlock()
	if !w.queued {
		w.hub.enqueue(w)
	}
}

// Leave ends the waiter. A wake that came and was not used goes to the next.
func (w *Waiter) Leave() {
	h := w.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count--
	if w.queued {
		h.dequeue(w)
	}
	select {
	case <-w.wake:
		h.wakeOne(w.key)
	default:
	}
}

func (h *Hub) wakeOne(key Key) {
	if l := h.topics[key.Topic][key.reader()]; l != nil {
		w := l.first
		h.dequeue(w)
		w.wake <- struct{}{} // it was in line, so its channel is empty
	}
}

// Wake wakes one waiter of key.
func (h *Hub) Wake(key Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wakeOne(key)
}

// WakeTopic wakes one waiter of every group that waits for the topic, and all
// that wait alone. Waiters for lite topics sleep on.
func (h *Hub) WakeTopic(topic record.TopicID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for r := range h.topics[topic] {
		if r.client == "" {
			h.wakeOne(Key{Topic: topic, Group: r.group})
		}
	}
	h.wakeLine(Key{Topic: topic})
}

// WakeGroup wakes every waiter of a group, whatever it waits for.
func (h *Hub) WakeGroup(group record.GroupID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, readers := range h.topics {
		for r := range readers {
			if r.group == group {
				h.wakeLine(Key{Topic: topic, Group: r.group, Client: r.client})
			}
		}
	}
}

func (h *Hub) wakeLine(key Key) {
	for h.topics[key.Topic][key.reader()] != nil {
		h.wakeOne(key)
	}
}

// WakeAll wakes every waiter, so that all look around: at shutdown.
func (h *Hub) WakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for topic, readers := range h.topics {
		for r := range readers {
			h.wakeLine(Key{Topic: topic, Group: r.group, Client: r.client})
		}
	}
}

// Waiting returns how many receives are parked.
func (h *Hub) Waiting() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}
