package transaction

import (
	"strconv"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// ApplyHalf adds the half message whose verified record is at pos.
func (t *Table) ApplyHalf(pos record.Position, rec []byte) error {
	m, err := record.ParseMessage(rec)
	if err != nil {
		return err
	}
	r := &row{Half: Half{Position: pos, Payload: pos, Size: uint32(len(rec)), Key: m.Key(), Born: m.BornTime, Stored: m.StoreTime}}
	var bad error
	err = m.Properties.Each(func(f record.Field, _, value []byte) bool {
		switch f {
		case record.FieldMessageID:
			r.MessageID = string(value)
		case record.FieldTag:
			r.TagHash = record.Hash32(value)
		case record.FieldGroup:
			r.GroupHash = record.Hash32(value)
		case record.FieldRecoverySec:
			seconds, err := strconv.ParseUint(string(value), 10, 31)
			if err != nil {
				bad = malformed("recovery of %q seconds", value)
			}
			r.Recovery = int64(seconds) * 1000
		}
		return bad == nil
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.put(r)
	return nil
}

// ApplyCommit takes a commit's half message out. The caller puts its entry into
// the queue first: who waits for the decision may then look for the message.
func (t *Table) ApplyCommit(c Commit) {
	t.decide(c.Position, Decision{Committed, c.Source, c.StoreTime})
}

// ApplyRollback takes a half message out, by a rollback record of time (Unix ms).
func (t *Table) ApplyRollback(data []byte, time int64) error {
	d := record.NewDecoder(data)
	pos, source := record.Position(d.Uvarint()), Source(d.Byte())
	if err := d.Err(); err != nil {
		return err
	}
	t.decide(pos, Decision{RolledBack, source, time})
	return nil
}

// decide does nothing about a half message that went with its topic.
func (t *Table) decide(pos record.Position, d Decision) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[pos]
	if r == nil {
		return
	}
	t.remember(pos, d)
	t.remove(r)
}

// remember keeps a decision and forgets old ones. Called with mu held.
func (t *Table) remember(pos record.Position, d Decision) {
	t.keep(pos, d)
	for t.forgotten < len(t.order) {
		oldest := t.order[t.forgotten]
		if len(t.order)-t.forgotten <= maxDecisions && d.Time-t.decided[oldest].Time <= decisionLife.Milliseconds() {
			break
		}
		delete(t.decided, oldest)
		t.forgotten++
	}
	if t.forgotten > maxDecisions {
		t.order = append([]record.Position(nil), t.order[t.forgotten:]...)
		t.forgotten = 0
	}
}

func (t *Table) keep(pos record.Position, d Decision) {
	t.decided[pos] = d
	t.order = append(t.order, pos)
}

// ApplyCheck takes in a check record. Half messages that were decided in the
// meantime are passed over.
func (t *Table) ApplyCheck(data []byte) error {
	d := record.NewDecoder(data)
	t.mu.Lock()
	defer t.mu.Unlock()
	var last record.Position
	for n := d.Count(standingMin); n > 0 && !d.Failed(); n-- {
		c := readStanding(d, last)
		last = c.Position
		if r := t.rows[c.Position]; r != nil && !d.Failed() {
			r.Checks, r.next, r.Parked = c.Checks, c.Next, c.Parked
			t.schedule(r)
		}
	}
	return d.Err()
}

// ApplyMove takes in that a half message is held by another record.
func (t *Table) ApplyMove(data []byte) error {
	d := record.NewDecoder(data)
	pos, payload, size := record.Position(d.Uvarint()), record.Position(d.Uvarint()), d.Uint32()
	if err := d.Err(); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if r := t.rows[pos]; r != nil {
		r.Payload, r.Size = payload, size
	}
	return nil
}

// DropTopic forgets the half messages of a deleted topic.
func (t *Table) DropTopic(id record.TopicID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rows {
		if r.Key.Topic() == id {
			t.remove(r)
		}
	}
}
