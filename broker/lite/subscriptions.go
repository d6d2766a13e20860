package lite

import (
	"errors"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Expiry is how long a client's subscriptions last without being said again
// (wire-contract 4.8).
const Expiry = 3 * time.Minute

// ErrQuota reports that a client, or all together, would subscribe to too many.
var ErrQuota = errors.New("lite: too many subscriptions")

// Bind is where subscriptions belong: one group, one parent topic, and a client,
// or "" where all clients of a group share every lite topic.
type Bind struct {
	Client string
	Group  record.GroupID
	Topic  record.TopicID
}

// Subscriptions is what connected clients have subscribed to, and for each in
// which lite topics there may be something for it: nobody walks over thousands
// of empty ones. A hint is made by whoever makes a message available, after that
// is so, and taken by the receive that looks. It may be wrong, but what is there
// is always hinted at.
type Subscriptions struct {
	quota int

	mu    sync.Mutex
	sets  map[Bind]*set
	names map[record.TopicID]map[string]*subscription // of all clients, by name, linked
	wild  map[record.TopicID][]*set
	total int
}

// set is the subscriptions of one Bind.
type set struct {
	bind  Bind
	has   map[string]*subscription // of a wild set: those that are hinted at
	hints []*subscription          // the first first; some may be gone
	seen  time.Time
	round uint32 // of Change
}

type subscription struct {
	set    *set
	name   string
	next   *subscription // by another client, or for another group
	round  uint32
	hinted bool // in set.hints
}

// NewSubscriptions returns an empty set that takes up to quota subscriptions of
// all clients together.
func NewSubscriptions(quota int) *Subscriptions {
	return &Subscriptions{
		quota: quota, sets: map[Bind]*set{}, names: map[record.TopicID]map[string]*subscription{}, wild: map[record.TopicID][]*set{},
	}
}

// Change is what a client asks for.
type Change struct {
	Add     []string
	Remove  []string
	Replace bool // Add is all it has
	// Exclusive: one client of a group has a lite topic. Add takes it from another;
	// with Replace, by which a client only repeats what it believes it has, it does
	// not.
	Exclusive bool
	Quota     int // of this client
}

// Lost is a client that does not have a lite topic any more, or not as it
// believes: it must be told.
type Lost struct {
	Bind
	Name string
}

// Change changes one client's subscriptions and refreshes it. What is new is
// hinted at. On ErrQuota nothing changes.
func (s *Subscriptions) Change(b Bind, c Change, now time.Time) (lost []Lost, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, names := range []*[]string{&c.Add, &c.Remove} {
		*names = slices.Clone(*names)
		slices.Sort(*names)
		*names = slices.Compact(*names)
	}
	if c.Replace && c.Exclusive {
		c.Add = slices.DeleteFunc(c.Add, func(name string) bool {
			taken := s.heldByOther(b, name) != nil
			if taken {
				lost = append(lost, Lost{b, name})
			}
			return taken
		})
	}
	mine := s.sets[b]
	if mine == nil {
		mine = &set{bind: b, has: map[string]*subscription{}}
	}
	mine.round++
	created := 0
	for _, name := range c.Add {
		if sub := mine.has[name]; sub != nil {
			sub.round = mine.round
		} else {
			created++
		}
	}
	var gone []*subscription
	for _, sub := range mine.has {
		if c.Replace && sub.round != mine.round {
			gone = append(gone, sub)
		}
	}
	for _, name := range c.Remove {
		if sub := mine.has[name]; sub != nil {
			gone = append(gone, sub)
		}
	}
	if more := created - len(gone); created > 0 && (len(mine.has)+more > c.Quota || s.total+more > s.quota) {
		return nil, ErrQuota
	}
	s.sets[b] = mine
	mine.seen = now
	for _, sub := range gone {
		s.remove(sub)
	}
	for _, name := range c.Add {
		if c.Exclusive && !c.Replace {
			for sub := s.heldByOther(b, name); sub != nil; sub = s.heldByOther(b, name) {
				lost = append(lost, Lost{sub.set.bind, name})
				s.remove(sub)
			}
		}
		if mine.has[name] == nil {
			s.add(mine, name)
		}
	}
	return lost, nil
}

// Share makes every lite topic of a parent one that all clients of a group
// receive from, or refreshes that. names are those that are there; they are
// pulled only when the group is new.
func (s *Subscriptions) Share(group record.GroupID, topic record.TopicID, names iter.Seq[string], now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := Bind{Group: group, Topic: topic}
	all := s.sets[b]
	if all == nil {
		all = &set{bind: b, has: map[string]*subscription{}}
		s.sets[b] = all
		s.wild[topic] = append(s.wild[topic], all)
		for name := range names {
			all.hintWild(name)
		}
	}
	all.seen = now
}

func (s *Subscriptions) heldByOther(b Bind, name string) *subscription {
	for sub := s.names[b.Topic][name]; sub != nil; sub = sub.next {
		if sub.set.bind.Group == b.Group && sub.set.bind != b {
			return sub
		}
	}
	return nil
}

func (s *Subscriptions) add(to *set, name string) {
	byName := s.names[to.bind.Topic]
	if byName == nil {
		byName = map[string]*subscription{}
		s.names[to.bind.Topic] = byName
	}
	sub := &subscription{set: to, name: name, round: to.round}
	if other := byName[name]; other != nil {
		sub.name = other.name // one string for all
		sub.next = other.next
		other.next = sub
	} else {
		byName[name] = sub
	}
	to.has[sub.name] = sub
	s.total++
	sub.hint()
}

func (s *Subscriptions) remove(sub *subscription) {
	byName := s.names[sub.set.bind.Topic]
	switch first := byName[sub.name]; {
	case first != sub:
		for ; first.next != sub; first = first.next {
		}
		first.next = sub.next
	case sub.next != nil:
		byName[sub.name] = sub.next
	default:
		delete(byName, sub.name)
		if len(byName) == 0 {
			delete(s.names, sub.set.bind.Topic)
		}
	}
	mine := sub.set
	delete(mine.has, sub.name)
	s.total--
	if len(mine.hints) > 2*len(mine.has)+64 { // of a client that subscribes and never receives
		mine.hints = slices.DeleteFunc(mine.hints, func(sub *subscription) bool { return mine.has[sub.name] != sub })
	}
}

func (sub *subscription) hint() {
	sub.hinted = true
	sub.set.hints = append(sub.set.hints, sub)
}

// hintWild reports whether the hint is new.
func (all *set) hintWild(name string) bool {
	if all.has[name] != nil {
		return false
	}
	sub := &subscription{set: all, name: name}
	all.has[name] = sub
	sub.hint()
	return true
}

// Hint says that there may be something in a lite topic, for a group, or for all
// when group is 0. It appends to dst those to whom that is news: a receive that
// waits for them is to be woken.
func (s *Subscriptions) Hint(dst []Bind, topic record.TopicID, name string, group record.GroupID) []Bind {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := s.names[topic][name]; sub != nil; sub = sub.next {
		if !sub.hinted && (group == 0 || sub.set.bind.Group == group) {
			sub.hint()
			dst = append(dst, sub.set.bind)
		}
	}
	for _, all := range s.wild[topic] {
		if (group == 0 || all.bind.Group == group) && all.hintWild(name) {
			dst = append(dst, all.bind)
		}
	}
	return dst
}

// Next takes the oldest hint. So lite topics come in turn, however many messages
// each has.
func (s *Subscriptions) Next(b Bind) (name string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.sets[b]
	if mine == nil {
		return "", false
	}
	for len(mine.hints) > 0 {
		sub := mine.hints[0]
		mine.hints[0] = nil
		mine.hints = mine.hints[1:]
		sub.hinted = false
		if mine.has[sub.name] != sub {
			continue
		}
		if b.Client == "" {
			delete(mine.has, sub.name)
		}
		return sub.name, true
	}
	return "", false
}

// Hinted reports whether Next may have something.
func (s *Subscriptions) Hinted(b Bind) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.sets[b]
	return mine != nil && len(mine.hints) > 0
}

// Known reports whether a client has said what it subscribes to, if only to
// nothing.
func (s *Subscriptions) Known(b Bind) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sets[b] != nil
}

// Drop forgets a client.
func (s *Subscriptions) Drop(client string) {
	s.dropIf(func(c *set) bool { return c.bind.Client == client && client != "" })
}

// Expire forgets clients that have not been heard of for Expiry.
func (s *Subscriptions) Expire(now time.Time) {
	s.dropIf(func(c *set) bool { return now.Sub(c.seen) > Expiry })
}

func (s *Subscriptions) dropIf(gone func(*set) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b, c := range s.sets {
		if !gone(c) {
			continue
		}
		delete(s.sets, b)
		if b.Client == "" {
			s.wild[b.Topic] = slices.DeleteFunc(s.wild[b.Topic], func(other *set) bool { return other == c })
			continue
		}
		for _, sub := range c.has {
			s.remove(sub)
		}
	}
}

// Remove takes a deleted lite topic from all clients and returns which had it.
func (s *Subscriptions) Remove(topic record.TopicID, name string) (had []Bind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for sub := s.names[topic][name]; sub != nil; sub = s.names[topic][name] {
		had = append(had, sub.set.bind)
		s.remove(sub)
	}
	return had
}

// Total returns how many subscriptions there are.
func (s *Subscriptions) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}
