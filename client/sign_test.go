package client

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/brokertest"
)

func TestAClientSignsAsItsUser(t *testing.T) {
	key, err := access.ParseMasterKey(access.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	const secret = "a-test-secret"
	s := brokertest.Start(t, broker.Options{MasterKey: key})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Broker().CreateUser(ctx, access.User{Name: "shop", Enabled: true}, secret); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Broker().CreateTopic(ctx, topic.Topic{Name: record.Resource{Name: "orders"}}); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []access.Type{access.Topic, access.Group} {
		_, err := s.Broker().Grant(ctx, access.Policy{User: "shop", Actions: access.Pub | access.Sub, Resource: access.Pattern{Type: typ, Match: access.Prefix, Name: "orders"}})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range []Options{{}, {User: "shop", Secret: "not-the-secret"}, {User: "nobody", Secret: secret}} {
		if _, err := Dial(ctx, []string{s.Addr}, o); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("user %q: %v", o.User, err)
		}
	}
	for name, o := range map[string][]grpc.DialOption{"a connection of its own": nil, "gRPC": {grpc.WithUserAgent("a test")}} {
		on := true
		if _, err := s.Broker().UpdateUser(ctx, "shop", broker.UserChange{Enabled: &on}); err != nil {
			t.Fatal(err)
		}
		c, err := Dial(ctx, []string{s.Addr}, Options{User: "shop", Secret: secret, DialOptions: o})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(context.Background())
		p, err := c.NewProducer(ProducerOptions{Topic: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Send(ctx, &Message{Body: []byte("1")}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := p.Send(ctx, &Message{Topic: "pay", Body: []byte("1")}); !errors.Is(err, &Error{Code: CodeForbidden}) {
			t.Errorf("%s: another topic: %v", name, err)
		}
		co, err := c.NewConsumer(ConsumerOptions{Topic: "orders", Group: "orders"})
		if err != nil {
			t.Fatal(err)
		}
		d, err := co.Receive(ctx)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := d.Ack(ctx); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		off := false
		if _, err := s.Broker().UpdateUser(ctx, "shop", broker.UserChange{Enabled: &off}); err != nil {
			t.Fatal(err)
		}
		if _, err := co.Receive(ctx); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: a consumer that is revoked: %v", name, err)
		}
		if _, err := p.Send(ctx, &Message{Body: []byte("2")}); !errors.Is(err, ErrUnauthorized) {
			t.Errorf("%s: a producer that is revoked: %v", name, err)
		}
	}
}
