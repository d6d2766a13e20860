package broker

import (
	"github.com/gantry-mq/gantry/commitlog/keyindex"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// packNote is what the check of a pack found out that the dispatcher needs to
// index it. It travels with the pack (commitlog.Note), so that nobody has to read
// the records again. It says nothing that is not in them: a replay, which has no
// notes, comes to the same state.
type packNote struct {
	p      *Publishing
	start  int // of the pack, behind the mark
	places []packRun
	keyed  []keyedMessage
}

// keyedMessage is a message with an id or keys, and the hashes of those.
type keyedMessage struct {
	at       int // behind the mark
	from, to int // among the hashes
}

// note collects what is to know of an accepted message.
func (p *Publishing) note(at, size int, out *Outgoing) {
	e := consumequeue.Entry{Position: record.Position(at), Size: uint32(size)}
	if out.Tag != "" {
		e.TagHash = record.Hash32(out.Tag)
	}
	if out.HasGroup {
		e.GroupHash = record.Hash32(out.Group)
	}
	p.entries = append(p.entries, e)
	if out.Unnamed && len(out.Keys) == 0 {
		return
	}
	from := len(p.hashes)
	if !out.Unnamed {
		p.hashes = append(p.hashes, keyindex.ID(p.topic.ID, out.ID))
	}
	for _, key := range out.Keys {
		p.hashes = append(p.hashes, keyindex.Key(p.topic.ID, key))
	}
	p.keyed = append(p.keyed, keyedMessage{at: at, from: from, to: len(p.hashes)})
}

// takeNote returns the note of the pack of size bytes that begins at start behind
// the mark. Packs are asked for in order.
func (p *Publishing) takeNote(start, size int) *packNote {
	n := packNote{p: p, start: start}
	places, keys := p.places, p.keyed
	for _, before := range p.notes {
		places, keys = places[len(before.places):], keys[len(before.keyed):]
	}
	for len(n.places) < len(places) && places[len(n.places)].at < start+size {
		n.places = places[:len(n.places)+1]
	}
	for len(n.keyed) < len(keys) && keys[len(n.keyed)].at < start+size {
		n.keyed = keys[:len(n.keyed)+1]
	}
	p.notes = append(p.notes, n)
	return &p.notes[len(p.notes)-1]
}

// applyPack is apply for all messages of a pack, by its note.
func (b *Broker) applyPack(pos record.Position, note any, time int64) error {
	n := note.(*packNote)
	p := n.p
	base := pos - record.Position(n.start)
	b.timers.Advance(time)
	b.dedup.Advance(time)
	for _, k := range n.keyed {
		if err := b.keys.Put(base+record.Position(k.at), p.hashes[k.from:k.to]); err != nil {
			return err
		}
	}
	exists := b.topicExists(p.topic.ID)
	for i := range n.places {
		pl := &n.places[i]
		if exists && b.queueExists(pl.key) { // else deleted while the pack was under way
			stored := record.StoreTimeOf(pl.rec)
			es := p.entries[pl.index : pl.index+pl.count]
			for j := range es {
				es[j].Position += base
				es[j].StoreTime = stored
			}
			if err := b.index.PutRun(pl.key, record.OffsetOf(pl.rec), es); err != nil {
				return err
			}
		}
		b.arrived(pl.key, pl.count, pl.bodies, time)
	}
	return nil
}
