package dedup

import "github.com/gantry-mq/gantry/commitlog/record"

// Verdict says of one message what to do. Exactly one of the fields but Index is
// set, or none: then the message is the claimer's to store.
type Verdict struct {
	First *First // it was stored
	// Twin is set for one that the same call has twice: Index is of the first.
	Twin  bool
	Index int
	// Busy is closed when another claimer is done with it and all that it claimed
	// beside it; then claim it again.
	Busy <-chan struct{}
}

// Mine reports whether the message is the claimer's to store.
func (v *Verdict) Mine() bool { return v.First == nil && !v.Twin && v.Busy == nil }

// Claim holds messages that are about to be stored, each until it is applied.
type Claim struct {
	Verdicts []Verdict // one for each key

	t    *Table
	id   record.TopicID
	keys []Key
	held int           // of keys
	done chan struct{} // closed when none is held any more
}

// claimed says who holds a message, as which of its keys.
type claimed struct {
	by    *Claim
	index int
}

// Begin claims messages of a topic at now, Unix ms. The caller appends those that
// are its own, or calls End. It does not wait for others before that.
func (t *Table) Begin(id record.TopicID, keys []Key, now int64) *Claim {
	c := &Claim{Verdicts: make([]Verdict, len(keys)), t: t, id: id, keys: keys, done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.topics[id]
	if m == nil {
		return c
	}
	for i := range keys {
		k, v := &keys[i], &c.Verdicts[i]
		if *k == (Key{}) {
			continue
		}
		if first, ok := m.lookup(k, now); ok {
			v.First = &first
			continue
		}
		switch other := m.claimed[*k]; other.by {
		case nil:
			m.claimed[*k] = claimed{c, i}
			c.held++
		case c:
			v.Twin, v.Index = true, other.index
		default:
			v.Busy = other.by.done
		}
	}
	return c
}

// End gives up what the claim still holds.
func (c *Claim) End() {
	c.t.mu.Lock()
	defer c.t.mu.Unlock()
	if m := c.t.topics[c.id]; m != nil {
		for _, k := range c.keys {
			if m.claimed[k].by == c {
				m.settle(k)
			}
		}
	}
}

// settle ends the claim on one message, if there is one.
func (m *memory) settle(k Key) {
	c := m.claimed[k].by
	if c == nil {
		return
	}
	delete(m.claimed, k)
	if c.held--; c.held == 0 {
		close(c.done)
	}
}
