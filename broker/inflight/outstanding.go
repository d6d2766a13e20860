package inflight

import (
	"iter"
	"maps"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// outstanding is the leases of one queue, by offset. A map is made for the second
// one: there are very many lite topics, and each has one at most.
type outstanding struct {
	one *lease
	all map[record.QueueOffset]*lease // nil until there are two, then it has one as well
}

func (o *outstanding) get(offset record.QueueOffset) *lease {
	if o.all != nil {
		return o.all[offset]
	}
	if o.one != nil && o.one.offset == offset {
		return o.one
	}
	return nil
}

func (o *outstanding) put(l *lease) {
	switch {
	case o.all == nil && (o.one == nil || o.one.offset == l.offset):
		o.one = l
		return
	case o.all == nil:
		o.all = map[record.QueueOffset]*lease{o.one.offset: o.one}
		o.one = nil
	}
	o.all[l.offset] = l
}

func (o *outstanding) remove(offset record.QueueOffset) {
	if o.one != nil && o.one.offset == offset {
		o.one = nil
	}
	delete(o.all, offset)
}

func (o *outstanding) len() int {
	if o.one != nil {
		return 1
	}
	return len(o.all)
}

// leases returns them in no order. They may be removed meanwhile.
func (o *outstanding) leases() iter.Seq[*lease] {
	if o.one != nil {
		return func(yield func(*lease) bool) { yield(o.one) }
	}
	return maps.Values(o.all)
}
