package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
)

func update(t testing.TB, b *Broker, s string, c TopicChange) topic.Topic {
	t.Helper()
	tp, err := b.UpdateTopic(t.Context(), name(s), c)
	if err != nil {
		t.Fatal(err)
	}
	return tp
}

// bounds returns the offsets of a topic's queues, as "0-3 1-1".
func bounds(t testing.TB, b *Broker, s string) string {
	t.Helper()
	st, err := b.TopicStatus(name(s))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, q := range st.Queues {
		out = append(out, fmt.Sprintf("%d-%d", q.Min, q.Max))
	}
	return strings.Join(out, " ")
}

func TestMessagesGoByTheAgeOfTheirTopic(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		dir := t.TempDir()
		b := open(t, dir)
		defer closeBroker(t, b)
		makeTopic(t, b, "T", topic.Normal, 1)
		makeTopic(t, b, "Kept", topic.Normal, 1)
		hour := time.Hour
		update(t, b, "T", TopicChange{RetainAge: &hour})
		send(t, b, "T", msg("1", "1"), msg("2", "2"))
		send(t, b, "Kept", msg("1", "1"))
		held := receive(t, b, "T", "G", func(r *ReceiveRequest) { r.Batch, r.Invisible = 1, MaxInvisible })
		want(t, held, "1#1")
		time.Sleep(30 * time.Minute)
		send(t, b, "T", msg("3", "3"))
		if got := bounds(t, b, "T"); got != "0-3" {
			t.Fatalf("before its time: %s", got)
		}
		time.Sleep(31 * time.Minute)
		if got := bounds(t, b, "T") + ", " + bounds(t, b, "Kept"); got != "2-3, 0-1" {
			t.Fatalf("after an hour: %s", got)
		}
		if _, queues, err := b.GroupStatus(name("G")); err != nil || queues[0].Cursor != 2 || queues[0].InFlight != 0 {
			t.Fatalf("%+v, %v", queues, err)
		}
		if err := ackErrs(t, b, "T", "G", held...)[0]; err != nil {
			t.Errorf("ack of a message that is gone: %v", err)
		}
		want(t, receive(t, b, "T", "G"), "3#1")
		survivesKills(t, b, dir)
		time.Sleep(time.Hour)
		if got := bounds(t, b, "T"); got != "3-3" {
			t.Fatalf("empty: %s", got)
		}
		survivesKills(t, b, dir)
		if sent := send(t, b, "T", msg("4", "4")); sent[0].Offset != 3 {
			t.Fatalf("offsets do not go on: %+v", sent)
		}
		zero := time.Duration(0)
		update(t, b, "T", TopicChange{RetainAge: &zero})
		time.Sleep(2 * time.Hour)
		if got := bounds(t, b, "T"); got != "3-4" {
			t.Fatalf("without a bound: %s", got)
		}
	})
}

// What a message that is gone held back is free, in ordered groups too.
func TestTrimFreesAMessageGroup(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.FIFO, 1)
	if _, err := b.CreateGroup(t.Context(), group.Group{Name: name("G"), FIFO: true}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		m := msg(fmt.Sprint(i), fmt.Sprint(i))
		m.HasGroup, m.Group = true, "g"
		send(t, b, "T", m)
	}
	long := func(r *ReceiveRequest) { r.Invisible = MaxInvisible }
	want(t, receive(t, b, "T", "G", long), "0#1")
	want(t, receive(t, b, "T", "G", long))
	tp, _ := b.Route(name("T"))
	if err := b.commitTrim(trim{tp.ID, []inflight.Beginning{{Queue: 0, Offset: 1}}}); err != nil {
		t.Fatal(err)
	}
	want(t, receive(t, b, "T", "G", long), "1#1")
}

func TestMessagesGoByTheSizeOfTheirTopic(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.Normal, 3)
	size := int64(64 << 10)
	update(t, b, "T", TopicChange{RetainSize: &size})
	body := strings.Repeat("x", 900)
	n := 0
	sendMore := func(more int) {
		for range more {
			send(t, b, "T", msg(fmt.Sprint(n), body))
			n++
		}
		b.expireMessages(time.Now())
	}
	check := func() {
		t.Helper()
		d, err := b.DescribeTopic(name("T"))
		if err != nil || d.Estimated || d.Bytes > size || d.Bytes < size*9/10 {
			t.Fatalf("%d bytes, %v, want a little less than %d", d.Bytes, err, size)
		}
		oldest, kept := n, 0
		for _, q := range d.Queues {
			kept += int(q.Max - q.Min)
			err := b.MessageAt(name("T"), q.Queue, q.Min, func(f FoundMessage, _ *record.Message) error {
				i, err := strconv.Atoi(f.ID)
				oldest = min(oldest, i)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		// In all queues together, the oldest went: those of one queue are at most a
		// span, here of two messages, ahead of the others'.
		if n-oldest > kept+9 {
			t.Fatalf("message %d of %d is kept, %d are", oldest, n, kept)
		}
	}
	sendMore(50)
	if got := bounds(t, b, "T"); !strings.Contains(got, "0-") || strings.Contains(got, "1-") {
		t.Fatalf("below its size it lost some: %s", got)
	}
	sendMore(100)
	check()
	sendMore(200)
	check()
	survivesKills(t, b, dir)
	closeBroker(t, b)
	b = open(t, dir)
	sendMore(30)
	check()
	size /= 4
	update(t, b, "T", TopicChange{RetainSize: &size})
	b.expireMessages(time.Now())
	if d, _ := b.DescribeTopic(name("T")); d.Bytes > size {
		t.Fatalf("%d bytes after the bound became %d", d.Bytes, size)
	}
}

// A topic that keeps its messages for longer than the log: each goes from segment
// to segment.
func TestTopicOutlivesTheLog(t *testing.T) {
	h := &oldPayloads{t: t, dir: t.TempDir()}
	h.b = open(t, h.dir, retaining)
	makeTopic(t, h.b, "F", topic.Normal, 1)
	makeTopic(t, h.b, "L", topic.Mixed, 2)
	long := 10 * retainAge
	update(t, h.b, "L", TopicChange{RetainAge: &long})
	var sent []string
	for _, m := range everyKind() {
		if m.Transaction || m.DueTime > 1 {
			continue
		}
		m.Keys = []string{"k-" + m.ID}
		send(t, h.b, "L", m)
		if m.LiteTopic == "" {
			sent = append(sent, m.ID+"#1")
		}
	}
	slices.Sort(sent)
	deleted := msg("deleted", "deleted")
	send(t, h.b, "L", deleted)
	if d, err := h.b.DeleteMessage(t.Context(), name("L"), "deleted"); err != nil || d.Entries != 1 {
		t.Fatalf("%+v, %v", d, err)
	}
	check := func(group string) {
		t.Helper()
		got := bodies(receive(t, h.b, "L", group))
		if slices.Sort(got); !slices.Equal(got, sent) {
			t.Fatalf("received %v, want %v", got, sent)
		}
		for _, id := range []string{"plain", "lite", "fifo"} {
			for _, q := range []MessageQuery{{ID: id}, {Key: "k-" + id}} {
				q.Topic, q.Limit = name("L"), 10
				page, _, err := h.b.FindMessages(t.Context(), q)
				if err != nil || len(page) != 1 || page[0].State != MessageRetrying && page[0].State != MessageQueued || page[0].ID != id || page[0].Offset < 0 {
					t.Fatalf("%+v: %+v, %v", q, page, err)
				}
			}
		}
	}
	check("G0")
	for i := range 4 {
		h.end = h.b.wal.Committed()
		h.fill(2)
		h.now = time.Now().Add(retainAge)
		h.retain()
		check(fmt.Sprint("G", i+1))
		switch i {
		case 1:
			h.reopen()
		case 2:
			survivesKills(t, h.b, h.dir, retaining)
			h.reopen("consumequeue")
		}
	}
	if got := bounds(t, h.b, "F"); strings.HasPrefix(got, "0-") {
		t.Errorf("a topic without a retention of its own keeps everything: %s", got)
	}
	if page, _, err := h.b.FindMessages(t.Context(), MessageQuery{Topic: name("L"), ID: "deleted", Limit: 1}); err != nil || len(page) != 0 {
		t.Errorf("what was deleted was copied: %+v, %v", page, err)
	}
	h.b.expireMessages(time.Now().Add(long + time.Hour))
	if got := bounds(t, h.b, "L"); got != "3-3 2-2" && got != "2-2 3-3" && got != "1-1 4-4" && got != "4-4 1-1" {
		t.Errorf("after its time: %s", got)
	}
}

// A purge of what retention is copying must not make it leave out the rest.
func TestTrimWhileRetentionCopies(t *testing.T) {
	h := &oldPayloads{t: t, dir: t.TempDir()}
	h.b = open(t, h.dir, retaining)
	makeTopic(t, h.b, "F", topic.Normal, 1)
	makeTopic(t, h.b, "L", topic.Normal, 1)
	long := 10 * retainAge
	tp := update(t, h.b, "L", TopicChange{RetainAge: &long})
	const n = 600 // the copier reads 128 at a time
	for i := range n {
		send(t, h.b, "L", msg(fmt.Sprint(i), fmt.Sprint(i)))
	}
	h.end = h.b.wal.Committed()
	h.fill(2)
	h.now = time.Now().Add(retainAge)
	inner := h.b.append
	h.b.append = &doing{inner, record.KindCopy, func() {
		beginning := trim{tp.ID, []inflight.Beginning{{Offset: 300}}}
		if err := inner.Submit(record1(beginning.append(nil))); err != nil {
			t.Error(err)
		}
	}}
	h.retain()
	if got := bounds(t, h.b, "L"); got != "300-600" {
		t.Fatalf("it has %s", got)
	}
	for i := 300; i < n; i++ {
		err := h.b.MessageAt(name("L"), 0, record.QueueOffset(i), func(f FoundMessage, m *record.Message) error {
			if string(m.Body) != fmt.Sprint(i) || f.Position < h.b.wal.First() {
				t.Errorf("message %d is %+v", i, f)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

// doing is an appender that does something before the first record of a kind.
type doing struct {
	appender
	on record.Kind
	do func()
}

func (d *doing) Submit(batch *commitlog.Batch) error {
	for i := range batch.Len() {
		if do := d.do; do != nil && record.KindOf(batch.Head(i)) == d.on {
			d.do = nil
			do()
		}
	}
	return d.appender.Submit(batch)
}
