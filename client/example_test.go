package client_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/internal/brokertest"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// exampleBroker is a broker with a topic "orders" that takes every kind of
// message. A program has one at 127.0.0.1:8081.
func exampleBroker() (addr string, stop func()) {
	s, stop := brokertest.StartExample()
	s.CreateTopic("orders", gantryv1.TopicType_MIXED, 1)
	return s.Addr, stop
}

func Example() {
	addr, stop := exampleBroker()
	defer stop()
	ctx := context.Background()

	c, err := client.Dial(ctx, []string{addr}, client.Options{})
	if err != nil {
		panic(err)
	}
	defer c.Close(ctx)

	p, err := c.NewProducer(client.ProducerOptions{Topic: "orders"})
	if err != nil {
		panic(err)
	}
	stored, err := p.Send(ctx, &client.Message{Body: []byte("one espresso"), Tag: "coffee"})
	if err != nil {
		panic(err)
	}
	fmt.Println("stored at", stored.Offset)

	co, err := c.NewConsumer(client.ConsumerOptions{Group: "baristas", Topic: "orders", Tag: "coffee || tea"})
	if err != nil {
		panic(err)
	}
	for m, err := range co.Messages(ctx) {
		if err != nil {
			panic(err)
		}
		fmt.Printf("%s: %s\n", m.Tag(), m.Body())
		if err := m.Ack(ctx); err != nil {
			panic(err)
		}
		break
	}
	// Output:
	// stored at 0
	// coffee: one espresso
}

func ExampleProducer_Publish() {
	addr, stop := exampleBroker()
	defer stop()
	ctx := context.Background()
	c, _ := client.Dial(ctx, []string{addr}, client.Options{})
	defer c.Close(ctx)

	p, _ := c.NewProducer(client.ProducerOptions{Topic: "orders", Linger: 5 * time.Millisecond})
	for i := range 1000 {
		m := &client.Message{Body: fmt.Appendf(nil, "order %d", i)}
		err := p.Publish(ctx, m, func(r client.Result, err error) {
			if err != nil {
				fmt.Println("refused:", err)
			}
		})
		if err != nil {
			panic(err)
		}
	}
	fmt.Println("all answered:", p.Flush(ctx) == nil)
	// Output: all answered: true
}

func ExampleConsumer_Run() {
	addr, stop := exampleBroker()
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	c, _ := client.Dial(ctx, []string{addr}, client.Options{})
	defer c.Close(context.Background())
	p, _ := c.NewProducer(client.ProducerOptions{Topic: "orders"})
	for _, step := range []string{"placed", "paid", "shipped"} {
		p.Send(ctx, &client.Message{Body: []byte(step), Group: "order 7"})
	}

	co, _ := c.NewConsumer(client.ConsumerOptions{Group: "warehouse", Topic: "orders"})
	err := co.Run(ctx, func(ctx context.Context, m *client.Delivery) error {
		fmt.Println(m.Group(), string(m.Body()))
		if string(m.Body()) == "shipped" {
			cancel() // Run returns when this handler has
		}
		return nil // an error would bring the message again
	}, client.RunOptions{Concurrency: 8, Ordered: true})
	fmt.Println(err)
	// Output:
	// order 7 placed
	// order 7 paid
	// order 7 shipped
	// <nil>
}

func ExampleProducer_Begin() {
	addr, stop := exampleBroker()
	defer stop()
	ctx := context.Background()
	c, _ := client.Dial(ctx, []string{addr}, client.Options{})
	defer c.Close(ctx)

	p, _ := c.NewProducer(client.ProducerOptions{
		Topic: "orders",
		// Asked when this program, or the one before it, left a transaction open.
		Check: func(ctx context.Context, m *client.Open) client.Decision { return client.Rollback },
	})
	tx, err := p.Begin(ctx, &client.Message{Body: []byte("order 8")}, 0)
	if err != nil {
		panic(err)
	}
	// ... the local transaction ...
	fmt.Println("commit:", tx.Commit(ctx))
	fmt.Println("rollback after it:", errors.Is(tx.Rollback(ctx), client.ErrDecided))
	// Output:
	// commit: <nil>
	// rollback after it: true
}

func ExampleProducer_Recall() {
	addr, stop := exampleBroker()
	defer stop()
	ctx := context.Background()
	c, _ := client.Dial(ctx, []string{addr}, client.Options{})
	defer c.Close(ctx)

	p, _ := c.NewProducer(client.ProducerOptions{Topic: "orders"})
	timeout, err := p.Send(ctx, &client.Message{Body: []byte("order 9 was not paid"), DeliverAt: time.Now().Add(30 * time.Minute)})
	if err != nil {
		panic(err)
	}
	// It is paid:
	fmt.Println(p.Recall(ctx, "orders", timeout.RecallHandle))
	// Output: <nil>
}

func ExampleReader() {
	addr, stop := exampleBroker()
	defer stop()
	ctx := context.Background()
	c, _ := client.Dial(ctx, []string{addr}, client.Options{})
	defer c.Close(ctx)
	p, _ := c.NewProducer(client.ProducerOptions{Topic: "orders"})
	for i := range 3 {
		p.Send(ctx, &client.Message{Body: []byte("order"), Properties: map[string]string{"amount": fmt.Sprint(50 * i)}})
	}

	r, err := c.NewReader(client.ReaderOptions{Topic: "orders", Group: "audit", SQL: "amount >= 50"})
	if err != nil {
		panic(err)
	}
	for range 2 {
		m, err := r.Next(ctx)
		if err != nil {
			panic(err)
		}
		amount, _ := m.Property("amount")
		fmt.Println(m.Offset(), amount)
		if err := r.Commit(ctx, map[uint32]int64{m.Queue(): m.Offset() + 1}); err != nil {
			panic(err)
		}
	}
	// Output:
	// 1 50
	// 2 100
}

// Package client/oteltrace has hooks for OpenTelemetry.
func ExampleHooks() {
	addr, stop := exampleBroker()
	defer stop()
	ctx := context.Background()
	c, _ := client.Dial(ctx, []string{addr}, client.Options{Hooks: client.Hooks{
		Send: func(ctx context.Context, m *client.Message) func(client.Result, error) {
			m.TraceContext = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
			return func(r client.Result, err error) {
				fmt.Println("sent to", m.Topic+":", err == nil)
			}
		},
	}})
	defer c.Close(ctx)
	p, _ := c.NewProducer(client.ProducerOptions{Topic: "orders"})
	p.Send(ctx, &client.Message{Body: []byte("order 10")})
	// Output: sent to orders: true
}
