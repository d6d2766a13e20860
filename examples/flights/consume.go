package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

const (
	batch    = 32    // what one receive asks for
	notFound = 40401 // the status of an empty receive
)

// A group is a consumer group with one tag filter, and what its consumers have seen.
type group struct {
	name, filter string
	flights      map[string]*flight // by row: what the filter lets through
	outage       *outage
	invisible    time.Duration // how long a received message is ours

	mu        sync.Mutex
	copies    map[copyID]*delivery
	messages  map[string]*delivery // by message id: the first copy seen
	again     int                  // deliveries after a copy's first
	faults    []string             // what must not happen
	lastAt    time.Time            // of the last first delivery
	lastEvent time.Time            // of the last delivery
}

// A copyID tells apart the copies of one message. The client repeats a send that had no answer in three seconds, with the same message id but
// a new born time; if the first one did arrive, there are two copies, and both are delivered.
type copyID struct {
	message string
	born    int64 // milliseconds
}

// A delivery is one copy of a message as its group saw it.
type delivery struct {
	flight  *flight
	attempt int32
	settled bool // acknowledged in time and without an outage between: it must not come again
}

func newGroup(name, filter string, o *options, flights []flight, down *outage) *group {
	g := &group{name: name, filter: filter, flights: map[string]*flight{}, outage: down, invisible: o.invisible, copies: map[copyID]*delivery{}, messages: map[string]*delivery{}}
	for i := range flights {
		if g.wants(flights[i].carrier) {
			g.flights[string(flights[i].row)] = &flights[i]
		}
	}
	return g
}

func (g *group) wants(carrier string) bool {
	for tag := range strings.SplitSeq(g.filter, "||") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == carrier {
			return true
		}
	}
	return false
}

// consume runs the group's consumers until ctx ends.
func (g *group) consume(ctx context.Context, o *options) error {
	var loops sync.WaitGroup
	defer loops.Wait()
	for range o.consumers {
		c, err := rmq.NewSimpleConsumer(o.config(g.name), rmq.WithSimpleAwaitDuration(5*time.Second),
			rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{o.topic: rmq.NewFilterExpression(g.filter)}))
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			return err
		}
		loops.Go(func() {
			var receivers sync.WaitGroup
			for range o.receivers {
				receivers.Go(func() {
					for ctx.Err() == nil {
						g.receive(ctx, c)
					}
				})
			}
			receivers.Wait()
			c.GracefulStop()
		})
	}
	return nil
}

// receive takes one batch and acknowledges its messages side by side.
func (g *group) receive(ctx context.Context, c rmq.SimpleConsumer) {
	asked := time.Now()
	views, err := c.Receive(ctx, batch, g.invisible)
	if err != nil {
		if status, ok := rmq.AsErrRpcStatus(err); !ok || status.GetCode() != notFound {
			pause(ctx, 100*time.Millisecond)
		}
		return
	}
	var acks sync.WaitGroup
	for _, mv := range views {
		d := g.seen(mv)
		acks.Go(func() {
			// Not ctx: what was received is acknowledged, also when the group is told to end.
			err := c.Ack(context.Background(), mv)
			if err == nil && time.Since(asked) < g.invisible && !g.outage.since(asked) {
				g.mu.Lock()
				d.settled = true
				g.mu.Unlock()
			}
		})
	}
	acks.Wait()
}

// seen notes a delivery and checks it against the file.
func (g *group) seen(mv *rmq.MessageView) *delivery {
	now := time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastEvent = now
	id := copyID{message: mv.GetMessageId(), born: mv.GetBornTimestamp().UnixMilli()}
	d := g.copies[id]
	if d != nil {
		g.again++
		if d.settled {
			g.fault("%s came again (attempt %d) after its acknowledgement", id.message, mv.GetDeliveryAttempt())
		}
		if mv.GetDeliveryAttempt() <= d.attempt {
			g.fault("%s came again with attempt %d after attempt %d", id.message, mv.GetDeliveryAttempt(), d.attempt)
		}
	} else {
		d = &delivery{flight: g.flights[string(mv.GetBody())]}
		g.copies[id] = d
		g.lastAt = now
		if g.messages[id.message] == nil {
			g.messages[id.message] = d
		}
	}
	d.attempt = mv.GetDeliveryAttempt()
	if d.flight == nil {
		g.fault("%s is no row for %q: %q", mv.GetMessageId(), g.filter, mv.GetBody())
	} else if !d.flight.equal(mv) {
		g.fault("%s differs from its row: %q tag %v keys %q properties %q", mv.GetMessageId(), mv.GetBody(), mv.GetTag(), mv.GetKeys(), mv.GetProperties())
	}
	return d
}

func (g *group) fault(format string, args ...any) {
	g.faults = append(g.faults, fmt.Sprintf(format, args...))
}

// distinct is how many different messages the group has seen, and how long ago the last delivery was.
func (g *group) distinct() (int, time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.messages), time.Since(g.lastEvent)
}

// check compares what the group saw with what was sent, and returns how many copies there are beyond one of each message: sends that were
// repeated, by the client or by this program, because their first answer was lost or late.
func (g *group) check(flights []flight, s *sent) (extra int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	told := 0
	for i, id := range s.ids {
		if !g.wants(flights[i].carrier) {
			continue
		}
		told++
		switch d := g.messages[id]; {
		case d == nil:
			g.fault("%s (row %d) was acknowledged and never delivered", id, i+1)
		case d.flight != &flights[i]:
			g.fault("%s was delivered as another row than %d", id, i+1)
		}
	}
	if untold := len(g.messages) - told; int64(untold) > s.repeated.Load() {
		g.fault("%d message ids that no send returned, but only %d sends were repeated", untold, s.repeated.Load())
	}
	return len(g.copies) - told
}
