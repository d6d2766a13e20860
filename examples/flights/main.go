// Command flights sends the flights that left New York in 2013 through a gantry broker with the official RocketMQ client for Go, consumes
// them by carrier in several groups, and checks every byte and property of every message against the file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

// topicQueues is how many queues the topic of --gantry gets.
const topicQueues = 8

type options struct {
	server, file, topic, gantry, data        string
	answers                                  string
	askers                                   int
	limit                                    int
	sample, kill                             bool
	producers, senders, consumers, receivers int
	patience, invisible                      time.Duration
}

func (o *options) config(group string) *rmq.Config {
	return &rmq.Config{Endpoint: o.server, ConsumerGroup: group, Credentials: &credentials.SessionCredentials{}}
}

func main() {
	o := &options{}
	flag.StringVar(&o.server, "server", "127.0.0.1:8081", "the broker's address; with --gantry, port 0 picks a free one")
	flag.StringVar(&o.file, "file", "", "the flights, as fetch.sh fetches them")
	flag.BoolVar(&o.sample, "sample", false, "use the few hundred flights built into this program")
	flag.IntVar(&o.limit, "limit", 0, "send at most this many flights; 0 sends all")
	flag.StringVar(&o.topic, "topic", "flights", "the topic; without --gantry it must exist")
	flag.StringVar(&o.gantry, "gantry", "", "path of a gantry binary: run the broker here instead of using one that runs")
	flag.StringVar(&o.data, "data", "", "directory for the data of --gantry")
	flag.BoolVar(&o.kill, "kill", false, "kill the broker of --gantry with SIGKILL in the middle and start it again")
	flag.StringVar(&o.answers, "answers", "", "SQL filters and what SQLite says of them, as answers.py prints it: try them on the topic of --gantry")
	flag.IntVar(&o.askers, "askers", 8, "SQL filters tried at a time")
	flag.IntVar(&o.producers, "producers", 2, "producer clients")
	flag.IntVar(&o.senders, "senders", 96, "goroutines sending")
	flag.IntVar(&o.consumers, "consumers", 2, "consumer clients in each group")
	flag.IntVar(&o.receivers, "receivers", 4, "goroutines receiving in each consumer client")
	flag.DurationVar(&o.invisible, "invisible", 10*time.Second, "how long a received message stays with its consumer")
	flag.DurationVar(&o.patience, "patience", 15*time.Minute, "give up a part after this long")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "flights:", err)
		os.Exit(1)
	}
}

func run(o *options) error {
	quiet, err := os.MkdirTemp("", "flights-log-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(quiet)
	os.Setenv("rocketmq.client.logRoot", quiet) // the client logs every failed call; keep that out of the home directory
	os.Setenv("rocketmq.client.logLevel", "error")
	rmq.ResetLogger()

	switch {
	case o.sample == (o.file != ""):
		return errors.New("give --file or --sample")
	case o.kill && o.gantry == "", (o.gantry == "") != (o.data == ""):
		return errors.New("--kill needs --gantry, and --gantry needs --data")
	case o.answers != "" && o.gantry == "":
		return errors.New("--answers needs --gantry")
	case o.answers != "" && o.limit > 0:
		return errors.New("--answers is about all flights of the file, so not with --limit")
	}
	answers, err := readAnswers(o.answers)
	if err != nil {
		return err
	}
	flights, err := readFlights(o.file, o.limit)
	if err != nil {
		return err
	}
	b, err := o.broker()
	if err != nil {
		return err
	}
	if b != nil {
		defer b.kill()
	}
	fmt.Printf("%d flights, topic %q at %s\n", len(flights), o.topic, o.server)
	if err := o.within(func(ctx context.Context) error { return tour(ctx, o, b, flights) }); err != nil || len(answers) == 0 {
		return err
	}
	return o.within(func(ctx context.Context) error { return ask(ctx, o, flights, answers) })
}

// within gives one part of the program its time.
func (o *options) within(part func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), o.patience)
	defer cancel()
	return part(ctx)
}

// broker starts the server of --gantry and creates the topic there; without --gantry it returns nil.
func (o *options) broker() (*broker, error) {
	if o.gantry == "" {
		return nil, nil
	}
	var err error
	if strings.HasSuffix(o.server, ":0") {
		if o.server, err = freeAddress(); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return nil, err
	}
	b := &broker{path: o.gantry, data: o.data, listen: o.server}
	if b.http, err = freeAddress(); err != nil {
		return nil, err
	}
	if err := b.start(); err != nil {
		return nil, err
	}
	out, err := exec.Command(o.gantry, "topic", "create", o.topic, "--type", "normal", "--queues", strconv.Itoa(topicQueues), "--server", o.server).CombinedOutput()
	if err != nil {
		b.kill()
		return nil, fmt.Errorf("create the topic: %w\n%s", err, out)
	}
	return b, nil
}

// tour sends, consumes and checks, all at the same time, and tells what happened.
func tour(ctx context.Context, o *options, b *broker, flights []flight) error {
	down := &outage{}
	groups := []*group{
		newGroup("united", "UA", o, flights, down),
		newGroup("american-or-delta", "AA || DL", o, flights, down),
		newGroup("every-flight", "*", o, flights, down),
	}
	var s sent
	ctx, stop := context.WithCancelCause(ctx)
	var all sync.WaitGroup
	begun := time.Now()
	background := func(work func() error) {
		all.Go(func() {
			if err := work(); err != nil {
				stop(err)
			}
		})
	}
	for _, g := range groups {
		background(func() error { return g.consume(ctx, o) })
	}
	if o.kill {
		background(func() error {
			return b.killWhen(ctx, down, func() bool { return s.done.Load() > int64(len(flights)/2) })
		})
	}
	err := sendAll(ctx, o, flights, &s)
	if err == nil {
		fmt.Printf("sent      %8d messages in %6.1f s (%.0f/s), %d sends repeated\n", len(flights), s.took.Seconds(), float64(len(flights))/s.took.Seconds(), s.repeated.Load())
		err = settle(ctx, o.invisible, groups)
	}
	stop(nil)
	all.Wait()
	if err != nil {
		return fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
	for _, g := range groups {
		extra := g.check(flights, &s)
		fmt.Printf("%-18s %-8s %8d flights in %6.1f s (%.0f/s), %d redelivered, %d stored twice, %d faults\n", g.name, g.filter, len(g.flights),
			g.lastAt.Sub(begun).Seconds(), float64(len(g.copies))/g.lastAt.Sub(begun).Seconds(), g.again, extra, len(g.faults))
		for _, f := range g.faults[:min(len(g.faults), 10)] {
			err = errors.Join(err, fmt.Errorf("%s: %s", g.name, f))
		}
	}
	if err == nil {
		fmt.Println("every flight arrived in every group that asked for it, equal to the file in every byte and property")
	}
	return err
}

// settle waits until every group has all its flights, and then until whatever was not acknowledged must have come again.
func settle(ctx context.Context, invisible time.Duration, groups []*group) error {
	for _, g := range groups {
		for {
			n, idle := g.distinct()
			if n >= len(g.flights) && idle > invisible+2*time.Second {
				break
			}
			if pause(ctx, 100*time.Millisecond); ctx.Err() != nil {
				return fmt.Errorf("%s has %d of %d flights: %w", g.name, n, len(g.flights), ctx.Err())
			}
		}
	}
	return nil
}
