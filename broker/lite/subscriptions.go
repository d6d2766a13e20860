package lite

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Limits of lite subscriptions (wire-contract 4.8).
const (
	ClientQuota = 2000    // lite topics of one client
	TotalQuota  = 100_000 // of all clients together
	Expiry      = 3 * time.Minute
)

// ErrQuota reports that a client, or all together, would subscribe to too many.
var ErrQuota = errors.New("lite: too many subscriptions")

// Bind is where a client's subscriptions belong: one group, one parent topic.
type Bind struct {
	Client string
	Group  record.GroupID
	Topic  record.TopicID
}

// Subscriptions is what connected clients have subscribed to.
type Subscriptions struct {
	mu    sync.Mutex
	sets  map[Bind]*set
	total int
}

type set struct {
	names []string // sorted
	seen  time.Time
	turn  int
}

// Change adds and removes names of one client, or, with replace, makes them all
// it has, and refreshes it. On ErrQuota nothing changes.
func (s *Subscriptions) Change(b Bind, add, remove []string, replace bool, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.sets[b]
	if old == nil {
		old = &set{}
	}
	var names []string
	if !replace {
		names = append(names, old.names...)
	}
	names = append(names, add...)
	slices.Sort(names)
	names = slices.Compact(names)
	names = slices.DeleteFunc(names, func(n string) bool { return slices.Contains(remove, n) })
	if len(names) > max(ClientQuota, len(old.names)) || len(names) > len(old.names) && s.total+len(names)-len(old.names) > TotalQuota {
		return ErrQuota
	}
	s.total += len(names) - len(old.names)
	old.names, old.seen = names, now
	if s.sets == nil {
		s.sets = map[Bind]*set{}
	}
	s.sets[b] = old
	return nil
}

// Drop forgets a client.
func (s *Subscriptions) Drop(client string) {
	s.dropIf(func(b Bind, _ *set) bool { return b.Client == client })
}

// Expire forgets clients that have not been heard of for Expiry.
func (s *Subscriptions) Expire(now time.Time) {
	s.dropIf(func(_ Bind, c *set) bool { return now.Sub(c.seen) > Expiry })
}

func (s *Subscriptions) dropIf(gone func(Bind, *set) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b, c := range s.sets {
		if gone(b, c) {
			s.total -= len(c.names)
			delete(s.sets, b)
		}
	}
}

// Names returns what a client has subscribed to, each time beginning one name
// further on, so that none is always last. ok is false for a client that has
// not said.
func (s *Subscriptions) Names(b Bind) (names []string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.sets[b]
	if c == nil {
		return nil, false
	}
	if len(c.names) == 0 {
		return nil, true
	}
	c.turn = (c.turn + 1) % len(c.names)
	return slices.Concat(c.names[c.turn:], c.names[:c.turn]), true
}

// Remove takes a deleted lite topic from all clients and returns which had it.
func (s *Subscriptions) Remove(topic record.TopicID, name string) (had []Bind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b, c := range s.sets {
		if b.Topic != topic {
			continue
		}
		if i, ok := slices.BinarySearch(c.names, name); ok {
			c.names = slices.Delete(slices.Clone(c.names), i, i+1)
			s.total--
			had = append(had, b)
		}
	}
	return had
}

// Total returns how many subscriptions there are.
func (s *Subscriptions) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
