// Command client drives the official RocketMQ Go client for the interop suite. It plays the roles of a spec file (see ../../README.md) and
// writes what happened to standard output, one JSON object per line. Consumers run until standard input ends.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
)

type spec struct {
	Endpoint string `json:"endpoint"`
	Roles    []role `json:"roles"`
}

type role struct {
	Name       string              `json:"name"`
	Kind       string              `json:"kind"`
	Topic      string              `json:"topic"`
	Group      string              `json:"group"`
	Filter     string              `json:"filter"`
	SQL        bool                `json:"sql"`
	Fail       map[string]int      `json:"fail"`
	Plan       map[string][]string `json:"plan"`
	InvisibleS int                 `json:"invisible_s"`
	IntervalMS int                 `json:"interval_ms"`
	Retry      bool                `json:"retry"`
	Stay       bool                `json:"stay"`
	Lites      []string            `json:"lites"`
	User       string              `json:"user"`
	Secret     string              `json:"secret"`
	Namespace  string              `json:"namespace"`
	Messages   []message           `json:"messages"`
}

type message struct {
	Body       string            `json:"body"`
	BodyFile   string            `json:"body_file"`
	Tag        string            `json:"tag"`
	Keys       []string          `json:"keys"`
	Properties map[string]string `json:"properties"`
	Group      string            `json:"group"`
	DelayS     int               `json:"delay_s"`
	Lite       string            `json:"lite"`
	Priority   int32             `json:"priority"`
	Recall     int               `json:"recall"`
	Tx         string            `json:"transaction"` // "commit", "rollback", or "leave" it to the checker
}

type event map[string]any

var out sync.Mutex

func (r *role) emit(kind string, e event) {
	if e == nil {
		e = event{}
	}
	e["role"], e["event"], e["at_ms"] = r.Name, kind, time.Now().UnixMilli()
	line, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	out.Lock()
	defer out.Unlock()
	os.Stdout.Write(append(line, '\n'))
}

func (r *role) fail(op string, err error) { r.emit("error", event{"op": op, "message": err.Error()}) }

func (r *role) config(endpoint string) *rmq.Config {
	return &rmq.Config{
		Endpoint: endpoint, NameSpace: r.Namespace, ConsumerGroup: r.Group,
		Credentials: &credentials.SessionCredentials{AccessKey: r.User, AccessSecret: r.Secret},
	}
}

func (r *role) subscription() map[string]*rmq.FilterExpression {
	filter := rmq.NewFilterExpression(r.Filter)
	if r.SQL {
		filter = rmq.NewFilterExpressionWithType(r.Filter, rmq.SQL92)
	}
	return map[string]*rmq.FilterExpression{r.Topic: filter}
}

// deliveries counts how often this process has seen each message: a client that retries by itself does not raise the attempt.
type deliveries struct {
	sync.Mutex
	seen map[string]int
}

func (d *deliveries) next(id string) int {
	d.Lock()
	defer d.Unlock()
	d.seen[id]++
	return d.seen[id]
}

func (r *role) delivered(mv *rmq.MessageView, nth int, action string) {
	sum := sha256.Sum256(mv.GetBody())
	r.emit("message", event{
		"id": mv.GetMessageId(), "size": len(mv.GetBody()), "sha256": hex.EncodeToString(sum[:]), "tag": mv.GetTag(), "keys": mv.GetKeys(),
		"properties": mv.GetProperties(), "group": mv.GetMessageGroup(), "lite": mv.GetLiteTopic(), "attempt": mv.GetDeliveryAttempt(), "delivery": nth, "action": action,
	})
}

func (r *role) produce(endpoint string, stop <-chan struct{}) {
	options := []rmq.ProducerOption{rmq.WithTopics(r.Topic)}
	if len(r.Messages) > 0 && r.Messages[0].Tx != "" {
		options = append(options, rmq.WithTransactionChecker(&rmq.TransactionChecker{Check: r.check}))
	}
	p, err := rmq.NewProducer(r.config(endpoint), options...)
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		r.fail("start", err)
		return
	}
	r.emit("started", nil)
	for i, m := range r.Messages {
		for {
			id, handle, err := r.send(p, m)
			if err == nil {
				r.emit("sent", event{"index": i, "id": id})
				r.recall(p, i, m, handle)
				break
			}
			r.emit("error", event{"op": "send", "index": i, "message": err.Error()})
			if !r.Retry {
				break
			}
			time.Sleep(200 * time.Millisecond)
		}
		time.Sleep(time.Duration(r.IntervalMS) * time.Millisecond)
	}
	if r.Stay {
		r.emit("done", nil)
		<-stop
	}
	if err := p.GracefulStop(); err != nil {
		r.fail("stop", err)
	}
	r.emit("closed", nil)
}

// check resolves a transaction that was left open, as the message's property "resolve" says.
func (r *role) check(mv *rmq.MessageView) rmq.TransactionResolution {
	r.delivered(mv, 1, "check")
	if mv.GetProperties()["resolve"] == "commit" {
		return rmq.COMMIT
	}
	return rmq.ROLLBACK
}

// recall takes a message back as often as its spec says.
func (r *role) recall(p rmq.Producer, index int, m message, handle string) {
	for range m.Recall {
		id, err := p.Recall(context.Background(), r.Topic, handle)
		if err != nil {
			r.emit("error", event{"op": "recall", "index": index, "message": err.Error()})
			continue
		}
		r.emit("recalled", event{"index": index, "id": id})
	}
}

func (r *role) send(p rmq.Producer, m message) (id, handle string, err error) {
	body := []byte(m.Body)
	if m.BodyFile != "" {
		if body, err = os.ReadFile(m.BodyFile); err != nil {
			return "", "", err
		}
	}
	msg := &rmq.Message{Topic: r.Topic, Body: body}
	if m.Tag != "" {
		msg.SetTag(m.Tag)
	}
	if m.Group != "" {
		msg.SetMessageGroup(m.Group)
	}
	msg.SetKeys(m.Keys...)
	for k, v := range m.Properties {
		msg.AddProperty(k, v)
	}
	if m.DelayS != 0 {
		msg.SetDelayTimestamp(time.Now().Add(time.Duration(m.DelayS) * time.Second))
	}
	if m.Lite != "" {
		msg.SetLiteTopic(m.Lite)
	}
	if m.Priority != 0 {
		if err := msg.SetPriority(m.Priority); err != nil {
			return "", "", err
		}
	}
	if m.Tx != "" {
		id, err = sendInTransaction(p, msg, m.Tx)
		return id, "", err
	}
	receipts, err := p.Send(context.Background(), msg)
	if err != nil {
		return "", "", err
	}
	return receipts[0].MessageID, receipts[0].RecallHandle, nil
}

func sendInTransaction(p rmq.Producer, msg *rmq.Message, end string) (string, error) {
	tx := p.BeginTransaction()
	receipts, err := p.SendWithTransaction(context.Background(), msg, tx)
	if err != nil {
		return "", err
	}
	switch end {
	case "commit":
		err = tx.Commit()
	case "rollback":
		err = tx.RollBack()
	}
	return receipts[0].MessageID, err
}

func (r *role) push(endpoint string, stop <-chan struct{}) {
	d := deliveries{seen: map[string]int{}}
	listener := &rmq.FuncMessageListener{Consume: func(mv *rmq.MessageView) rmq.ConsumerResult {
		nth := d.next(mv.GetMessageId())
		if nth <= r.Fail[mv.GetProperties()["case"]] {
			r.delivered(mv, nth, "fail")
			return rmq.FAILURE
		}
		r.delivered(mv, nth, "ok")
		return rmq.SUCCESS
	}}
	var c rmq.PushConsumer
	var lite rmq.LitePushConsumer
	var err error
	if r.Kind == "lite" {
		lite, err = rmq.NewLitePushConsumer(r.config(endpoint), rmq.NewLitePushConsumerConfig(r.Topic, 30*time.Second), rmq.WithPushMessageListener(listener))
		c = lite
	} else {
		c, err = rmq.NewPushConsumer(r.config(endpoint), rmq.WithPushSubscriptionExpressions(r.subscription()), rmq.WithPushMessageListener(listener))
	}
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		r.fail("start", err)
		return
	}
	for _, name := range r.Lites {
		if err := lite.SubscribeLite(name); err != nil {
			r.fail("subscribe", err)
		}
	}
	r.emit("started", nil)
	<-stop
	if err := c.GracefulStop(); err != nil {
		r.fail("stop", err)
	}
	r.emit("closed", nil)
}

func (r *role) simple(endpoint string, stop <-chan struct{}) {
	// The client's own await duration is zero, which leaves a poll three seconds to end in; its examples all set five.
	c, err := rmq.NewSimpleConsumer(r.config(endpoint), rmq.WithSimpleAwaitDuration(5*time.Second), rmq.WithSimpleSubscriptionExpressions(r.subscription()))
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		r.fail("start", err)
		return
	}
	r.emit("started", nil)
	d := deliveries{seen: map[string]int{}}
	for running := true; running; {
		r.poll(c, &d)
		select {
		case <-stop:
			running = false
		default:
		}
	}
	if err := c.GracefulStop(); err != nil {
		r.fail("stop", err)
	}
	r.emit("closed", nil)
}

func (r *role) poll(c rmq.SimpleConsumer, d *deliveries) {
	views, err := c.Receive(context.Background(), 16, time.Duration(r.InvisibleS)*time.Second)
	if err != nil {
		if status, ok := rmq.AsErrRpcStatus(err); ok && status.GetCode() == 40401 { // MESSAGE_NOT_FOUND: an empty poll
			return
		}
		r.fail("receive", err)
		time.Sleep(200 * time.Millisecond)
		return
	}
	for _, mv := range views {
		nth := d.next(mv.GetMessageId())
		action := "ack"
		if plan := r.Plan[mv.GetProperties()["case"]]; nth <= len(plan) {
			action = plan[nth-1]
		}
		r.delivered(mv, nth, action)
		if err := act(c, mv, action); err != nil {
			r.fail(action, err)
		}
	}
}

// act does "ack", "leave", "change:SECONDS" or "change:SECONDS+ack" (which acks with the handle that the change returned).
func act(c rmq.SimpleConsumer, mv *rmq.MessageView, action string) error {
	change, ack := strings.CutSuffix(action, "+ack")
	if s, ok := strings.CutPrefix(change, "change:"); ok {
		n, err := strconv.Atoi(s)
		if err != nil {
			return err
		}
		if err := c.ChangeInvisibleDuration(mv, time.Duration(n)*time.Second); err != nil {
			return err
		}
	}
	if ack || action == "ack" {
		return c.Ack(context.Background(), mv)
	}
	return nil
}

func main() {
	data, err := os.ReadFile(os.Args[1])
	var s spec
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(stop)
	}()
	var roles sync.WaitGroup
	for i := range s.Roles {
		r := &s.Roles[i]
		roles.Go(func() {
			switch r.Kind {
			case "produce":
				r.produce(s.Endpoint, stop)
			case "push", "lite":
				r.push(s.Endpoint, stop)
			case "simple":
				r.simple(s.Endpoint, stop)
			}
		})
	}
	roles.Wait()
	// A failed start leaves goroutines of the client behind; they must not keep the process.
	os.Exit(0)
}
