package broker

import (
	"cmp"
	"context"
	"slices"

	"github.com/gantry-mq/gantry/broker/dedup"
	"github.com/gantry-mq/gantry/broker/producer"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// RepeatedEntry is an entry of a pack that is a message which was stored before.
type RepeatedEntry struct {
	Entry     int
	MessageID string // what that one is called; "" = as this one, as far as is known
}

// packOnce is what becomes of a pack's entries in a topic with a deduplication
// window. Its methods work on nil too: nothing is repeated then.
type packOnce struct {
	claim  *dedup.Claim
	stored []storedEntry // by entry
}

// storedEntry is where an entry is behind the mark.
type storedEntry struct {
	at  int
	rec []byte
}

// claim finds out which entries were stored before, and holds the others until
// they are applied. A pack is one commit, so it waits for entries that are being
// stored for somebody else, and holds nothing meanwhile.
func (p *Publishing) claim(ctx context.Context, records [][]byte) error {
	keys, err := p.identify(records)
	if err != nil {
		return err
	}
	for {
		claim := p.b.dedup.Begin(p.topic.ID, keys, p.b.now())
		i := slices.IndexFunc(claim.Verdicts, func(v dedup.Verdict) bool { return v.Busy != nil })
		if i < 0 {
			p.once = &packOnce{claim: claim, stored: make([]storedEntry, len(keys))}
			return nil
		}
		claim.End()
		select {
		case <-claim.Verdicts[i].Busy:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.b.ctx.Done():
			return Errorf(Unavailable, "the broker is shutting down")
		}
	}
}

// identify returns the entries' keys: none of those that will be refused.
func (p *Publishing) identify(records [][]byte) (keys []dedup.Key, err error) {
	in := packReader{p: p}
	var identity []byte
	for in.more(records) {
		if _, err = in.next(); err != nil {
			return nil, Errorf(Corrupted, "entry %d of the batch: %w", len(keys), err)
		}
		var key dedup.Key
		if in.accept() == nil {
			if identity = appendIdentity(identity[:0], p.topic.DedupKey, &in.out); len(identity) > 0 {
				key = dedup.KeyOf(identity)
			}
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// end gives up what is claimed, of a pack that is not stored.
func (o *packOnce) end() {
	if o != nil {
		o.claim.End()
	}
}

// has reports whether an entry was stored before.
func (o *packOnce) has(entry int) bool { return o != nil && !o.claim.Verdicts[entry].Mine() }

func (o *packOnce) placed(entry, at int, rec []byte) {
	if o != nil {
		o.stored[entry] = storedEntry{at, rec}
	}
}

// marks says for the pack's mark which entries are not stored.
func (o *packOnce) marks() (repeats []producer.Repeat) {
	if o == nil {
		return nil
	}
	for entry, v := range o.claim.Verdicts {
		switch {
		case v.Twin:
			repeats = append(repeats, producer.Repeat{Entry: entry, Of: v.Index + 1})
		case v.First != nil:
			f := v.First
			repeats = append(repeats, producer.Repeat{Entry: entry, Position: f.Position, Queue: f.Queue, Offset: f.Offset, Due: f.Due})
		}
	}
	return repeats
}

// addRepeats tells of the entries that were not stored. base is where the pack is.
func (p *Publishing) addRepeats(out *Published, base record.Position) error {
	if p.once == nil {
		return nil
	}
	for entry, v := range p.once.claim.Verdicts {
		first := v.First
		if v.Twin {
			s := &p.once.stored[v.Index]
			pos := base + record.Position(s.at)
			m, err := record.ParseMessage(s.rec)
			if err != nil {
				return p.b.damaged(pos, err)
			}
			f := firstOf(pos, &m)
			first = &f
		}
		if first == nil {
			continue
		}
		if err := p.b.addRepeat(out, p.topic, entry, first); err != nil {
			return err
		}
	}
	p.b.counters.duplicates.Add(uint64(len(out.Repeated)))
	out.sort()
	return nil
}

// addRepeat tells of one entry that was stored before.
func (b *Broker) addRepeat(out *Published, tp topic.Topic, entry int, first *dedup.First) error {
	switch {
	case first.Due != 0:
		handle := b.handles.Load().sealRecall(recall{tp.ID, first.Due, first.Position, first.Offset})
		out.Pending = append(out.Pending, PendingEntry{Entry: entry, Position: first.Position, RecallHandle: handle})
	case first.Offset == record.NoOffset:
		id := b.handles.Load().sealTransaction(tp.ID, first.Position)
		out.Pending = append(out.Pending, PendingEntry{Entry: entry, Position: first.Position, TransactionID: id})
	default:
		out.Runs = append(out.Runs, PlacedRun{Entry: entry, Count: 1, Queue: first.Queue, Offset: first.Offset, Position: first.Position})
	}
	id, err := b.firstID(tp, first)
	out.Repeated = append(out.Repeated, RepeatedEntry{Entry: entry, MessageID: id})
	return err
}

// sort puts runs and pending entries into the pack's order.
func (p *Published) sort() {
	slices.SortFunc(p.Runs, func(a, b PlacedRun) int { return cmp.Compare(a.Entry, b.Entry) })
	slices.SortFunc(p.Pending, func(a, b PendingEntry) int { return cmp.Compare(a.Entry, b.Entry) })
}
