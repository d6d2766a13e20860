package broker

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func packMsg(pack []byte, body string, change ...func(*record.Message)) []byte {
	m := record.Message{Kind: record.KindMessage, BornTime: 1, Body: []byte(body)}
	for _, f := range change {
		f(&m)
	}
	pack, start := record.BeginMessage(pack)
	return record.EndMessage(append(pack, m.Properties...), start, &m)
}

func packField(f record.Field, value string) func(*record.Message) {
	return func(m *record.Message) { m.Properties = record.AppendField(m.Properties, f, value) }
}

// inPieces is a copy of records as they may come: at most three to a piece, and
// an empty one in between.
func inPieces(records []byte) (pieces [][]byte) {
	records = bytes.Clone(records)
	from, at := 0, 0
	for n := 1; at < len(records); n++ {
		_, rest, err := record.CutMessage(records[at:])
		if err != nil {
			break
		}
		if at = len(records) - len(rest); n%3 == 0 {
			pieces = append(pieces, records[from:at:at], nil)
			from = at
		}
	}
	return append(pieces, records[from:])
}

func half(m *record.Message) { m.Kind = record.KindHalf }

func dueIn(d time.Duration) func(*record.Message) {
	return func(m *record.Message) { m.DueTime = time.Now().Add(d).UnixMilli() }
}

func publish(t testing.TB, b *Broker, topic string, sequence uint64, records []byte) Published {
	t.Helper()
	p, err := b.Publish(t.Context(), &Pack{Producer: 1, Sequence: sequence, Topic: name(topic), Queue: -1, Records: inPieces(records)})
	if err != nil {
		t.Fatal(err)
	}
	out, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestEachMessageOfAPackGoesWhereItsRuleSays(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Mixed, 4)
	var pack []byte
	priority := func(p int32) func(*record.Message) {
		return func(m *record.Message) { m.Flags, m.Priority = record.FlagPriority, p }
	}
	wanted := map[string]uint32{}
	for i := range 20 {
		g := fmt.Sprint("g", i%3)
		wanted[fmt.Sprint("o", i)] = record.Hash32(g) % 4
		pack = packMsg(pack, fmt.Sprint("o", i), packField(record.FieldGroup, g))
		wanted[fmt.Sprint("p", i)] = uint32(min(max(i-2, 0), 3))
		pack = packMsg(pack, fmt.Sprint("p", i), priority(int32(i-2)))
		pack = packMsg(pack, fmt.Sprint("n", i))
		pack = packMsg(pack, fmt.Sprint("l", i), packField(record.FieldLiteTopic, fmt.Sprint("lite", i%2)))
	}
	r := publish(t, b, "T", 1, pack)
	// What the runs say is where the messages are.
	entries := slices.Collect(func(yield func(record.Message) bool) {
		for rest := pack; len(rest) > 0; {
			rec, after, _ := record.CutMessage(rest)
			m, _ := record.ParseMessage(rec)
			rest = after
			yield(m)
		}
	})
	seen := map[int]bool{}
	spread := map[uint32]bool{}
	tp, _ := b.topics.Lookup(name("T"))
	for _, run := range r.Runs {
		for i := range run.Count {
			entry, off := run.Entry+i, run.Offset+record.QueueOffset(i)
			l, err := b.load(tp, run.Queue, off)
			if err != nil {
				t.Fatal(err)
			}
			m := entries[entry]
			body := string(m.Body)
			if seen[entry] || string(l.msg.Body) != body || l.msg.Offset != off || i == 0 && l.pos != run.Position {
				t.Fatalf("entry %d, %q: found %q at %v", entry, body, l.msg.Body, l.pos)
			}
			if q, ok := wanted[body]; ok && q != run.Queue {
				t.Errorf("%s is in queue %d, want %d", body, run.Queue, q)
			}
			if body[0] == 'n' {
				spread[run.Queue] = true
			}
			if body[0] == 'l' {
				lite, _ := m.Properties.Lookup(record.FieldLiteTopic)
				if q, ok := b.lites.Lookup(tp.ID, string(lite)); !ok || q != run.Queue {
					t.Errorf("%s is in queue %d, want %d", body, run.Queue, q)
				}
			}
			if (l.msg.Flags&record.FlagFIFO != 0) != (body[0] == 'o') {
				t.Errorf("%s has flags %v", body, l.msg.Flags)
			}
			l.release()
			seen[entry] = true
		}
	}
	if len(seen) != len(entries) || len(spread) != 1 {
		t.Errorf("%d of %d entries in runs, plain ones in %d queues", len(seen), len(entries), len(spread))
	}
}

func TestPublishedMessagesOfAGroupComeInOrder(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "F", topic.FIFO, 4)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	var pack []byte
	for i := range 6 {
		pack = packMsg(pack, fmt.Sprint(i), packField(record.FieldGroup, "a"))
	}
	publish(t, b, "F", 1, pack[:len(pack)/2])
	publish(t, b, "F", 2, pack[len(pack)/2:])
	for i := range 6 {
		got := receive(t, b, "F", "G", func(r *ReceiveRequest) { r.Wait = MaxPollWait })
		want(t, got, fmt.Sprintf("%d#1", i))
		ack(t, b, "F", "G", got...)
	}
}

// History is packs of every sort; what becomes of them is the same after a
// restart, and when all indexes are made again from the log.
func TestPacksSurviveARestartAndTheLossOfTheIndexes(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Mixed, 2)
	var results []Published
	packs := [][]byte{
		packMsg(packMsg(nil, "a", packField(record.FieldTag, "x")), "b", packField(record.FieldKey, "k")),
		packMsg(packMsg(packMsg(nil, "c"), ""), "d", packField(record.FieldMessageID, "given")),
		packMsg(packMsg(nil, "half", half), "later", dueIn(time.Hour)),
	}
	for i, p := range packs {
		results = append(results, publish(t, b, "T", uint64(i+1), p))
	}
	check := func() {
		t.Helper()
		for i, p := range packs {
			again, first := publish(t, b, "T", uint64(i+1), p), results[i]
			first.Duplicate = true
			if fmt.Sprint(again) != fmt.Sprint(first) {
				t.Errorf("pack %d:\ngot  %v\nwant %v", i, again, first)
			}
		}
		for i, run := range []PlacedRun{results[0].Runs[0], results[1].Runs[0]} {
			id := record.PositionID(b.StoreID(), run.Position)
			page, _ := find(t, b, MessageQuery{Topic: name("T"), ID: id})
			if len(page) != 1 || page[0].ID != id || page[0].State != MessageQueued || page[0].Position != run.Position {
				t.Errorf("message %d, called %s: %+v", i, id, page)
			}
		}
		for id, body := range map[string]string{"given": "d", record.PositionID(b.StoreID(), results[2].Pending[0].Position): "half"} {
			if page, _ := find(t, b, MessageQuery{Topic: name("T"), ID: id}); len(page) != 1 || page[0].BodySize != len(body) {
				t.Errorf("%s: %+v", id, page)
			}
		}
		if page, _ := find(t, b, MessageQuery{Topic: name("T"), Key: "k"}); len(page) != 1 {
			t.Errorf("by key: %v", page)
		}
		if page, _ := find(t, b, MessageQuery{Topic: name("T"), ID: record.PositionID(b.StoreID(), results[0].Runs[0].Position+8)}); len(page) != 0 {
			t.Errorf("where no record begins: %v", page)
		}
	}
	check()
	closeBroker(t, b)
	b = open(t, dir)
	check()
	closeBroker(t, b)
	for _, index := range []string{"consumequeue", "keyindex"} {
		removeDir(t, dir+"/"+index)
	}
	b = open(t, dir)
	check()
	got := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Filter = "x" })
	want(t, got, "a#1")
	if got[0].ID != record.PositionID(b.StoreID(), results[0].Runs[0].Position) {
		t.Errorf("it is called %s", got[0].ID)
	}
}

// The dispatcher indexes packs by what their check found out (packNote); without
// the indexes it reads the records.
func TestPacksAreIndexedTheSameByTheirNotesAndFromTheLog(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Mixed, 3)
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	some := []func(*record.Message){
		packField(record.FieldTag, "x"), packField(record.FieldTag, "y"), packField(record.FieldGroup, "a"), packField(record.FieldGroup, "b"),
		packField(record.FieldKey, "k"), packField(record.FieldKey, "l"), packField(record.FieldMessageID, "given"), packField(record.FieldLiteTopic, "lite"),
		func(m *record.Message) { m.Kind = record.KindCopy }, // is refused
	}
	for sequence := range 100 {
		var pack []byte
		for range 1 + r.IntN(12) {
			var change []func(*record.Message)
			for range r.IntN(3) {
				change = append(change, some[r.IntN(len(some))])
			}
			if r.IntN(40) == 0 {
				change = append(change, half)
			}
			pack = packMsg(pack, fmt.Sprint(sequence), change...)
		}
		publish(t, b, "T", uint64(sequence+1), pack)
	}
	keys := func(b *Broker) string {
		found := ""
		for _, q := range []MessageQuery{{Key: "k"}, {Key: "l"}, {ID: "given"}} {
			q.Topic, q.Limit = name("T"), 1000
			page, _ := find(t, b, q)
			found += fmt.Sprintf("%+v\n", page)
		}
		return found
	}
	survivesKills(t, b, dir)
	found := keys(b)
	again := open(t, copyOf(t, dir, "keyindex"))
	if got := keys(again); got != found {
		t.Errorf("without the key index:\n%s\nwant\n%s", got, found)
	}
}

func TestAPackPublishedFromManyPlacesAtOnceIsStoredOnce(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	pack := packMsg(nil, "x")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for s := range uint64(50) {
				p, err := b.Publish(context.Background(), &Pack{Producer: 5, Sequence: s + 1, Topic: name("T"), Queue: -1, Records: inPieces(pack)})
				if err != nil {
					t.Error(err)
					return
				}
				r, err := p.Wait()
				if err != nil || len(r.Runs) != 1 {
					t.Errorf("%v, %v", r, err)
				}
			}
		})
	}
	all.Wait()
	if _, high, _ := b.index.Bounds(recordKey(topicOf(t, b, "T"), 0)); high != 50 {
		t.Fatalf("%d messages of 50 packs", high)
	}
}

func topicOf(t testing.TB, b *Broker, s string) topic.Topic {
	t.Helper()
	tp, err := b.Route(name(s))
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// A message without an id keeps the one that its position gave it, wherever it is
// moved and copied.
func TestAPositionIDOutlivesTheSegment(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, retaining)
	makeTopic(t, b, "T", topic.Mixed, 1)
	makeTopic(t, b, "F", topic.Normal, 1)
	r := publish(t, b, "T", 1, packMsg(packMsg(packMsg(nil, "later", dueIn(time.Hour)), "half", half), "dead"))
	var ids []string
	for _, e := range r.Pending {
		ids = append(ids, record.PositionID(b.StoreID(), e.Position))
	}
	dead := record.PositionID(b.StoreID(), r.Runs[0].Position)
	old := b.wal.Committed()
	body := strings.Repeat("x", 4<<10)
	for range 32 {
		send(t, b, "F", msg("fill", body))
	}
	got := receive(t, b, "T", "G")
	want(t, got, "dead#1")
	now := time.Now().Add(retainAge)
	if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("T"), got[0].Handle, 0, 0); err != nil {
		t.Fatal(err)
	}
	for b.wal.First() < old {
		b.retain(now)
		send(t, b, "F", msg("fill", body))
	}
	if again := publish(t, b, "T", 1, packMsg(nil, "x")); !again.Duplicate || len(again.Runs) != 0 {
		t.Errorf("a batch of which the messages are gone: %+v", again)
	}
	timers, err := b.Timers(t.Context(), TimerQuery{Topic: name("T"), MessageID: ids[0], Limit: 10})
	if err != nil || len(timers) != 1 {
		t.Fatalf("%v, %v", timers, err)
	}
	halves, err := b.Transactions(t.Context(), TransactionFilter{MessageID: ids[1]})
	if err != nil || len(halves) != 1 {
		t.Fatalf("%v, %v", halves, err)
	}
	if err := b.EndTransaction(t.Context(), name("T"), ids[1], halves[0].ID, 1, false); err != nil {
		t.Fatal(err)
	}
	for topic, id := range map[string]string{"T": ids[1], DLQPrefix + "G": dead} {
		if got := receive(t, b, topic, "G"); len(got) != 1 || got[0].ID != id {
			t.Errorf("%s: %v, want %s", topic, got, id)
		}
	}
	for _, id := range []string{ids[0], ids[1]} {
		if page, _ := find(t, b, MessageQuery{Topic: name("T"), ID: id}); len(page) != 1 || page[0].ID != id {
			t.Errorf("%s: %+v", id, page)
		}
	}
}

// Whatever a client sends: what was stored can be read, and is what was sent.
func FuzzPublish(f *testing.F) {
	b := open(f, f.TempDir())
	makeTopic(f, b, "T", topic.Mixed, 2)
	f.Add(packMsg(packMsg(nil, "a", packField(record.FieldTag, "x")), "b", half), uint8(0), uint16(0))
	f.Add(packMsg(nil, "a", packField(record.FieldLiteTopic, "x"), dueIn(time.Hour)), uint8(3), uint16(70))
	var sequence uint64
	f.Fuzz(func(t *testing.T, pack []byte, flip uint8, at uint16) {
		if len(pack) > 0 {
			pack = bytes.Clone(pack)
			pack[int(at)%len(pack)] ^= flip
		}
		sequence++
		p, err := b.Publish(t.Context(), &Pack{Producer: 1, Sequence: sequence, Topic: name("T"), Queue: -1, Records: inPieces(pack)})
		if err != nil {
			if ReasonOf(err) == Internal {
				t.Fatal(err)
			}
			return
		}
		r, err := p.Wait()
		if err != nil {
			t.Fatal(err)
		}
		entries := 0
		for rest := pack; len(rest) > 0; entries++ {
			_, rest, _ = record.CutMessage(rest)
		}
		told := len(r.Refused) + len(r.Pending)
		for _, run := range r.Runs {
			told += run.Count
			l, err := b.load(topicOf(t, b, "T"), run.Queue, run.Offset)
			if err != nil {
				t.Fatal(err)
			}
			l.release()
		}
		if told != entries {
			t.Fatalf("%d entries, told of %d: %+v", entries, told, r)
		}
	})
}
