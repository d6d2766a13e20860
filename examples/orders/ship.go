package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const (
	attempts = 3               // as run.sh gives the group warehouse
	poisoned = "customer-2 #1" // the parcel that fails
	perHead  = 4               // parcels of each customer
)

// A warehouse handles each customer's parcels in their order, and cannot handle one of them until it is repaired.
type warehouse struct {
	done     journal // in the order of success
	tries    journal // of the poisoned parcel
	repaired atomic.Bool
}

func (w *warehouse) handle(mv *rmq.MessageView) bool {
	parcel := string(mv.GetBody())
	if group := mv.GetMessageGroup(); group == nil || !strings.HasPrefix(parcel, *group+" ") {
		w.done.fault("%s came without its message group", parcel)
	}
	if parcel == poisoned && !w.repaired.Load() {
		w.tries.add(fmt.Sprintf("attempt %d", mv.GetDeliveryAttempt()))
		return false
	}
	w.done.add(parcel)
	return true
}

// send sends all parcels, the customers in turn.
func (w *warehouse) send(ctx context.Context, c *clients) (parcels []string, err error) {
	p, err := c.produce(rmq.WithTopics("parcels"))
	if err != nil {
		return nil, err
	}
	for n := range perHead {
		for i := range customers {
			customer := fmt.Sprintf("customer-%d", i)
			parcel := fmt.Sprintf("%s #%d", customer, n)
			m := &rmq.Message{Topic: "parcels", Body: []byte(parcel)}
			m.SetMessageGroup(customer)
			m.SetKeys(parcel)
			if _, err := p.Send(ctx, m); err != nil {
				return nil, fmt.Errorf("%s: %w", parcel, err)
			}
			parcels = append(parcels, parcel)
		}
	}
	slices.Sort(parcels)
	return parcels, nil
}

// inOrder checks that each customer's parcels were done in their order, and that the other customers did not wait for the poisoned one:
// what its customer has behind it comes after all of theirs.
func (w *warehouse) inOrder() error {
	done, err := w.done.seen()
	if err != nil {
		return err
	}
	last := map[string]string{}
	customer, _, _ := strings.Cut(poisoned, " ")
	behind := "" // the first parcel behind the poisoned one
	for _, parcel := range done {
		c, _, _ := strings.Cut(parcel, " ")
		if parcel < last[c] {
			return fmt.Errorf("%s was done after %s", parcel, last[c])
		}
		last[c] = parcel
		switch {
		case c == customer && parcel > poisoned && behind == "":
			behind = parcel
		case c != customer && behind != "":
			return fmt.Errorf("%s was done after %s, so it waited for %s", parcel, behind, poisoned)
		}
	}
	return nil
}

// readDead reads and acknowledges the dead letters of the group warehouse, as a consumer of another group does, until there is one.
func readDead(ctx context.Context, all *clients) (*rmq.MessageView, error) {
	topic := "%DLQ%warehouse"
	c, err := rmq.NewSimpleConsumer(config("auditors"), rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{topic: rmq.SUB_ALL}))
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return nil, err
	}
	all.add(c)
	for {
		views, err := c.Receive(ctx, 16, 10*time.Second)
		switch {
		case len(views) > 1:
			return nil, fmt.Errorf("%d dead letters, want one", len(views))
		case len(views) == 1:
			return views[0], c.Ack(ctx, views[0])
		case !pause(ctx, 100*time.Millisecond):
			return nil, fmt.Errorf("no dead letter in %s: %w", topic, err)
		}
	}
}

// gantry runs a command of gantry's and decodes its JSON.
func gantry(ctx context.Context, into any, args ...string) error {
	out, err := exec.CommandContext(ctx, "gantry", append(args, "--json")...).Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return fmt.Errorf("gantry %s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, into)
}
