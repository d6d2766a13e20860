package broker

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// A history in which the oldest segments hold what younger entries refer to:
// two pending delayed messages, one that came due, one dead letter. Around them
// is enough of nothing to fill segments.
type oldPayloads struct {
	t      *testing.T
	b      *Broker
	dir    string
	now    time.Time         // at which retention takes all of that, and nothing newer
	end    record.Position   // of the payloads
	handle map[string]string // of the pending ones
	wall   wall              // of the first broker
}

const retainAge = 24 * time.Hour

func retaining(o *Options) {
	o.SegmentSize, o.RetentionAge, o.CheckpointEvery = 64<<10, retainAge, 4<<10
}

func newOldPayloads(t *testing.T) *oldPayloads {
	h := &oldPayloads{t: t, dir: t.TempDir(), handle: map[string]string{}}
	h.b = open(t, h.dir, retaining, h.wall.option)
	b := h.b
	makeTopic(t, b, "D", topic.Delay, 1)
	makeTopic(t, b, "Q", topic.Normal, 1)
	makeTopic(t, b, "F", topic.Normal, 1)
	far := time.Now().Add(3 * time.Hour)
	for _, id := range []string{"far1", "far2", "far3"} {
		m := delayed(id, id, far)
		m.Keys = []string{"k-" + id}
		h.handle[id] = send(t, b, "D", m)[0].RecallHandle
	}
	moved := send(t, b, "D", delayed("moved", "moved", time.Now().Add(time.Hour)))[0]
	h.handle["moved"] = moved.RecallHandle
	send(t, b, "Q", msg("dead", "dead"), msg("old", "old"))
	h.end = b.wal.Committed()
	h.fill(3)
	h.now = h.wall.now().Add(retainAge)
	h.wall.jump(time.Hour)
	dead := receive(t, b, "Q", "G")
	want(t, dead, "dead#1", "old#1")
	if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("Q"), dead[0].Handle, 0, 0); err != nil {
		t.Fatal(err)
	}
	for b.timers.Stats().Pending > 3 {
		time.Sleep(time.Millisecond)
	}
	h.fill(1)
	return h
}

// fill writes n segments' worth.
func (h *oldPayloads) fill(n int) {
	body := strings.Repeat("x", 4<<10)
	for range n * 16 {
		send(h.t, h.b, "F", msg("fill", body))
	}
}

// retain drops what is old. Checkpoints are made in the background, and what a
// restart would replay is not dropped.
func (h *oldPayloads) retain() {
	h.t.Helper()
	for h.b.wal.First() < h.end {
		h.b.retain(h.now)
		if h.b.wal.First() < h.end {
			h.fill(1)
			if h.t.Context().Err() != nil {
				h.t.Fatal("nothing was dropped")
			}
		}
	}
}

func (h *oldPayloads) reopen(wipe ...string) {
	h.t.Helper()
	closeBroker(h.t, h.b)
	for _, w := range wipe {
		if err := os.RemoveAll(filepath.Join(h.dir, w)); err != nil {
			h.t.Fatal(err)
		}
	}
	h.b = open(h.t, h.dir, retaining)
}

// checkMoved sees that what came into its queue late is not lost.
func (h *oldPayloads) checkMoved() {
	t, b := h.t, h.b
	t.Helper()
	want(t, receive(t, b, "D", "G2"), "moved#1")
	dead := receive(t, b, DLQPrefix+"G", "G2")
	want(t, dead, "dead#1")
	if o := dead[0].Origin; o == nil || o.MessageID != "dead" {
		t.Fatalf("dead letter's origin is %+v", o)
	}
}

// checkPending sees that nothing pending is lost: it recalls, reschedules and
// consumes.
func (h *oldPayloads) checkPending() {
	t, b := h.t, h.b
	t.Helper()
	ps, err := b.Timers(t.Context(), TimerQuery{Topic: name("D"), Limit: 10})
	if err != nil || len(ps) != 3 || ps[0].MessageID != "far1" || ps[2].MessageID != "far3" || ps[1].Keys[0] != "k-far2" {
		t.Fatalf("pending: %+v, %v", ps, err)
	}
	if id, err := b.Recall(t.Context(), name("D"), h.handle["far1"]); err != nil || id != "far1" {
		t.Fatalf("recall with the first handle: %q, %v", id, err)
	}
	recallErr(t, b, "D", h.handle["moved"])
	if recallErr(t, b, "D", h.handle["far1"]) == "" {
		t.Fatal("recalled twice")
	}
	if _, _, err := b.Reschedule(t.Context(), name("D"), h.handle["far2"], time.Now().UnixMilli()); err != nil {
		t.Fatal(err)
	}
	for got := ""; got != "far2"; {
		got = string(receiveNext(t, b, "D", "G2").Message.Body)
	}
	if _, err := b.Recall(t.Context(), name("D"), ps[2].Handle); err != nil {
		t.Fatalf("recall with a listed handle: %v", err)
	}
	if st := b.timers.Stats(); st.Pending != 0 {
		t.Fatalf("%+v at the end", st)
	}
}

func TestRetentionCopiesForwardWhatIsReferredTo(t *testing.T) {
	for _, c := range []struct {
		name string
		run  func(h *oldPayloads)
	}{
		{"and drops the rest", func(h *oldPayloads) { h.retain() }},
		{"then a restart", func(h *oldPayloads) { h.retain(); h.reopen() }},
		{"then the index is lost", func(h *oldPayloads) { h.retain(); h.reopen("consumequeue") }},
		{"after a kill between the copies and the drop", func(h *oldPayloads) {
			h.fill(1)
			limit, last, ok := h.b.wal.Expired(h.now, h.b.wal.Committed())
			if !ok {
				h.t.Fatal("nothing is old")
			}
			if n, err := h.b.copyForward(limit, last); err != nil || n == 0 {
				h.t.Fatalf("copied %d bytes, %v", n, err)
			}
			h.kill()
			h.retain()
		}},
		{"after a kill between the copies and their names", func(h *oldPayloads) {
			if err := h.b.wal.Sync(); err != nil { // what is not durable does not expire
				t.Fatal(err)
			}
			limit, last, _ := h.b.wal.Expired(h.now, h.b.wal.Committed())
			h.b.append = &refusing{h.b.append, record.KindRelocate}
			if _, err := h.b.copyForward(limit, last); err == nil {
				h.t.Fatal("the relocations were not refused")
			}
			h.kill()
			h.retain()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newOldPayloads(t)
			c.run(h)
			h.checkMoved()
			h.checkPending()
		})
	}
}

// A year's delay with a day's retention: the payload moves again and again.
func TestPendingMessagesOutliveManyRetentions(t *testing.T) {
	h := newOldPayloads(t)
	for i := range 4 {
		h.end = h.b.wal.Committed()
		h.fill(1)
		h.now = h.wall.now().Add(retainAge)
		h.retain()
		if i == 1 {
			h.reopen()
		}
	}
	if got := receive(t, h.b, "D", "G2"); len(got) > 0 {
		t.Fatalf("%v outlived the retention of its move", bodies(got))
	}
	h.reopen("consumequeue")
	h.checkPending()
}

// More than a batch may take, in segments hardly larger.
func TestManyPendingMessagesAreCopiedInBatches(t *testing.T) {
	h := &oldPayloads{t: t, dir: t.TempDir()}
	h.b = open(t, h.dir, retaining)
	makeTopic(t, h.b, "D", topic.Delay, 4)
	makeTopic(t, h.b, "F", topic.Normal, 1)
	far := time.Now().Add(time.Hour)
	body := strings.Repeat("x", 1000)
	for i := range 300 {
		send(t, h.b, "D", delayed(fmt.Sprint("m", i), body, far.Add(time.Duration(i%7)*time.Minute)))
	}
	for range 2 {
		h.end = h.b.wal.Committed()
		h.fill(1)
		h.now = h.wall.now().Add(retainAge)
		h.retain()
	}
	ps, err := h.b.Timers(t.Context(), TimerQuery{Topic: name("D"), Limit: MaxTimerList})
	if err != nil || len(ps) != 300 {
		t.Fatalf("%d pending, %v", len(ps), err)
	}
	seen := map[string]bool{}
	for _, p := range ps {
		if seen[p.MessageID] = true; p.Bytes != len(body) {
			t.Fatalf("%+v", p)
		}
	}
	if len(seen) != 300 {
		t.Fatalf("%d different", len(seen))
	}
}

func FuzzParseRelocate(f *testing.F) {
	f.Add(record.Command(appendRelocate(nil, []relocation{{record.Key(1, 2), 3, consumequeue.Entry{Position: 4, Size: 5, Flags: 6, TagHash: 7, GroupHash: 8, StoreTime: 9}}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		rs, err := parseRelocate(data)
		if err != nil {
			return
		}
		again, err := parseRelocate(record.Command(appendRelocate(nil, rs)))
		if err != nil || !slices.Equal(again, rs) {
			t.Fatalf("%+v became %+v, %v", rs, again, err)
		}
	})
}

func TestRecallHandleIsSealed(t *testing.T) {
	k := newHandleKey([]byte("secret"))
	r := recall{7, 1_700_000_000_123, 1 << 40, 1<<32 - 1}
	s := k.sealRecall(r)
	if got, ok := k.openRecall(s); !ok || got != r {
		t.Fatalf("%+v, %v", got, ok)
	}
	if _, _, ok := k.openTransaction(s); ok {
		t.Fatal("a recall handle is a transaction id")
	}
	if _, ok := k.open(s); ok {
		t.Fatal("a recall handle is a receipt handle")
	}
	raw, _ := base64.RawURLEncoding.DecodeString(s)
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		if _, ok := k.openRecall(base64.RawURLEncoding.EncodeToString(raw)); ok {
			t.Fatalf("good with bit %d flipped", bit)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
	for n := range s {
		if _, ok := k.openRecall(s[:n]); ok {
			t.Fatalf("good when cut to %d", n)
		}
	}
}

// kill goes on with the files as they are at this moment, as after a kill -9.
func (h *oldPayloads) kill() {
	h.t.Helper()
	dir := h.t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(h.dir)); err != nil {
		h.t.Fatal(err)
	}
	h.dir = dir
	h.b = open(h.t, dir, retaining)
}

// refusing is an appender that refuses records of one kind.
type refusing struct {
	appender
	kind record.Kind
}

func (r *refusing) Submit(batch *commitlog.Batch) error {
	for i := range batch.Len() {
		if record.KindOf(batch.Head(i)) == r.kind {
			return fmt.Errorf("refused: %v", r.kind)
		}
	}
	return r.appender.Submit(batch)
}

// The copy of a payload that is in its queue says so: what brought it there, or
// gave it another time before, may be gone.
func TestMessagesThatCameIntoTheirQueueLateAreFoundThereWhenTheyWereCopied(t *testing.T) {
	h := &oldPayloads{t: t, dir: t.TempDir()}
	h.b = open(t, h.dir, retaining)
	b := h.b
	makeTopic(t, b, "D", topic.Delay, 1)
	makeTopic(t, b, "X", topic.Transaction, 1)
	makeTopic(t, b, "F", topic.Normal, 1)
	handle := send(t, b, "D", delayed("sooner", "sooner", time.Now().Add(2*time.Hour)))[0].RecallHandle
	half := msg("half", "half")
	half.Transaction = true
	transactionID := send(t, b, "X", half)[0].TransactionID
	h.end = b.wal.Committed()
	h.fill(3)
	h.now = h.wall.now().Add(retainAge)
	time.Sleep(2 * time.Millisecond)
	if _, _, err := b.Reschedule(t.Context(), name("D"), handle, time.Now().UnixMilli()); err != nil {
		t.Fatal(err)
	}
	if err := b.EndTransaction(t.Context(), name("X"), "half", transactionID, transaction.Committed, false); err != nil {
		t.Fatal(err)
	}
	for b.timers.Stats().Pending > 0 {
		time.Sleep(time.Millisecond)
	}
	h.fill(1)
	h.retain()
	for topicName, id := range map[string]string{"D": "sooner", "X": "half"} {
		page, _, err := b.FindMessages(t.Context(), MessageQuery{Topic: name(topicName), ID: id, Limit: 10})
		if err != nil || len(page) != 1 || page[0].State != MessageQueued || page[0].Offset != 0 {
			t.Errorf("%s: %+v, %v", id, page, err)
		}
		want(t, receive(t, b, topicName, "G"), id+"#1")
	}
}

// What put a message into another topic's queue may be gone, and that queue be
// kept: then the record says so that gave the entry its copy.
func TestAMessageThatWasRedrivenElsewhereIsFoundThereWhenItWasCopied(t *testing.T) {
	h := &oldPayloads{t: t, dir: t.TempDir()}
	h.b = open(t, h.dir, retaining)
	b := h.b
	makeTopic(t, b, "Q", topic.Normal, 1)
	makeTopic(t, b, "F", topic.Normal, 1)
	elsewhere := name("E")
	if _, err := b.CreateTopic(t.Context(), topic.Topic{Name: elsewhere, Queues: 1, Retention: topic.Retention{RetainAge: 10 * retainAge}}); err != nil {
		t.Fatal(err)
	}
	send(t, b, "Q", msg("dead", "dead"))
	if err := b.ForwardToDeadLetter(t.Context(), name("G"), name("Q"), receive(t, b, "Q", "G")[0].Handle, 0, 0); err != nil {
		t.Fatal(err)
	}
	redriven(t, b, RedriveRequest{Target: &elsewhere}, DeadLetterProgress{Matched: 1, Done: 1})
	for range 2 { // a copy, and a copy of that
		h.end = h.b.wal.Committed()
		h.fill(1)
		h.now = h.wall.now().Add(retainAge)
		h.retain()
	}
	h.reopen("keyindex")
	page, _, err := h.b.FindMessages(t.Context(), MessageQuery{Topic: name("Q"), ID: "dead", Limit: 10})
	if err != nil || len(page) != 1 || len(page[0].Places) != 1 || page[0].Places[0].Topic != elsewhere {
		t.Errorf("%+v, %v", page, err)
	}
	if d := deleteMessage(t, h.b, "Q", "dead"); d.Entries != 1 {
		t.Errorf("deleted %+v", d)
	}
	want(t, receive(t, h.b, "E", "G"))
}

// Each group's dead letter is given a copy of the payload: they are one message.
func TestAMessageThatRetentionCopiedTwiceIsFoundAndDeletedOnce(t *testing.T) {
	for _, killed := range []bool{false, true} { // before the copies have names: then there are two more
		h := &oldPayloads{t: t, dir: t.TempDir()}
		h.b = open(t, h.dir, retaining)
		makeTopic(t, h.b, "Q", topic.Normal, 1)
		makeTopic(t, h.b, "F", topic.Normal, 1)
		send(t, h.b, "Q", msg("dead", "dead"))
		h.end = h.b.wal.Committed()
		h.fill(3)
		h.now = h.wall.now().Add(retainAge)
		time.Sleep(2 * time.Millisecond)
		for _, g := range []string{"G", "H"} {
			if err := h.b.ForwardToDeadLetter(t.Context(), name(g), name("Q"), receive(t, h.b, "Q", g)[0].Handle, 0, 0); err != nil {
				t.Fatal(err)
			}
		}
		if killed {
			if err := h.b.wal.Sync(); err != nil { // what is not durable does not expire
				t.Fatal(err)
			}
			limit, last, _ := h.b.wal.Expired(h.now, h.b.wal.Committed())
			h.b.append = &refusing{h.b.append, record.KindRelocate}
			if _, err := h.b.copyForward(limit, last); err == nil {
				t.Fatalf("the relocations were not refused: below %d, %d ms, of %+v", limit, last, h.b.wal.Stats())
			}
			h.kill()
		}
		h.retain()
		h.reopen("keyindex")
		page, _, err := h.b.FindMessages(t.Context(), MessageQuery{Topic: name("Q"), ID: "dead", Limit: 10})
		if err != nil || len(page) != 1 || len(page[0].Places) != 2 || page[0].State != MessageDead {
			t.Errorf("found %+v, %v", page, err)
		}
		if d := deleteMessage(t, h.b, "Q", "dead"); d.Entries != 2 {
			t.Errorf("deleted %+v", d)
		}
		for _, g := range []string{"G", "H"} {
			want(t, receive(t, h.b, DLQPrefix+g, "D"))
		}
	}
}
