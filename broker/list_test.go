package broker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
)

func TestMessagesAreListedWithWhatGroupsDoWithThem(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	makeTopic(t, b, "T", topic.FIFO, 1)
	makeTopic(t, b, "other", topic.FIFO, 1)
	for _, g := range []string{"G", "H"} {
		if _, err := b.CreateGroup(t.Context(), group.Group{Name: name(g), FIFO: true}); err != nil {
			t.Fatal(err)
		}
	}
	msgs := inGroups("a1", "a2", "b1", "c1", "d1")
	send(t, b, "other", msgs[:1]...)
	other := receive(t, b, "other", "H")
	send(t, b, "T", msgs...)
	got := receive(t, b, "T", "G")
	want(t, got, "a1#1", "b1#1", "c1#1", "d1#1")
	for i, until := range map[int]time.Duration{1: 0, 2: time.Hour} {
		if _, err := b.ChangeInvisible(t.Context(), name("G"), name("T"), got[i].Handle, until, false); err != nil {
			t.Fatal(err)
		}
	}
	ack(t, b, "T", "G", got[3])
	held := receive(t, b, "T", "H", func(r *ReceiveRequest) { r.Batch = 4 })
	want(t, held, "a1#1", "b1#1", "c1#1", "d1#1")
	ack(t, b, "T", "H", held[1:]...)
	for tp, m := range map[string]Delivered{"T": held[0], "other": other[0]} {
		if err := b.ForwardToDeadLetter(t.Context(), name("H"), name(tp), m.Handle, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	caughtUp(t, b)
	check := func() {
		t.Helper()
		dead := "id-a1=dead letter@0+%DLQ%H:" + fmt.Sprint(deadOffset(t, b, "T"))
		const aside, ready, waits = " id-a2=queued@1(G put aside 0)(H put aside 0)", "id-b1=retrying@2(G ready 1)", "id-c1=retrying@3(G waiting 1)"
		for _, c := range []struct {
			q    MessageQuery
			want string
		}{
			{MessageQuery{}, dead + "(G leased 1)" + aside + " " + ready + " " + waits + " id-d1=queued@4"},
			{MessageQuery{States: []MessageState{MessageQueued, MessageRetrying}}, dead + "(G leased 1)" + aside + " " + ready + " " + waits + " id-d1=queued@4"},
			{MessageQuery{States: []MessageState{MessageQueued}}, aside[1:] + " id-d1=queued@4"},
			{MessageQuery{States: []MessageState{MessageRetrying}}, "id-a1=retrying@0" + dead[len("id-a1=dead letter@0"):] + "(G leased 1) " + ready + " " + waits},
			{MessageQuery{States: []MessageState{MessageDead}}, dead + "(G leased 1)"},
			{MessageQuery{Group: name("H")}, dead},
			{MessageQuery{ID: "id-b1"}, ready},
			{MessageQuery{To: got[0].Message.StoreTime, Group: name("G")}, ""},
		} {
			c.q.Topic = name("T")
			for _, limit := range []int{1, 2, 100} {
				c.q.Limit, c.q.Page = limit, ""
				var all []FoundMessage
				for pages := 0; pages == 0 || c.q.Page != ""; pages++ {
					var page []FoundMessage
					if page, c.q.Page = find(t, b, c.q); len(page) > limit || pages > 10 {
						t.Fatalf("page %d has %d messages", pages, len(page))
					}
					all = append(all, page...)
				}
				if got := pictures(all); got != c.want {
					t.Errorf("%+v: %s\nwant %s", c.q, got, c.want)
				}
			}
		}
	}
	check()
	closeBroker(t, b)
	b = open(t, dir)
	check()
}

// deadOffset is the offset of H's dead letter of a topic.
func deadOffset(t *testing.T, b *Broker, from string) int64 {
	t.Helper()
	page, _, err := b.DeadLetters(t.Context(), name("H"), DeadLetterFilter{Topic: from}, 0, 0)
	if err != nil || len(page) != 1 {
		t.Fatal(page, err)
	}
	return int64(page[0].Offset)
}

func TestPagesAreGoodWhileMessagesArrive(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 5)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var sent []string
	sendSome := func() {
		var msgs []Outgoing
		for range rng.IntN(6) { // many of one millisecond
			sent = append(sent, fmt.Sprint("id-", len(sent)))
			msgs = append(msgs, msg(sent[len(sent)-1], "x"))
		}
		if len(msgs) > 0 {
			send(t, b, "T", msgs...)
		}
	}
	for range 20 {
		sendSome()
	}
	q := MessageQuery{Topic: name("T")}
	var got []string
	for pages := 0; pages == 0 || q.Page != ""; pages++ {
		q.Limit = 1 + rng.IntN(4)
		var page []FoundMessage
		page, q.Page = find(t, b, q)
		if strings.HasPrefix(q.Page, "queued") && len(sent) < 400 { // else they come too late
			sendSome()
		}
		for _, m := range page {
			got = append(got, m.ID)
		}
	}
	slices.Sort(got)
	slices.Sort(sent)
	if !slices.Equal(got, sent) {
		t.Errorf("%d messages are listed, %d of them different, of %d", len(got), len(slices.Compact(got)), len(sent))
	}
}

func TestMessagesOfLiteTopicsAreListed(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Lite, 1)
	var sent []string
	for i := range 9 {
		m := msg(fmt.Sprint("id-", i), "x")
		m.LiteTopic = string("abc"[i%3])
		send(t, b, "T", m)
	}
	for q := range 3 {
		for i := range 3 {
			sent = append(sent, fmt.Sprint("id-", 3*i+q))
		}
	}
	for _, limit := range []int{1, 2, 9, 10} {
		q := MessageQuery{Topic: name("T"), Limit: limit}
		var got []string
		for pages := 0; pages == 0 || q.Page != ""; pages++ {
			var page []FoundMessage
			page, q.Page = find(t, b, q)
			for _, m := range page {
				got = append(got, m.ID)
			}
		}
		if !slices.Equal(got, sent) {
			t.Errorf("%v", got)
		}
	}
}
