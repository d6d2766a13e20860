package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// An answer is how many flights match a filter, as SQLite says: see answers.py.
type answer struct {
	Filter string
	Count  int
}

func readAnswers(file string) (answers []answer, err error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &answers)
	}
	return answers, err
}

// An asker is a consumer group with an SQL filter, and the rows it got.
type asker struct {
	answer
	name    string
	flights map[string]*flight

	mu     sync.Mutex
	rows   map[string]bool
	faults []string
	failed error // the last receive that did
}

// ask has a group of its own consume the topic through each filter, and compares how many flights it gets with SQLite's answer.
func ask(ctx context.Context, o *options, flights []flight, answers []answer) error {
	byRow := make(map[string]*flight, len(flights))
	for i := range flights {
		byRow[string(flights[i].row)] = &flights[i]
	}
	begun := time.Now()
	askers := make([]*asker, len(answers))
	errs := make([]error, len(answers))
	slots := make(chan bool, o.askers)
	var all sync.WaitGroup
	for i, a := range answers {
		askers[i] = &asker{answer: a, name: fmt.Sprintf("sql-%02d", i+1), flights: byRow, rows: map[string]bool{}}
		slots <- true
		all.Go(func() {
			errs[i] = askers[i].consume(ctx, o)
			<-slots
		})
	}
	all.Wait()
	total := 0
	for i, a := range askers {
		mark := "  "
		if len(a.rows) != a.Count {
			mark = "!!"
			a.faults = append(a.faults, fmt.Sprintf("%d flights came, SQLite counts %d", len(a.rows), a.Count))
		}
		for _, f := range a.faults[:min(len(a.faults), 10)] {
			errs[i] = errors.Join(errs[i], errors.New(f))
		}
		if errs[i] != nil {
			errs[i] = fmt.Errorf("%s %s: %w", a.name, a.Filter, errs[i])
		}
		total += len(a.rows)
		fmt.Printf("%s%8d  %s\n", mark, len(a.rows), a.Filter)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%d SQL filters let %d flights through in %.0f s, each as many as SQLite counts\n", len(askers), total, time.Since(begun).Seconds())
	return nil
}

// consume takes and acknowledges messages until the group has nothing left.
func (a *asker) consume(ctx context.Context, o *options) error {
	filter := rmq.NewFilterExpressionWithType(a.Filter, rmq.SQL92)
	c, err := rmq.NewSimpleConsumer(o.config(a.name), rmq.WithSimpleAwaitDuration(5*time.Second),
		rmq.WithSimpleSubscriptionExpressions(map[string]*rmq.FilterExpression{o.topic: filter}))
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		return err
	}
	defer c.GracefulStop()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var receivers sync.WaitGroup
	for range o.receivers {
		receivers.Go(func() {
			for ctx.Err() == nil {
				a.receive(ctx, c, o.invisible)
			}
		})
	}
	for err == nil {
		var done bool
		if done, err = a.done(ctx, o); done {
			break
		}
		pause(ctx, 500*time.Millisecond)
	}
	stop()
	receivers.Wait()
	if err != nil && a.failed != nil {
		err = fmt.Errorf("%w; the last receive that failed: %w", err, a.failed)
	}
	return err
}

func (a *asker) receive(ctx context.Context, c rmq.SimpleConsumer, invisible time.Duration) {
	views, err := c.Receive(ctx, batch, invisible)
	if err != nil {
		if status, ok := rmq.AsErrRpcStatus(err); ctx.Err() == nil && (!ok || status.GetCode() != notFound) {
			a.mu.Lock()
			a.failed = err
			a.mu.Unlock()
			pause(ctx, 100*time.Millisecond)
		}
		return
	}
	var acks sync.WaitGroup
	for _, mv := range views {
		a.seen(mv)
		acks.Go(func() { c.Ack(context.Background(), mv) }) // if it is lost, the message comes again
	}
	acks.Wait()
}

func (a *asker) seen(mv *rmq.MessageView) {
	a.mu.Lock()
	defer a.mu.Unlock()
	row := string(mv.GetBody())
	a.rows[row] = true // and not how many came: a send or an acknowledgement may have been repeated
	if f := a.flights[row]; f == nil || !f.equal(mv) {
		a.faults = append(a.faults, fmt.Sprintf("%s is no row of the file: %q", mv.GetMessageId(), row))
	}
}

// done says whether the group has been through the whole topic and acknowledged everything, as the broker knows it.
func (a *asker) done(ctx context.Context, o *options) (bool, error) {
	out, err := exec.CommandContext(ctx, o.gantry, "group", "describe", a.name, "--server", o.server, "--json").Output()
	if err != nil {
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return false, err
	}
	var group struct {
		Topics []struct {
			Name   string
			Lag    int64
			Queues []struct {
				InFlight int64 `json:"in_flight"`
				Ready    int64
			}
		}
	}
	if err := json.Unmarshal(out, &group); err != nil {
		return false, err
	}
	for _, t := range group.Topics {
		if t.Name != o.topic {
			continue
		}
		left := t.Lag
		for _, q := range t.Queues {
			left += q.InFlight + q.Ready
		}
		return left == 0 && len(t.Queues) == topicQueues, nil
	}
	return false, nil // it has not begun
}
