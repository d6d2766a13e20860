package broker

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"
	"unsafe"

	"github.com/gantry-mq/gantry/broker/admission"
	"github.com/gantry-mq/gantry/broker/dedup"
	"github.com/gantry-mq/gantry/broker/producer"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// Pack is a batch of messages of one topic as records: see record.BeginMessage.
// It is stored as it is but for what only the broker knows.
type Pack struct {
	Producer uint64 // with Sequence the batch's name, so that it is stored once
	Sequence uint64
	Topic    record.Resource
	From     Caller
	// Queue is where messages go that no rule gives a queue; -1 = the broker chooses
	// one.
	Queue int64
	// Records are in pieces of whole records, as they came. They belong to the broker,
	// which changes them in place, until Wait returned.
	Records [][]byte
}

func (p *Pack) size() (n int) {
	for _, r := range p.Records {
		n += len(r)
	}
	return n
}

// Publishing is a pack on its way into the log.
type Publishing struct {
	b     *Broker
	name  producer.Name
	topic topic.Topic
	now   int64

	pass    admission.Pass
	batch   commitlog.Batch
	mark    []byte
	first   int // record of batch from which on there are packs, behind the mark
	lite    *liteSend
	places  []packRun
	pending []packRun
	refused []Refused
	once    *packOnce            // of a topic with a deduplication window, else nil
	left    []int                // entries that are not stored, in order
	bytes   int                  // of records that are accepted
	entries []consumequeue.Entry // of those in places, see packNote
	hashes  []uint64             // of ids and keys
	keyed   []keyedMessage
	notes   []packNote
	began   time.Time // with a tracer only
	traced  []Step    // likewise

	earlier record.Position // of the mark, when the pack was stored before
	none    bool            // every entry was refused: nothing is stored
}

// packRun is a run of entries as it is known before the log has it.
type packRun struct {
	entry, count int
	at           int // of the first, behind the mark
	key          record.QueueKey
	rec          []byte // the first
	index        int    // of the first among entries
	bodies       int    // bytes of all bodies
	lite         bool
}

// Published is what became of a pack. Each entry is in one of the three.
type Published struct {
	Runs    []PlacedRun
	Pending []PendingEntry
	Refused []Refused
	// Repeated are those of Runs and Pending that were not stored, because the same
	// message was within the topic's deduplication window: there it is told where.
	Repeated []RepeatedEntry
	// Duplicate says that this is the outcome of an earlier Publish of the same
	// batch; there are no Runs when retention has taken its messages.
	Duplicate bool
}

// PlacedRun is entries that follow each other in the pack, in a queue and in the
// log.
type PlacedRun struct {
	Entry, Count int
	Queue        uint32
	Offset       record.QueueOffset
	Position     record.Position
}

// PendingEntry is a half message, or one that is not due yet.
type PendingEntry struct {
	Entry         int
	Position      record.Position
	TransactionID string
	RecallHandle  string
}

// Refused is an entry that was not stored, and why.
type Refused struct {
	Entry int
	Err   error
}

var publishings = sync.Pool{New: func() any { return new(Publishing) }}

// Publish checks a pack, message by message, and gives what is good of it its
// place in the log's order: packs that are published one after the other are
// stored in that order. Wait tells the outcome. An error refuses all of it.
func (b *Broker) Publish(ctx context.Context, pack *Pack) (*Publishing, error) {
	if err := checkTopicName(pack.Topic); err != nil {
		return nil, err
	}
	tp, ok := b.topics.Lookup(pack.Topic)
	switch size := pack.size(); {
	case !ok:
		return nil, topicNotFound(pack.Topic)
	case size == 0:
		return nil, Errorf(Corrupted, "no message was sent")
	case size > MaxPackBytes:
		return nil, Errorf(BodyTooLarge, "the batch has %d bytes, the limit is %d", size, MaxPackBytes)
	case pack.Queue >= int64(tp.Queues):
		return nil, Errorf(BadRequest, "queue %d of topic %q: it has queues 0 to %d", pack.Queue, tp.Name, tp.Queues-1)
	case pack.Producer == 0 || pack.Sequence == 0:
		return nil, Errorf(BadRequest, "producer id or sequence is 0")
	}
	if err := b.throttlePack(ctx, pack); err != nil {
		return nil, err
	}
	pass, err := b.admitWaiting(ctx, pack.size())
	if err != nil {
		return nil, err
	}
	p := publishings.Get().(*Publishing)
	p.b, p.topic, p.now = b, tp, b.clock.Wall().UnixMilli()
	p.began = b.tracer.begin()
	p.name = producer.Name{Producer: pack.Producer, Sequence: pack.Sequence}
	p.pass = pass
	if err := p.begin(ctx); err != nil {
		p.free()
		b.gate.Leave(pass)
		return nil, err
	}
	if p.earlier != 0 {
		return p, nil
	}
	if err := p.submit(ctx, pack); err != nil {
		b.producers.Cancel(p.name)
		p.once.end()
		p.free()
		b.gate.Leave(pass)
		return nil, err
	}
	return p, nil
}

// begin reserves the batch's name, or finds that it was stored before.
func (p *Publishing) begin(ctx context.Context) error {
	for {
		at, wait, err := p.b.producers.Begin(p.name)
		if err != nil {
			return Errorf(PreconditionFailed, "batch %d of the producer is older than what is remembered: it may have been stored", p.name.Sequence)
		}
		p.earlier = at
		if wait == nil {
			return nil
		}
		select { // on another connection that broke, most likely
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		case <-p.b.ctx.Done():
			return Errorf(Unavailable, "the broker is shutting down")
		}
	}
}

func (p *Publishing) submit(ctx context.Context, pack *Pack) error {
	if p.topic.DedupWindow > 0 {
		if err := p.claim(ctx, pack.Records); err != nil {
			return err
		}
	}
	entries, err := p.check(ctx, pack)
	if err != nil {
		return err
	}
	if p.bytes == 0 {
		p.none = true
		p.b.producers.Cancel(p.name)
		return nil
	}
	mark := producer.Mark{Producer: p.name.Producer, Sequence: p.name.Sequence, Entries: entries, Bytes: p.bytes}
	for _, r := range p.refused {
		mark.Refused = append(mark.Refused, producer.Refusal{Entry: r.Entry, Reason: int(ReasonOf(r.Err)), Text: r.Err.Error()})
	}
	mark.Repeats = p.once.marks()
	p.mark = producer.AppendMark(p.mark[:0], &mark)
	p.batch.Add(p.mark, nil)
	p.first = p.batch.Len()
	p.addPacks(pack.Records)
	err = p.b.append.Submit(&p.batch)
	p.lite.end(err == nil)
	return p.b.refusedAppend(err)
}

// check looks at every record and gives those that are good their kind and
// queue. An error says that the bytes are no pack.
func (p *Publishing) check(ctx context.Context, pack *Pack) (entries int, err error) {
	spread := uint32(max(pack.Queue, 0))
	if pack.Queue < 0 {
		spread = robin.Add(1) % p.topic.Queues
	}
	var lites []Outgoing // those with a lite topic, and the place of each
	var liteAt []int
	in := packReader{p: p}
	m, out := &in.m, &in.out
	for ; in.more(pack.Records); entries++ {
		if entries == MaxPackRecords {
			return 0, Errorf(Corrupted, "more than %d messages in one batch", MaxPackRecords)
		}
		at := in.rest
		rec, err := in.next()
		if err != nil {
			return 0, Errorf(Corrupted, "entry %d of the batch: %w", entries, err)
		}
		if err := in.accept(); err != nil {
			p.refused = append(p.refused, Refused{Entry: entries, Err: err})
			p.left = append(p.left, entries)
			continue
		}
		if p.once.has(entries) {
			p.left = append(p.left, entries)
			continue
		}
		m.Kind, m.Flags, m.Queue = placeMessage(out, &p.topic, p.now, spread)
		m.Topic = p.topic.ID
		if m.BornTime <= 0 {
			m.BornTime = p.now
		}
		if out.LiteTopic != "" {
			lites = append(lites, Outgoing{LiteTopic: out.LiteTopic})
			liteAt = append(liteAt, len(p.places))
		}
		record.Place(rec, m)
		clear(at[len(rec):record.Padded(len(rec))])
		p.once.placed(entries, p.bytes, rec)
		p.placed(entries, m, rec, out)
		p.b.tracer.packed(p, out)
	}
	if len(lites) == 0 {
		return entries, nil
	}
	if p.lite, err = p.b.beginLite(ctx, p.topic, lites, &p.batch); err != nil {
		return 0, err
	}
	for i, at := range liteAt {
		pl := &p.places[at]
		pl.key = record.Key(p.topic.ID, p.lite.queues[i])
		record.SetQueue(pl.rec, p.lite.queues[i])
	}
	return entries, nil
}

// packReader reads the entries of a pack, one after the other.
type packReader struct {
	p     *Publishing
	rest  []byte         // of the piece that is read
	piece int            // the next one
	m     record.Message // the entry
	out   Outgoing       // what it says
	// good is the last entry that was checked, as it came; all of it is good but
	// maybe its body.
	good    record.Message
	hasGood bool
}

// more reports whether there is another entry.
func (r *packReader) more(pieces [][]byte) bool {
	for len(r.rest) == 0 && r.piece < len(pieces) {
		r.rest = pieces[r.piece]
		r.piece++
	}
	return len(r.rest) > 0
}

// next reads it into m. It returns its record.
func (r *packReader) next() (rec []byte, err error) {
	rec, r.rest, err = r.m.Cut(r.rest)
	return rec, err
}

// accept reads what the entry in m says, and says why it is not stored.
// Entries of a batch are often the same but for their bodies: then what was found
// out about the one before, and is in out, holds for the next.
func (r *packReader) accept() error {
	if r.hasGood && r.m.SameButBody(&r.good) {
		r.out.Body, r.out.BornTime = r.m.Body, r.m.BornTime
		if err := checkBody(r.m.Body); err != nil {
			return err
		}
	} else {
		r.hasGood = false
		if err := r.out.read(&r.m); err != nil {
			return err
		}
		if err := checkMessage(&r.out, r.p.now, r.p.b.opts.MaxDelay); err != nil {
			return err
		}
		if err := checkType(&r.out, &r.p.topic); err != nil {
			return err
		}
		r.good, r.hasGood = r.m, true
	}
	if r.m.VerifyBody() != nil {
		return Errorf(Corrupted, "the body does not match its checksum")
	}
	return nil
}

// placed notes where an accepted entry is. That of a lite message gets its queue
// later, so it is a run by itself.
func (p *Publishing) placed(entry int, m *record.Message, rec []byte, out *Outgoing) {
	at, index, lite := p.bytes, len(p.entries), out.LiteTopic != ""
	p.bytes += record.Padded(len(rec))
	to := &p.places
	if m.Kind != record.KindMessage {
		to = &p.pending
	} else {
		p.note(at, len(rec), out)
		if n := len(p.places); n > 0 && !lite {
			if last := &p.places[n-1]; last.key == m.Key() && last.entry+last.count == entry && !last.lite {
				last.count++
				last.bodies += len(m.Body)
				return
			}
		}
	}
	*to = append(*to, packRun{entry: entry, count: 1, at: at, key: m.Key(), rec: rec, index: index, bodies: len(m.Body), lite: lite})
}

// addPacks adds the accepted records to the batch: what is between those that are
// left out.
func (p *Publishing) addPacks(pieces [][]byte) {
	p.notes = slices.Grow(p.notes, len(p.left)+1) // the batch refers to them where they are
	if len(p.left) == 0 {
		p.addRun(pieces, 0)
		return
	}
	var run [][]byte
	entry, stored := 0, 0
	left := p.left
	for _, piece := range pieces {
		from, at := 0, 0
		for ; at < len(piece); entry++ {
			n := record.Padded(record.SizeOf(piece[at:]))
			if len(left) > 0 && left[0] == entry {
				stored += p.addRun(append(run, piece[from:at:at]), stored)
				run, from, left = run[:0], at+n, left[1:]
			}
			at += n
		}
		run = append(run, piece[from:at:at])
	}
	p.addRun(run, stored)
}

// addRun adds what is between two entries that are left out, behind so many bytes
// of those before. It returns its size.
func (p *Publishing) addRun(pieces [][]byte, stored int) (size int) {
	for _, piece := range pieces {
		size += len(piece)
	}
	switch {
	case size == 0:
	case len(p.pending) > 0 || p.topic.DedupWindow > 0: // the dispatcher has to read them
		p.batch.AddPacks(pieces, nil)
	default:
		p.batch.AddPacks(pieces, p.takeNote(stored, size))
	}
	return size
}

// Stored reports that Wait will hardly wait: the pack is as durable as it must be,
// or was never sent to the log.
func (p *Publishing) Stored() bool { return p.earlier != 0 || p.none || p.batch.Over() }

// Wait returns what became of the pack, when that is as durable as the broker's
// mode says, and can be received. It is called once; afterwards the records are
// the caller's again.
func (p *Publishing) Wait() (Published, error) {
	defer p.b.gate.Leave(p.pass)
	switch {
	case p.earlier != 0:
		defer p.free()
		return p.repeat()
	case p.none:
		defer p.free()
		out := Published{Refused: p.refused}
		return out, p.addRepeats(&out, 0)
	}
	if err := p.b.await(&p.batch); err != nil {
		return Published{}, err // p is not reused: the log may still hold it
	}
	p.lite.applied()
	out := Published{Runs: make([]PlacedRun, len(p.places)), Refused: p.refused}
	base := p.batch.Position(p.first)
	stored := 0
	for i, pl := range p.places {
		out.Runs[i] = PlacedRun{Entry: pl.entry, Count: pl.count, Queue: pl.key.Queue(), Offset: record.OffsetOf(pl.rec), Position: base + record.Position(pl.at)}
		stored += pl.count
	}
	for _, pl := range p.pending {
		e, err := p.b.pendingEntry(pl.entry, pl.rec, base+record.Position(pl.at))
		if err != nil {
			return Published{}, err
		}
		out.Pending = append(out.Pending, e)
	}
	p.b.counters.sends.Add(uint64(stored + len(p.pending)))
	p.b.tracer.published(p.began, p.traced)
	if err := p.addRepeats(&out, base); err != nil {
		return Published{}, err
	}
	p.free()
	return out, nil
}

// pendingEntry seals the handles of a message that is in no queue yet.
func (b *Broker) pendingEntry(entry int, rec []byte, pos record.Position) (PendingEntry, error) {
	m, err := record.ParseMessage(rec)
	if err != nil {
		return PendingEntry{}, b.damaged(pos, err)
	}
	e := PendingEntry{Entry: entry, Position: pos}
	if m.Kind == record.KindHalf {
		e.TransactionID = b.handles.Load().sealTransaction(m.Topic, pos)
	} else {
		e.RecallHandle = b.handles.Load().sealRecall(recall{m.Topic, m.DueTime, pos, m.Offset})
	}
	return e, nil
}

// repeat reads the outcome of a pack that was stored before from the log.
func (p *Publishing) repeat() (Published, error) {
	out := Published{Duplicate: true}
	head, err := p.b.viewWhole(p.earlier)
	if errors.Is(err, errTrimmed) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	size := record.Padded(len(head.Bytes()))
	m, err := producer.ParseMark(record.Command(head.Bytes()))
	head.Release()
	if err != nil {
		return out, p.b.damaged(p.earlier, err)
	}
	base := p.earlier + record.Position(size)
	v, err := p.b.wal.View(base, m.Bytes)
	if err != nil {
		return out, p.b.damaged(base, err)
	}
	defer v.Release()
	for _, r := range m.Refused {
		out.Refused = append(out.Refused, Refused{Entry: r.Entry, Err: Errorf(Reason(r.Reason), "%s", r.Text)})
	}
	left, entry := leftOut(&m), -1
	firsts := map[int]dedup.First{} // of entries that others repeat
	for _, r := range m.Repeats {
		if r.Of > 0 {
			firsts[r.Of-1] = dedup.First{}
		}
	}
	err = record.Walk(v.Bytes(), base, func(pos record.Position, rec []byte, kind record.Kind) error {
		for entry++; len(left) > 0 && left[0] == entry; entry++ {
			left = left[1:]
		}
		if _, ok := firsts[entry]; ok {
			stored, err := record.ParseMessage(rec)
			if err != nil {
				return err
			}
			firsts[entry] = firstOf(pos, &stored)
		}
		if kind != record.KindMessage {
			e, err := p.b.pendingEntry(entry, rec, pos)
			out.Pending = append(out.Pending, e)
			return err
		}
		run := PlacedRun{Entry: entry, Count: 1, Queue: record.KeyOf(rec).Queue(), Offset: record.OffsetOf(rec), Position: pos}
		if n := len(out.Runs); n > 0 {
			last := &out.Runs[n-1]
			if last.Queue == run.Queue && last.Entry+last.Count == entry && last.Offset+record.QueueOffset(last.Count) == run.Offset {
				last.Count++
				return nil
			}
		}
		out.Runs = append(out.Runs, run)
		return nil
	})
	if err != nil {
		return out, p.b.damaged(base, err)
	}
	for _, r := range m.Repeats {
		first := dedup.First{Position: r.Position, Queue: r.Queue, Offset: r.Offset, Due: r.Due}
		if r.Of > 0 {
			first = firsts[r.Of-1]
		}
		if err := p.b.addRepeat(&out, p.topic, r.Entry, &first); err != nil {
			return out, err
		}
	}
	out.sort()
	return out, nil
}

// leftOut returns the entries that a mark says were not stored, in order.
func leftOut(m *producer.Mark) (left []int) {
	for _, r := range m.Refused {
		left = append(left, r.Entry)
	}
	for _, r := range m.Repeats {
		left = append(left, r.Entry)
	}
	slices.Sort(left)
	return left
}

func (p *Publishing) free() {
	p.batch.Reset()
	clear(p.places)
	clear(p.pending)
	*p = Publishing{
		batch: p.batch, mark: p.mark[:0], places: p.places[:0], pending: p.pending[:0], left: p.left[:0],
		entries: p.entries[:0], hashes: p.hashes[:0], keyed: p.keyed[:0], notes: p.notes[:0],
	}
	if cap(p.places)+cap(p.pending)+cap(p.hashes)+cap(p.notes) <= 8<<10 {
		publishings.Put(p)
	}
}

// read fills in what a record says that a client sent. Strings alias the record.
func (o *Outgoing) read(m *record.Message) error {
	*o = Outgoing{
		Unnamed: true, Body: m.Body, BornTime: m.BornTime, DueTime: m.DueTime,
		Packing: m.Flags.Packing(), HasPriority: m.Flags&record.FlagPriority != 0, Priority: m.Priority,
		Transaction: m.Kind == record.KindHalf, Keys: o.Keys[:0], User: o.User[:0],
	}
	if m.Kind != record.KindMessage && m.Kind != record.KindHalf {
		return Errorf(BadRequest, "a %v record cannot be sent", m.Kind)
	}
	if unknown := m.Flags &^ (record.FlagsPacked | record.FlagPriority | record.FlagFIFO); unknown != 0 {
		return Errorf(BadRequest, "the record has flags %#x, which are not known", unknown)
	}
	if p := m.Flags.Packing(); p&(p-1) != 0 {
		return Errorf(BadRequest, "the record has flags %#x: a body is compressed in one way", p)
	}
	var seen uint32
	var bad error
	err := m.Properties.Each(func(f record.Field, key, value []byte) bool {
		if f != record.FieldUser && f != record.FieldKey {
			if seen&(1<<f) != 0 {
				bad = Errorf(BadRequest, "the record has property %d twice", f)
				return false
			}
			seen |= 1 << f
		}
		if len(value) == 0 && (f == record.FieldTag || f == record.FieldLiteTopic) {
			bad = Errorf(BadRequest, "the record has property %d without a value", f)
			return false
		}
		switch f {
		case record.FieldUser:
			o.User = append(o.User, Property{Key: text(key), Value: text(value)})
		case record.FieldMessageID:
			o.ID, o.Unnamed = text(value), false
		case record.FieldTag:
			o.Tag = text(value)
		case record.FieldKey:
			o.Keys = append(o.Keys, text(value))
		case record.FieldGroup:
			o.Group, o.HasGroup = text(value), true
		case record.FieldBornHost:
			o.BornHost = text(value)
		case record.FieldTrace:
			o.Trace = text(value)
		case record.FieldLiteTopic:
			o.LiteTopic = text(value)
		case record.FieldRecoverySec:
			o.RecoverySeconds, bad = strconv.ParseInt(text(value), 10, 64)
			if bad != nil || o.RecoverySeconds < 0 {
				bad = Errorf(BadRequest, "the recovery duration %q is not a number of seconds", clip(text(value)))
			}
		default:
			bad = Errorf(BadRequest, "the record has property %d, which is the broker's own", f)
		}
		return bad == nil
	})
	if err != nil {
		return Errorf(Corrupted, "%w", err)
	}
	return bad
}

// text is b as a string without a copy: good as long as b is unchanged.
func text(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
