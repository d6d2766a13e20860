package broker

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// kinds makes a message with what the letters stand for: group, delay, priority,
// transaction, lite topic.
func kinds(id, letters string) Outgoing {
	m := msg(id, id)
	for _, c := range letters {
		switch c {
		case 'g':
			m.HasGroup, m.Group = true, "group"
		case 'd':
			m.DueTime = time.Now().Add(time.Hour).UnixMilli()
		case 'p':
			m.HasPriority, m.Priority = true, 1
		case 't':
			m.Transaction = true
		case 'l':
			m.LiteTopic = "lite"
		}
	}
	return m
}

// A typed topic takes what wire-contract 4.1 derives its type from, whatever else
// is on the message; a mixed one takes everything that has a meaning.
func TestTopicTypesTakeTheirMessages(t *testing.T) {
	b := open(t, t.TempDir())
	types := []topic.Type{topic.Normal, topic.FIFO, topic.Delay, topic.Transaction, topic.Priority, topic.Lite, topic.Mixed}
	for _, typ := range types {
		makeTopic(t, b, typ.String(), typ, 4)
	}
	for letters, want := range map[string]string{
		"":    "normal mixed",
		"g":   "fifo mixed",
		"d":   "delay mixed",
		"p":   "priority mixed",
		"t":   "transaction mixed",
		"l":   "lite mixed",
		"gd":  "delay mixed",
		"gp":  "fifo mixed",
		"dp":  "delay mixed",
		"gdp": "delay mixed",
		"gt":  "transaction mixed",
		"pt":  "transaction mixed",
		"gpt": "transaction mixed",
		"gl":  "mixed",
		"pl":  "mixed",
		"dt":  "",
		"dl":  "",
		"tl":  "",
		"gdt": "",
	} {
		var took []string
		for _, typ := range types {
			m := kinds("m", letters)
			m.Topic = name(typ.String())
			switch _, err := b.Send(t.Context(), []Outgoing{m}); {
			case err == nil:
				took = append(took, typ.String())
			case ReasonOf(err) != TypeConflict:
				t.Errorf("%q to %v: %v", letters, typ, err)
			}
		}
		if got := strings.Join(took, " "); got != want {
			t.Errorf("%q is taken by %q, want %q", letters, got, want)
		}
	}
}

// Delayed messages with a message group enter the group's queue as they come due,
// however they were sent, and are in order there with those that were not delayed.
func TestDelayedMessagesOfAGroupAreInOrderOfDueTime(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Mixed, 8)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	in := func(id, group string, ms int) Outgoing {
		m := msg(id, id)
		m.HasGroup, m.Group = true, group
		if ms > 0 {
			m.DueTime = time.Now().Add(time.Duration(ms) * time.Millisecond).UnixMilli()
		}
		return m
	}
	sent := send(t, b, "T", in("a3", "a", 900), in("b2", "b", 700), in("a1", "a", 500), in("a2", "a", 700), in("a0", "a", 0), in("b1", "b", 500))
	if sent[4].Offset != 0 {
		t.Fatalf("%+v", sent)
	}
	for b.timers.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	quiet(t, b)
	send(t, b, "T", in("a4", "a", 0))
	var order []string
	for len(order) < 7 {
		got := receive(t, b, "T", "G")
		for _, m := range got {
			order = append(order, string(m.Message.Body))
			group, _ := m.Message.Properties.Lookup(record.FieldGroup)
			if want := record.Hash32(group) % 8; m.Queue != want {
				t.Errorf("%s is in queue %d, that of its group is %d", m.Message.Body, m.Queue, want)
			}
		}
		if len(got) == 0 {
			t.Fatalf("only %v came", order)
		}
		ack(t, b, "T", "G", got...)
		quiet(t, b)
	}
	for _, g := range []string{"a", "b"} {
		var of []string
		for _, id := range order {
			if id[:1] == g {
				of = append(of, id)
			}
		}
		if want := map[string]string{"a": "a0 a1 a2 a3 a4", "b": "b1 b2"}[g]; strings.Join(of, " ") != want {
			t.Errorf("group %s came as %v, want %s", g, of, want)
		}
	}
}

// A message group outweighs a priority: order is a promise, so the group decides
// about the queue, and the priority comes with the message. Without a group the
// priority decides, also when the message is delayed or transactional.
func TestQueueOfAMessageOfSeveralKinds(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Mixed, 8)
	group := record.Hash32("group") % 8
	if group == 1 {
		t.Fatal("the group's queue is that of the priority")
	}
	for letters, queue := range map[string]uint32{"p": 1, "dp": 1, "pt": 1, "gp": group, "gdp": group, "gpt": group} {
		m := kinds(letters, letters)
		if m.DueTime != 0 {
			m.DueTime = time.Now().Add(20 * time.Millisecond).UnixMilli()
		}
		sent := send(t, b, "T", m)
		if m.Transaction {
			end(t, b, "T", sent[0].TransactionID, transaction.Committed)
		}
		got := receiveNext(t, b, "T", "G")
		ack(t, b, "T", "G", got)
		if string(got.Message.Body) != letters || got.Queue != queue {
			t.Errorf("%q came as %q from queue %d, want queue %d", letters, got.Message.Body, got.Queue, queue)
		}
		if got.Message.Flags&record.FlagPriority == 0 || got.Message.Priority != 1 {
			t.Errorf("%q: the priority is lost", letters)
		}
		if name, _ := got.Message.Properties.Lookup(record.FieldGroup); (string(name) == "group") != m.HasGroup {
			t.Errorf("%q: its group is %q", letters, name)
		}
	}
}

// Messages of one group, sent before and after a transaction with the group and
// with other priorities, come in the order in which they got into the queue.
func TestOrderOfAGroupHoldsAcrossKinds(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir, unasked)
	makeTopic(t, b, "T", topic.Mixed, 4)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	half := send(t, b, "T", kinds("4", "gt"))[0]
	send(t, b, "T", kinds("1", "g"))
	urgent := kinds("2", "gp")
	urgent.Priority = 7
	send(t, b, "T", urgent)
	late := kinds("3", "gdp")
	late.DueTime = time.Now().Add(50 * time.Millisecond).UnixMilli()
	send(t, b, "T", late)
	for b.timers.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	end(t, b, "T", half.TransactionID, transaction.Committed)
	send(t, b, "T", kinds("5", "g"))
	b = open(t, killed(t, b, dir, "consumequeue"), unasked)
	var got []string
	for range 5 {
		m := receiveNext(t, b, "T", "G")
		got = append(got, string(m.Message.Body))
		ack(t, b, "T", "G", m)
	}
	if strings.Join(got, "") != "12345" {
		t.Errorf("came as %v", got)
	}
}

// Retention that copies payloads forward at the moment they come due does not
// make one late, which others of its group would overtake.
func TestRetentionKeepsTheOrderOfDueTimes(t *testing.T) {
	h := &oldPayloads{t: t, dir: t.TempDir()}
	h.b = open(t, h.dir, retaining)
	makeTopic(t, h.b, "T", topic.Mixed, 1)
	makeTopic(t, h.b, "F", topic.Normal, 1)
	begin := time.Now().Add(500 * time.Millisecond)
	const n = 500
	var batch []Outgoing
	for i := range n {
		m := kinds(strconv.Itoa(i), "g")
		m.DueTime = begin.Add(time.Duration(i) * time.Millisecond).UnixMilli()
		batch = append(batch, m)
	}
	send(t, h.b, "T", batch...)
	h.end = h.b.wal.Committed()
	h.fill(2)
	h.now = time.Now().Add(retainAge)
	h.b.append = &doing{h.b.append, record.KindCopy, func() { // a slow disk
		for h.b.timers.Stats().Pending > n/2 {
			time.Sleep(time.Millisecond)
		}
	}}
	h.retain()
	for h.b.timers.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	quiet(t, h.b)
	for i := range n {
		err := h.b.MessageAt(name("T"), 0, record.QueueOffset(i), func(f FoundMessage, _ *record.Message) error {
			if f.ID != strconv.Itoa(i) {
				t.Errorf("at offset %d is message %s", i, f.ID)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
