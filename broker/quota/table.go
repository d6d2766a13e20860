package quota

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// Table is all quotas. Use NewTable.
type Table struct {
	now       func() int64 // nanoseconds that only grow
	active    atomic.Bool
	throttled [Kinds][limits]atomic.Uint64

	mu       sync.Mutex
	quotas   map[Subject]Limits
	limiters map[Subject]*limiter // of those that were asked about
	sweepAt  int                  // as many are looked through for idle ones
	changed  chan struct{}        // closed when a quota changes
}

// sweepAtLeast limiters are kept without a look.
const sweepAtLeast = 1024

// NewTable returns an empty table. now tells nanoseconds that only grow.
func NewTable(now func() int64) *Table {
	return &Table{now: now, quotas: map[Subject]Limits{}, limiters: map[Subject]*limiter{}, sweepAt: sweepAtLeast, changed: make(chan struct{})}
}

// Active reports whether there is any quota.
func (t *Table) Active() bool { return t.active.Load() }

// Apply applies the data of a record of one of the two kinds.
func (t *Table) Apply(kind record.Kind, data []byte) error {
	d := record.NewDecoder(data)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch kind {
	case record.KindQuotaPut:
		if q := readQuota(d); d.Err() == nil {
			t.quotas[q.Subject] = q.Limits
			t.change(q.Subject)
		}
	case record.KindQuotaDelete:
		if s := readSubject(d); d.Err() == nil {
			delete(t.quotas, s)
			t.change(s)
		}
	default:
		return fmt.Errorf("quota: a record of kind %v", kind)
	}
	return d.Err()
}

// change has the next send and receive see what the subject may use from now on, with
// full buckets, and those that wait look again. Other buckets stay as they are. It is
// called with mu held.
func (t *Table) change(s Subject) {
	maps.DeleteFunc(t.limiters, func(_ Subject, l *limiter) bool { return l.subject == s || l.of == s })
	t.active.Store(len(t.quotas) > 0)
	close(t.changed)
	t.changed = make(chan struct{})
}

// limiter is that of a subject, nil if it has no quota. It is called with mu held.
func (t *Table) limiter(s Subject, now int64) *limiter {
	if l := t.limiters[s]; l != nil {
		return l
	}
	of := s
	bounds, ok := t.quotas[of]
	if !ok {
		of.Name = Each
		if bounds, ok = t.quotas[of]; !ok {
			return nil
		}
	}
	if len(t.limiters) >= t.sweepAt {
		maps.DeleteFunc(t.limiters, func(_ Subject, l *limiter) bool { return l.idle(now) })
		t.sweepAt = max(sweepAtLeast, 2*len(t.limiters))
	}
	l := &limiter{subject: s, of: of, limits: bounds, freed: make(chan struct{}, 1)}
	t.limiters[s] = l
	return l
}

// Ask says who sends or receives what. What is empty is not known, and not bounded.
type Ask struct {
	Topic, Group record.Resource
	Client, User string
}

// each calls f with the limiters that count. It is called with mu held.
func (t *Table) each(a *Ask, now int64, f func(*limiter)) {
	for k := Topic; k < Kinds; k++ {
		s := Subject{Kind: k}
		switch k {
		case Topic:
			s.Resource = a.Topic
		case Group:
			s.Resource = a.Group
		case Client:
			s.Name = a.Client
		case User:
			s.Name = a.User
		case Namespace:
			s.Name = a.Topic.Namespace
		}
		if s.Name == "" && k != Namespace {
			continue
		}
		if l := t.limiter(s, now); l != nil {
			f(l)
		}
	}
}

// Send takes what a send needs of all quotas, or nothing: then it says what there is too
// little of.
func (t *Table) Send(a *Ask, messages, bytes int) *Excess {
	need := [...]int{SendMessages: messages, SendBytes: bytes}
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	var short *Excess
	t.each(a, now, func(l *limiter) {
		for i, n := range need {
			short = t.shorter(short, l, Limit(i), n, now)
		}
	})
	if short != nil {
		return short
	}
	t.each(a, now, func(l *limiter) {
		for i, n := range need {
			l.take(Limit(i), n, now)
		}
	})
	return nil
}

// shorter is what has to be waited for longest: short, or n of a rate. It is called with
// mu held.
func (t *Table) shorter(short *Excess, l *limiter, i Limit, n int, now int64) *Excess {
	rate := l.limits[i]
	if rate == 0 {
		return short
	}
	if lack := time.Duration(l.buckets[i].lack(now, n, rate)); lack > 0 && (short == nil || lack > short.Retry) {
		return &Excess{Of: l.subject, Limit: i, Max: rate, Retry: lack, Changed: t.changed}
	}
	return short
}

// Grant is what a receive may take. Its zero value is of one that nothing bounds.
type Grant struct {
	Messages int
	Bytes    int // the last message may go beyond

	t        *Table
	limiters [Kinds]*limiter
	reserved int
}

// ReceiveAgain is how long a receive is held back at least: of many that wait for the
// same quota none should look for each message.
const ReceiveAgain = 100 * time.Millisecond

// Receive says how much of so many messages and bytes may be received now: one message at
// least, or why not. leased counts what the group has leased, up to a limit; it is nil for
// a receive without leases. The grant is to be given back with Done, soon.
func (t *Table) Receive(a *Ask, messages, bytes int, leased func(limit int) int) (Grant, *Excess) {
	g := Grant{Messages: messages, Bytes: bytes, t: t}
	now := t.now()
	var short *Excess
	t.mu.Lock()
	changed := t.changed
	t.each(a, now, func(l *limiter) {
		g.limiters[l.subject.Kind] = l
		short = t.shorter(short, l, ReceiveMessages, 1, now)
		short = t.shorter(short, l, ReceiveBytes, 1, now)
		g.Messages = min(g.Messages, l.holds(ReceiveMessages, now))
		g.Bytes = min(g.Bytes, l.holds(ReceiveBytes, now))
	})
	t.mu.Unlock()
	if short != nil {
		short.Retry = max(short.Retry, ReceiveAgain)
		return Grant{}, short
	}
	if l := g.limiters[Group]; leased != nil && l != nil && l.limits[InFlight] > 0 {
		if g.reserved = l.enter(g.Messages, leased); g.reserved == 0 {
			return Grant{}, &Excess{Of: l.subject, Limit: InFlight, Max: l.limits[InFlight], Retry: time.Second, Freed: l.freed, Changed: changed}
		}
		g.Messages = g.reserved
	}
	return g, nil
}

// Done pays for what was received. Leases of it have been applied.
func (g *Grant) Done(messages, bytes int) {
	if g.t == nil {
		return
	}
	now := g.t.now()
	g.t.mu.Lock()
	for _, l := range g.limiters {
		if l != nil {
			l.take(ReceiveMessages, messages, now)
			l.take(ReceiveBytes, bytes, now)
		}
	}
	g.t.mu.Unlock()
	if g.reserved > 0 {
		g.limiters[Group].leave(g.reserved)
	}
}

// Freed tells that leases of a group have ended.
func (t *Table) Freed(group record.Resource) {
	t.mu.Lock()
	l := t.limiters[Subject{Group, group}]
	t.mu.Unlock()
	if l != nil && l.limits[InFlight] > 0 {
		l.free()
	}
}

// Throttle counts a send that was refused or held back, or a receive that was held back.
func (t *Table) Throttle(e *Excess) { t.throttled[e.Of.Kind][e.Limit].Add(1) }

// Throttled returns what Throttle has counted since the start.
func (t *Table) Throttled(k Kind, l Limit) uint64 { return t.throttled[k][l].Load() }

// Of returns a subject's own quota.
func (t *Table) Of(s Subject) (Limits, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l, ok := t.quotas[s]
	return l, ok
}

// List returns all, by kind, namespace and name.
func (t *Table) List() []Quota {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Quota, 0, len(t.quotas))
	for s, l := range t.quotas {
		out = append(out, Quota{s, l})
	}
	slices.SortFunc(out, func(a, b Quota) int { return compare(a.Subject, b.Subject) })
	return out
}

// AppendSnapshot appends the table. Equal tables give equal bytes.
func (t *Table) AppendSnapshot(dst []byte) []byte {
	list := t.List()
	dst = binary.AppendUvarint(dst, uint64(len(list)))
	for i := range list {
		dst = appendQuota(dst, &list[i])
	}
	return dst
}

// Restore fills an empty table with what AppendSnapshot wrote. The caller checks d.
func (t *Table) Restore(d *record.Decoder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for n := d.Count(minQuotaLen); n > 0 && !d.Failed(); n-- {
		q := readQuota(d)
		t.quotas[q.Subject] = q.Limits
	}
	t.active.Store(len(t.quotas) > 0)
}
