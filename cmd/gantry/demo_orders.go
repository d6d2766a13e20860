package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	checkAfter   = time.Second // the age at which the broker asks about a transaction
	payWithin    = 2 * time.Second
	retryAfter   = 400 * time.Millisecond
	maxTries     = 3
	europeFilter = "amount > 100 AND region = 'EU'"
)

// demoOrder is an order of the tour. All that happens to it follows from here.
type demoOrder struct {
	id     string
	region string
	amount int
	fate   string // of its transaction
	paid   bool
}

const (
	commits   = "committed"
	rollsBack = "rolled back: the card was declined"
	dies      = "undecided: the shop's process died here"
)

var demoOrders = []demoOrder{
	{"order-1", "EU", 120, commits, true},
	{"order-2", "US", 80, commits, true},
	{"order-3", "EU", 310, rollsBack, false},
	{"order-4", "EU", 45, commits, false},
	{"order-5", "US", 500, commits, true},
	{"order-6", "EU", 210, dies, true},
	{"order-7", "US", 60, rollsBack, false},
	{"order-8", "EU", 150, commits, false},
}

// chosen returns the ids of the orders that keep holds for.
func chosen(keep func(*demoOrder) bool) (ids []string) {
	for i := range demoOrders {
		if keep(&demoOrders[i]) {
			ids = append(ids, demoOrders[i].id)
		}
	}
	return ids
}

// tour tells the whole story.
func (d *demo) tour(ctx context.Context) error {
	d.say("A broker runs in this process, at %s, with its data in %s.", d.server, d.dir)
	if err := d.prepare(ctx); err != nil {
		return err
	}
	if err := d.buy(ctx); err != nil {
		return err
	}
	if err := d.ship(ctx); err != nil {
		return err
	}
	d.say("Everything was as it must be, in %.1f s. The same with the official Go client: examples/orders.", time.Since(d.begun).Seconds())
	return nil
}

// prepare makes topics and groups.
func (d *demo) prepare(ctx context.Context) error {
	c, err := d.client("operator")
	if err != nil {
		return err
	}
	defer c.close()
	for topic, kind := range map[string]gantryv1.TopicType{
		"orders": gantryv1.TopicType_TRANSACTION, "payment-timeouts": gantryv1.TopicType_DELAY, "parcels": gantryv1.TopicType_FIFO,
	} {
		call, cancel := c.call(ctx)
		_, err := c.management().CreateTopic(call, &gantryv1.CreateTopicRequest{Name: topic, Type: kind, Queues: 4})
		cancel()
		if err != nil {
			return c.explain(err)
		}
	}
	call, cancel := c.call(ctx)
	defer cancel()
	_, err = c.management().CreateGroup(call, &gantryv1.CreateGroupRequest{Name: "warehouse", Fifo: true, MaxAttempts: maxTries,
		Retry: &gantryv1.CreateGroupRequest_Steps{Steps: &gantryv1.RetrySteps{Steps: []*durationpb.Duration{durationpb.New(retryAfter)}}}})
	if err != nil {
		return c.explain(err)
	}
	return nil
}

// buy places orders, and follows them until each is paid or cancelled.
func (d *demo) buy(ctx context.Context) error {
	shop, err := d.client("shop")
	if err != nil {
		return err
	}
	defer shop.close()
	d.step("1. Orders in transactions", `  The shop stores each order as a half message, which nobody sees, writes its own books,
  and then commits or rolls back. Where it dies in between, the broker asks another
  producer of the topic.`)
	var arrived, paid, expired, europe seen
	checkout, err := shop.consumer(ctx, "checkout", "orders", "", 0, func(m *rocketmqv2.Message) (bool, error) {
		return true, d.takePayment(ctx, shop, string(m.GetBody()), &arrived, &paid)
	})
	if err != nil {
		return err
	}
	cancellations, err := shop.consumer(ctx, "cancellations", "payment-timeouts", "", 0, func(m *rocketmqv2.Message) (bool, error) {
		late := time.Since(m.GetSystemProperties().GetDeliveryTimestamp().AsTime())
		if late < 0 {
			return false, fmt.Errorf("the timeout of %s came %v early", m.GetBody(), -late)
		}
		if expired.add(string(m.GetBody())) {
			d.event("%s was not paid within %v: cancelled (%.1f ms late)", m.GetBody(), payWithin, late.Seconds()*1000)
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	fulfilment, err := shop.consumer(ctx, "fulfilment-eu", "orders", europeFilter, 0, func(m *rocketmqv2.Message) (bool, error) {
		if europe.add(string(m.GetBody())) {
			d.event("%s for Europe", m.GetBody())
		}
		return true, nil
	})
	if err != nil {
		return err
	}
	other, err := d.client("shop-2")
	if err != nil {
		return err
	}
	defer other.close()
	answer := func(ctx context.Context) error {
		return other.answerChecks(ctx, "orders", func(check *rocketmqv2.RecoverOrphanedTransactionCommand) error {
			m := check.GetMessage()
			d.event("the broker asks shop-2 about %s: it is in the books, committed", m.GetBody())
			return other.decide(ctx, "orders", m.GetSystemProperties().GetMessageId(), check.GetTransactionId(),
				rocketmqv2.TransactionResolution_COMMIT, rocketmqv2.TransactionSource_SOURCE_SERVER_CHECK)
		})
	}
	story := func(ctx context.Context) error {
		for i := range demoOrders {
			if err := d.place(ctx, shop, &demoOrders[i]); err != nil {
				return err
			}
		}
		return arrived.wait(ctx, chosen(func(o *demoOrder) bool { return o.fate != rollsBack })...)
	}
	return together(ctx, func(ctx context.Context) error {
		if err := together(ctx, story, checkout.run, answer); err != nil {
			return err
		}
		d.step("2. A timeout that is recalled", fmt.Sprintf(`  With each order that arrived went a delayed message: cancel it in %v. Paid in time, it
  was recalled; a recall is told whether it was. The others come when they are due.`, payWithin))
		if err := paid.wait(ctx, chosen(func(o *demoOrder) bool { return o.fate != rollsBack && o.paid })...); err != nil {
			return err
		}
		if err := expired.wait(ctx, chosen(func(o *demoOrder) bool { return o.fate != rollsBack && !o.paid })...); err != nil {
			return err
		}
		d.event("%d were paid and their timeouts recalled", len(paid.seen))
		d.step("3. Only what is wanted", "  Fulfilment in Europe subscribes with SQL: "+europeFilter+".")
		return together(ctx, func(ctx context.Context) error {
			return europe.wait(ctx, chosen(func(o *demoOrder) bool { return o.fate != rollsBack && o.amount > 100 && o.region == "EU" })...)
		}, fulfilment.run)
	}, cancellations.run)
}

// place sends an order in a transaction.
func (d *demo) place(ctx context.Context, shop *demoClient, o *demoOrder) error {
	sent, err := shop.send(ctx, &rocketmqv2.Message{
		Topic: shop.resource("orders"), Body: []byte(o.id),
		UserProperties:   map[string]string{"region": o.region, "amount": fmt.Sprint(o.amount)},
		SystemProperties: &rocketmqv2.SystemProperties{Keys: []string{o.id}, MessageType: rocketmqv2.MessageType_TRANSACTION},
	})
	if err != nil {
		return err
	}
	d.event("%s  %s  %3d euros  %s", o.id, o.region, o.amount, o.fate)
	decision := rocketmqv2.TransactionResolution_COMMIT
	switch o.fate {
	case rollsBack:
		decision = rocketmqv2.TransactionResolution_ROLLBACK
	case dies:
		return nil
	}
	return shop.decide(ctx, "orders", sent.GetMessageId(), sent.GetTransactionId(), decision, rocketmqv2.TransactionSource_SOURCE_CLIENT)
}

// takePayment gives an order that arrived some time to be paid.
func (d *demo) takePayment(ctx context.Context, shop *demoClient, id string, arrived, paid *seen) error {
	if !arrived.add(id) {
		return nil
	}
	sent, err := shop.send(ctx, &rocketmqv2.Message{
		Topic: shop.resource("payment-timeouts"), Body: []byte(id),
		SystemProperties: &rocketmqv2.SystemProperties{
			Keys: []string{id}, MessageType: rocketmqv2.MessageType_DELAY, DeliveryTimestamp: timestamppb.New(time.Now().Add(payWithin)),
		},
	})
	if err != nil {
		return err
	}
	for _, o := range demoOrders {
		if o.id == id && o.paid {
			if err := shop.recall(ctx, "payment-timeouts", sent.GetRecallHandle()); err != nil {
				return err
			}
			paid.add(id)
		}
	}
	return nil
}

// The parcel that cannot be packed, and the message group of its customer.
const (
	poisonedParcel = "bob-2"
	parcelText     = "the second parcel for Bob, with a label nobody can read"
)

// ship ships parcels in order for each customer, one of which cannot be packed
// until it is repaired.
func (d *demo) ship(ctx context.Context) error {
	d.step("4. One after the other for each customer", fmt.Sprintf(`  Parcels are ordered by customer, the message group. Two workers pack; one of Bob's
  cannot be packed. Bob waits, the others do not; after %d attempts it is a dead letter.`, maxTries))
	var shipped, tried seen
	var repaired atomic.Bool
	work := func(worker string) (func(context.Context) error, error) {
		c, err := d.client(worker)
		if err != nil {
			return nil, err
		}
		con, err := c.consumer(ctx, "warehouse", "parcels", "", retryAfter, func(m *rocketmqv2.Message) (bool, error) {
			time.Sleep(60 * time.Millisecond) // packing
			parcel := m.GetSystemProperties().GetKeys()[0]
			if parcel == poisonedParcel && !repaired.Load() {
				tried.add(fmt.Sprint(m.GetSystemProperties().GetDeliveryAttempt()))
				d.event("%s  %-7s  FAILED, attempt %d", worker, parcel, m.GetSystemProperties().GetDeliveryAttempt())
				return false, nil
			}
			if shipped.add(parcel) {
				d.event("%s  %-7s  shipped", worker, parcel)
			}
			return true, nil
		})
		return func(ctx context.Context) error {
			defer c.close()
			return con.run(ctx)
		}, err
	}
	first, err := work("worker-1")
	if err != nil {
		return err
	}
	second, err := work("worker-2")
	if err != nil {
		return err
	}
	return together(ctx, func(ctx context.Context) error {
		if err := d.sendParcels(ctx); err != nil {
			return err
		}
		healthy := []string{"alice-1", "alice-2", "alice-3", "bob-1", "bob-3", "carol-1", "carol-2", "carol-3"}
		if err := shipped.wait(ctx, healthy...); err != nil {
			return err
		}
		if err := tried.wait(ctx, "1", "2", "3"); err != nil {
			return err
		}
		d.step("5. The dead letter", "  It says why it died, where it came from and who had it. Repaired, it goes back.")
		if err := d.command(ctx, "dlq", "show", "warehouse", "0"); err != nil {
			return err
		}
		repaired.Store(true)
		if err := d.command(ctx, "dlq", "redrive", "warehouse", "--all"); err != nil {
			return err
		}
		if err := shipped.wait(ctx, append(healthy, poisonedParcel)...); err != nil {
			return err
		}
		n, err := d.copies(parcelText)
		if err != nil {
			return err
		}
		if n != 1 {
			return fmt.Errorf("the body of %s is in the log %d times", poisonedParcel, n)
		}
		d.event("%s was delivered %d times, died and came back: its body is in the log once\n", poisonedParcel, maxTries+1)
		return d.command(ctx, "message", "query", "parcels", "--key", poisonedParcel)
	}, first, second)
}

func (d *demo) sendParcels(ctx context.Context) error {
	c, err := d.client("packer")
	if err != nil {
		return err
	}
	defer c.close()
	for n := 1; n <= 3; n++ {
		for _, customer := range []string{"alice", "bob", "carol"} {
			parcel := fmt.Sprintf("%s-%d", customer, n)
			body := "parcel " + parcel
			if parcel == poisonedParcel {
				body = parcelText
			}
			_, err := c.send(ctx, &rocketmqv2.Message{
				Topic: c.resource("parcels"), Body: []byte(body),
				SystemProperties: &rocketmqv2.SystemProperties{Keys: []string{parcel}, MessageGroup: &customer, MessageType: rocketmqv2.MessageType_FIFO},
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}
