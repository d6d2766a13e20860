package broker

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/gantry-mq/gantry/commitlog/record"
)

// simPack is a batch that a producer keeps until it is told what became of it.
type simPack struct {
	topic    *simTopic
	sequence uint64
	records  []byte
	entries  int
	told     []simEntryOf
}

// simEntryOf is what is told of one entry of a pack.
type simEntryOf struct {
	Queue    uint32
	Position record.Position
	Refused  Reason
	Repeated bool
	Sent
}

// simPacksKept is how many packs a producer may send again. Fewer than are
// remembered (producer.Window).
const simPacksKept = 5

// record appends the message as a producer of packs makes it.
func (m *simMsg) record(pack []byte) []byte {
	return packMsg(pack, string(m.body), func(r *record.Message) {
		r.DueTime, r.Priority = m.due, m.priority
		if m.half {
			r.Kind = record.KindHalf
		}
		if m.prio {
			r.Flags = record.FlagPriority
		}
		recovery := ""
		if m.recovery > 0 {
			recovery = strconv.FormatInt(m.recovery, 10)
		}
		for _, p := range []struct {
			field record.Field
			value string
		}{
			{record.FieldMessageID, m.id}, {record.FieldTag, m.tag}, {record.FieldKey, m.key}, {record.FieldGroup, m.group},
			{record.FieldLiteTopic, m.lite}, {record.FieldRecoverySec, recovery},
		} {
			if p.value != "" {
				packField(p.field, p.value)(r)
			}
		}
		r.Properties = record.AppendUser(r.Properties, "n", fmt.Sprint(m.n))
	})
}

// pack sends messages as one batch of gantry.v1, now and then with some among them
// that cannot be stored. It returns what a Send would have.
func (s *sim) pack(tp *simTopic, ms []*simMsg) []Sent {
	s.sequence++
	p := simPack{topic: tp, sequence: s.sequence}
	of := make([]int, len(ms)) // entry of each
	for i, m := range ms {
		if s.r.IntN(20) == 0 {
			bad := *m
			bad.lite, bad.group, bad.prio, bad.due, bad.half = "l0", "g0", true, s.now()+5000, true // no topic takes all that
			p.records = bad.record(p.records)
			p.entries++
		}
		of[i] = p.entries
		p.records = m.record(p.records)
		p.entries++
	}
	out := s.publish(&p)
	if out.Duplicate {
		s.failf("batch %d is a duplicate", p.sequence)
	}
	p.told = s.entriesOf(&p, out)
	stored := false
	sent := make([]Sent, len(ms))
	for i, e := range of {
		told := &p.told[e]
		if told.Refused != 0 {
			s.failf("%s is refused for %v", ms[i].id, told.Refused)
		}
		if told.MessageID == "" {
			told.MessageID = ms[i].id
		}
		sent[i] = told.Sent
		stored = stored || !told.Repeated
	}
	for e := range p.told {
		if !slices.Contains(of, e) && p.told[e].Refused == 0 {
			s.failf("entry %d of batch %d should be refused: %+v", e, p.sequence, p.told[e])
		}
	}
	if stored { // else it leaves nothing behind by which it is known again
		s.packs = append(s.packs, p)
		s.packs = s.packs[max(0, len(s.packs)-simPacksKept):]
	}
	return sent
}

// publish sends the pack in pieces.
func (s *sim) publish(p *simPack) Published {
	pack := &Pack{Producer: 1, Sequence: p.sequence, Topic: p.topic.Name, Queue: -1, Records: inPieces(p.records)}
	pub, err := s.b.Publish(s.t.Context(), pack)
	s.must(err)
	out, err := pub.Wait()
	s.must(err)
	return out
}

// entriesOf is what is told of each entry.
func (s *sim) entriesOf(p *simPack, out Published) []simEntryOf {
	told := make([]simEntryOf, p.entries)
	times := make([]int, p.entries)
	for _, run := range out.Runs {
		for i := range run.Count {
			e := &told[run.Entry+i]
			e.Queue, e.Offset = run.Queue, run.Offset+record.QueueOffset(i)
			if i == 0 {
				e.Position = run.Position
			}
			times[run.Entry+i]++
		}
	}
	for _, pending := range out.Pending {
		e := &told[pending.Entry]
		e.Position, e.TransactionID, e.RecallHandle, e.Offset = pending.Position, pending.TransactionID, pending.RecallHandle, record.NoOffset
		times[pending.Entry]++
	}
	for _, refused := range out.Refused {
		told[refused.Entry].Refused = ReasonOf(refused.Err)
		times[refused.Entry]++
	}
	for _, r := range out.Repeated {
		told[r.Entry].Repeated, told[r.Entry].MessageID = true, r.MessageID
	}
	for e, n := range times {
		if n != 1 {
			s.failf("entry %d of batch %d is told of %d times: %+v", e, p.sequence, n, out)
		}
	}
	return told
}

// publishAgain sends a batch again of which the producer believes that it was not
// stored. It is told the same.
func (s *sim) publishAgain() {
	if len(s.packs) == 0 {
		return
	}
	p := &s.packs[s.r.IntN(len(s.packs))]
	out := s.publish(p)
	s.logf("batch %d to %s again", p.sequence, p.topic.name)
	if !out.Duplicate {
		s.failf("batch %d was stored twice", p.sequence)
	}
	if s.trimmed && len(out.Runs)+len(out.Pending)+len(out.Refused) == 0 {
		return // retention took it
	}
	for e, got := range s.entriesOf(p, out) {
		want := p.told[e]
		// Where a run begins may differ, and what a first one was called is asked anew.
		if got.Position == 0 || want.Position == 0 {
			got.Position, want.Position = 0, 0
		}
		if got.MessageID == "" {
			got.MessageID = want.MessageID
		}
		if got.Repeated = got.Repeated || want.Repeated; got != want {
			s.failf("entry %d of batch %d, sent again: %+v, was %+v", e, p.sequence, got, want)
		}
	}
	s.look()
}
