package broker

import (
	"fmt"
	"testing"

	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
)

func TestSQLFilterSeesProperties(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for i := range 5 {
		m := msg(fmt.Sprint(i), fmt.Sprint(i))
		m.User = []Property{{"price", fmt.Sprint(i * 10)}}
		send(t, b, "T", m)
	}
	want(t, receive(t, b, "T", "G", func(r *ReceiveRequest) { r.FilterType, r.Filter = FilterSQL, "price BETWEEN 10 AND 20 OR price = 40" }),
		"1#1", "2#1", "4#1")
	_, err := b.Receive(t.Context(), ReceiveRequest{Group: name("G"), Topic: name("T"), Invisible: MinInvisible, FilterType: FilterSQL, Filter: "price >"})
	if ReasonOf(err) != IllegalFilter {
		t.Fatal(err)
	}
}

func TestGroupHasOneFilterPerTopicWhileItsClientsLive(t *testing.T) {
	b := open(t, t.TempDir())
	makeTopic(t, b, "T", topic.Normal, 1)
	for _, id := range []string{"old", "new"} {
		b.Sessions().Register(session.Client{ID: id, Role: session.SimpleConsumer, Group: name("G")})
	}
	as := func(client, filter string) error {
		_, err := b.Receive(t.Context(), ReceiveRequest{ClientID: client, Group: name("G"), Topic: name("T"), Invisible: MinInvisible, Filter: filter})
		return err
	}
	for _, step := range []struct {
		client, filter string
		want           Reason
	}{
		{"old", "A", MessageNotFound},
		{"new", "A || B", IllegalFilter},
		{"new", " A ", MessageNotFound},
		{"new", "A || B", IllegalFilter},
	} {
		if err := as(step.client, step.filter); ReasonOf(err) != step.want {
			t.Fatalf("%+v: %v", step, err)
		}
	}
	b.Sessions().Terminate("old")
	if err := as("new", "A || B"); ReasonOf(err) != MessageNotFound {
		t.Fatalf("after the old client went: %v", err)
	}
}
