// Command orders takes orders through a gantry broker with the official RocketMQ client for Go: placed in transactions, cancelled by a delayed
// timeout unless they are paid, filtered by SQL for fulfilment, shipped in order for each customer, and with a dead letter that is repaired.
// Every step checks what it sees against what it must see. run.sh starts the broker and creates the topics and groups.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "orders:", err)
		os.Exit(1)
	}
}

func run() error {
	quiet, err := os.MkdirTemp("", "orders-log-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(quiet)
	os.Setenv("rocketmq.client.logRoot", quiet) // the client logs every failed call; keep that out of the home directory
	os.Setenv("rocketmq.client.logLevel", "error")
	rmq.ResetLogger()

	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	begun := time.Now()
	var c clients
	if err := buy(ctx, &c); err != nil {
		return err
	}
	if err := ship(ctx, &c); err != nil {
		return err
	}
	fmt.Printf("every count was as it must be, in %.0f s; stopping the clients\n", time.Since(begun).Seconds())
	return c.stop()
}

// buy places orders, and follows them until each is paid or cancelled.
func buy(ctx context.Context, c *clients) error {
	orders := newOrders(40)
	isValid := ids(orders, func(o *order) bool { return o.valid })
	isPaid := ids(orders, func(o *order) bool { return o.valid && o.paid })
	isUnpaid := ids(orders, func(o *order) bool { return o.valid && !o.paid })
	isUndecided := ids(orders, func(o *order) bool { return o.fate == leaves })

	t := &till{orders: map[string]*order{}, handles: map[string]string{}}
	for i := range orders {
		t.orders[orders[i].id] = &orders[i]
	}
	var err error
	if t.producer, err = c.produce(rmq.WithTopics("payment-timeouts")); err != nil {
		return err
	}
	if err := c.subscribe("checkout", "orders", rmq.SUB_ALL, t.arrive); err != nil {
		return err
	}
	if err := c.subscribe("cancellations", "payment-timeouts", rmq.SUB_ALL, t.expire); err != nil {
		return err
	}
	const want = "amount > 100 AND region = 'EU'"
	var europe journal
	err = c.subscribe("fulfilment-eu", "orders", rmq.NewFilterExpressionWithType(want, rmq.SQL92), func(mv *rmq.MessageView) bool {
		europe.add(string(mv.GetBody()))
		return true
	})
	if err != nil {
		return err
	}

	var s shop
	if err := s.open(c, orders); err != nil {
		return err
	}
	if err := s.place(ctx, orders); err != nil {
		return fmt.Errorf("place: %w", err)
	}
	if err := s.asked.settle(ctx, isUndecided, 0); err != nil {
		return fmt.Errorf("orders that the broker asked about: %w", err)
	}
	if err := decide(ctx); err != nil {
		return err
	}
	if err := t.open.settle(ctx, isValid, 0); err != nil {
		return fmt.Errorf("orders: %w", err)
	}
	fmt.Printf("transactions   %3d orders placed, %d rolled back by the shop, %d left undecided: the broker asked, and for one a person; %d of all are in\n", len(orders),
		len(ids(orders, func(o *order) bool { return o.fate == rollsBack })), len(isUndecided), len(isValid))

	isEurope := ids(orders, func(o *order) bool { return o.valid && o.amount > 100 && o.region == "EU" })
	if err := europe.settle(ctx, isEurope, 0); err != nil {
		return fmt.Errorf("fulfilment: %w", err)
	}
	fmt.Printf("SQL            %3d of %d are for %q\n", len(isEurope), len(isValid), want)

	if err := t.expired.settle(ctx, isUnpaid, payWithin); err != nil { // so long, a timeout that was recalled in vain would come
		return fmt.Errorf("timeouts: %w", err)
	}
	if err := t.paid.settle(ctx, isPaid, 0); err != nil {
		return fmt.Errorf("payments: %w", err)
	}
	if err := t.tooLate(ctx); err != nil {
		return err
	}
	fmt.Printf("delay, recall  %3d were paid, and their timeouts recalled; %d cancelled by a timeout after %v, none early, at most %v late\n",
		len(isPaid), len(isUnpaid), payWithin, t.lateness().Round(time.Millisecond))

	for name, j := range map[string]*journal{"orders": &t.open, "fulfilment": &europe} { // by now, nothing that was rolled back may be in
		if _, err := j.seen(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := europe.settle(ctx, isEurope, 0); err != nil {
		return fmt.Errorf("fulfilment: %w", err)
	}
	return t.open.settle(ctx, isValid, 0)
}

// ship ships parcels in order for each customer, one of which cannot be handled until it is repaired.
func ship(ctx context.Context, c *clients) error {
	var w warehouse
	if err := c.subscribe("warehouse", "parcels", rmq.SUB_ALL, w.handle); err != nil {
		return err
	}
	parcels, err := w.send(ctx, c)
	if err != nil {
		return err
	}
	healthy := slices.DeleteFunc(slices.Clone(parcels), func(p string) bool { return p == poisoned })
	if err := w.done.settle(ctx, healthy, 0); err != nil {
		return fmt.Errorf("parcels: %w", err)
	}
	if err := w.inOrder(); err != nil {
		return err
	}
	if err := w.tries.settle(ctx, []string{"attempt 1", "attempt 2", "attempt 3"}[:attempts], 0); err != nil {
		return fmt.Errorf("tries of %s: %w", poisoned, err)
	}
	fmt.Printf("FIFO           %3d of %d parcels shipped, in order for each of %d customers; %s failed %d times, nobody else waited for it\n",
		len(healthy), len(parcels), customers, poisoned, attempts)

	dead, err := readDead(ctx, c)
	if err != nil {
		return err
	}
	if string(dead.GetBody()) != poisoned || !slices.Equal(dead.GetKeys(), []string{poisoned}) {
		return fmt.Errorf("dead letter %q with keys %q, want %s", dead.GetBody(), dead.GetKeys(), poisoned)
	}
	var letters []struct {
		ID, Topic, Reason string
	}
	if err := gantry(ctx, &letters, "dlq", "list", "warehouse"); err != nil {
		return err
	}
	if len(letters) != 1 || letters[0].ID != dead.GetMessageId() || letters[0].Topic != "parcels" {
		return fmt.Errorf("dlq list: %+v, want %s of parcels", letters, dead.GetMessageId())
	}
	fmt.Printf("dead letter        %s, read from %s (%s)\n", poisoned, dead.GetTopic(), letters[0].Reason)

	w.repaired.Store(true)
	var redriven any
	if err := gantry(ctx, &redriven, "dlq", "redrive", "warehouse", "--all"); err != nil {
		return err
	}
	if err := w.done.settle(ctx, parcels, 0); err != nil {
		return fmt.Errorf("parcels after the repair: %w", err)
	}
	if err := gantry(ctx, &letters, "dlq", "list", "warehouse"); err != nil {
		return err
	}
	if len(letters) != 0 {
		return fmt.Errorf("dead letters are left: %+v", letters)
	}
	fmt.Printf("redrive            %s shipped after a repair: %d of %d\n", poisoned, len(parcels), len(parcels))
	return nil
}
