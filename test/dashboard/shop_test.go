package dashboard

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// server is a gantry process.
type server struct{ binary, addr, web string }

// startServer builds gantry and runs it on a directory of its own until the test is
// over.
func startServer(t *testing.T, flags ...string) server {
	t.Helper()
	dir := t.TempDir()
	binary := filepath.Join(dir, "gantry")
	build := exec.Command("go", "build", "-o", binary, "./cmd/gantry")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	// The data directory is part of what the screenshots show.
	data, err := os.MkdirTemp("", "shop-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	cmd := exec.Command(binary, "serve", "--data", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--segment-size", "16MiB", "--log-level", "warn")
	cmd.Args = append(cmd.Args, flags...)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("gantry serve: %v", err)
		}
	})
	s := server{binary: binary}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		switch f := strings.Fields(lines.Text()); {
		case len(f) == 2 && f[0] == "clients":
			s.addr = f[1]
		case len(f) == 2 && f[0] == "http":
			s.web = f[1]
		case strings.Contains(lines.Text(), " receive hello"):
			go io.Copy(io.Discard, out)
			return s
		}
	}
	t.Fatal("the server did not greet")
	return s
}

// hostile is text that would run if a page took it for HTML.
const hostile = `<img src=x onerror="window.owned=true"><script>window.owned=true</script>`

// shop is traffic with everything in it that a page shows: it goes on until the test
// is over.
type shop struct {
	t       *testing.T
	ctx     context.Context
	client  *client.Client
	running sync.WaitGroup

	blockedID, hostileID, timerID string
}

func openShop(t *testing.T, s server) *shop {
	t.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	admin := gantryv1.NewManagementClient(conn)
	ctx, cancel := context.WithCancel(context.Background())
	for name, kind := range map[string]gantryv1.TopicType{
		"orders": gantryv1.TopicType_NORMAL, "shipments": gantryv1.TopicType_FIFO, "reminders": gantryv1.TopicType_DELAY,
		"payments": gantryv1.TopicType_TRANSACTION, "audit": gantryv1.TopicType_NORMAL,
	} {
		if _, err := admin.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: name, Type: kind, Queues: 4}); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range []*gantryv1.CreateGroupRequest{
		{Name: "warehouse", Fifo: true, Retry: steps(time.Hour)},
		{Name: "mailer", MaxAttempts: 2, Retry: steps(time.Second)},
		{Name: "billing"}, {Name: "analytics"}, {Name: "slow-report"}, {Name: "fulfilment"},
	} {
		if _, err := admin.CreateGroup(ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	c, err := client.Dial(ctx, []string{s.addr}, client.Options{ID: "shop-7f@4711", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	p := &shop{t: t, ctx: ctx, client: c}
	t.Cleanup(func() {
		cancel()
		p.running.Wait()
		stop, done := context.WithTimeout(context.Background(), 20*time.Second)
		defer done()
		c.Close(stop) // what is held stays held: that is the point of some consumers
	})
	p.consume("billing", "orders", "", func(context.Context, *client.Delivery) error { return nil })
	p.consume("analytics", "orders", "region = 'EU'", func(context.Context, *client.Delivery) error { return nil })
	p.consume("mailer", "orders", "spam = TRUE", func(context.Context, *client.Delivery) error { return errors.New("the address bounced") })
	p.consume("warehouse", "shipments", "", func(ctx context.Context, d *client.Delivery) error {
		if d.Group() == "customer-3" {
			return errors.New("out of stock")
		}
		return nil
	})
	p.hold()
	p.place()
	p.steady()
	p.official(s.addr)
	return p
}

func steps(d ...time.Duration) *gantryv1.CreateGroupRequest_Steps {
	list := &gantryv1.RetrySteps{}
	for _, d := range d {
		list.Steps = append(list.Steps, durationpb.New(d))
	}
	return &gantryv1.CreateGroupRequest_Steps{Steps: list}
}

func (p *shop) consume(group, topic, sql string, handle func(context.Context, *client.Delivery) error) {
	p.t.Helper()
	co, err := p.client.NewConsumer(client.ConsumerOptions{Group: group, Topic: topic, SQL: sql})
	if err != nil {
		p.t.Fatal(err)
	}
	p.running.Go(func() { co.Run(p.ctx, handle, client.RunOptions{}) })
}

// hold takes messages and keeps them, as a slow consumer does.
func (p *shop) hold() {
	p.t.Helper()
	co, err := p.client.NewConsumer(client.ConsumerOptions{Group: "slow-report", Topic: "orders", Prefetch: 24})
	if err != nil {
		p.t.Fatal(err)
	}
	p.running.Go(func() {
		for range 12 {
			if _, err := co.Receive(p.ctx); err != nil {
				return
			}
		}
		<-p.ctx.Done()
	})
}

// place sends the messages that pages show one by one.
func (p *shop) place() {
	p.t.Helper()
	send := func(m *client.Message) string {
		p.t.Helper()
		pr, err := p.client.NewProducer(client.ProducerOptions{Topic: m.Topic})
		if err != nil {
			p.t.Fatal(err)
		}
		defer pr.Close(p.ctx)
		r, err := pr.Send(p.ctx, m)
		if err != nil {
			p.t.Fatal(err)
		}
		return r.MessageID()
	}
	for i := range 24 {
		id := send(&client.Message{
			Topic: "shipments", Group: fmt.Sprint("customer-", i%6), Keys: []string{fmt.Sprint("parcel-", 1000+i)},
			Body: fmt.Appendf(nil, `{"parcel":%d,"customer":"customer-%d","weight":%.1f}`, 1000+i, i%6, float64(i)/4+0.3),
		})
		if p.blockedID == "" && i%6 == 3 {
			p.blockedID = id
		}
	}
	for i := range 9 {
		p.timerID = send(&client.Message{
			Topic: "reminders", Keys: []string{fmt.Sprint("invoice-", 500+i)}, Tag: "invoice",
			Body: []byte(`{"remind":"your invoice is due"}`), DeliverAt: time.Now().Add(time.Duration(i+1) * 7 * time.Hour),
		})
	}
	p.hostileID = send(&client.Message{
		Topic: "audit", Tag: "<b>tag</b>", Keys: []string{"key-" + hostile}, Body: []byte(hostile), Properties: map[string]string{"note": hostile},
	})
	for i := range 5 {
		send(&client.Message{Topic: "orders", Keys: []string{fmt.Sprint("order-", 90+i)}, Properties: map[string]string{"region": "US", "spam": "TRUE"},
			Body: fmt.Appendf(nil, `{"order":%d,"mail":"nobody@invalid"}`, 90+i)})
	}
	pay, err := p.client.NewProducer(client.ProducerOptions{Topic: "payments"})
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range 4 {
		if _, err := pay.Begin(p.ctx, &client.Message{Keys: []string{fmt.Sprint("payment-", i)}, Body: fmt.Appendf(nil, `{"amount":%d}`, 40*i+25)}, time.Hour); err != nil {
			p.t.Fatal(err)
		}
	}
	// A client that is refused something, for the page that says so.
	lost, err := p.client.NewProducer(client.ProducerOptions{Topic: "no-such-topic"})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := lost.Send(p.ctx, &client.Message{Body: []byte("x")}); err == nil {
		p.t.Fatal("a topic that does not exist took a message")
	}
}

// steady sends some hundred orders a second, more and less.
func (p *shop) steady() {
	p.t.Helper()
	pr, err := p.client.NewProducer(client.ProducerOptions{Topic: "orders"})
	if err != nil {
		p.t.Fatal(err)
	}
	p.running.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; {
			select {
			case <-p.ctx.Done():
				return
			case <-tick.C:
			}
			for range 8 + (n/400)%3*9 {
				n++
				region := []string{"EU", "US", "APAC"}[n%3]
				pr.Publish(p.ctx, &client.Message{
					Tag: "placed", Keys: []string{fmt.Sprint("order-", 10000+n)}, Properties: map[string]string{"region": region, "price": fmt.Sprint(n % 97)},
					Body: fmt.Appendf(nil, `{"order":%d,"region":%q,"price":%d,"items":[{"sku":"A-%d","n":%d}]}`, 10000+n, region, n%97, n%13, n%4+1),
				}, func(client.Result, error) {})
			}
		}
	})
}

// official consumes and produces with the official client for Go.
func (p *shop) official(addr string) {
	p.t.Helper()
	os.Setenv("rocketmq.client.logRoot", p.t.TempDir())
	os.Setenv("rocketmq.client.logLevel", "error")
	rmq.ResetLogger()
	config := &rmq.Config{Endpoint: addr, ConsumerGroup: "fulfilment", Credentials: &credentials.SessionCredentials{}}
	co, err := rmq.NewPushConsumer(config,
		rmq.WithPushSubscriptionExpressions(map[string]*rmq.FilterExpression{"orders": rmq.NewFilterExpressionWithType("price > 80", rmq.SQL92)}),
		rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: func(*rmq.MessageView) rmq.ConsumerResult { return rmq.SUCCESS }}))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := co.Start(); err != nil {
		p.t.Fatal(err)
	}
	pr, err := rmq.NewProducer(&rmq.Config{Endpoint: addr, Credentials: &credentials.SessionCredentials{}}, rmq.WithTopics("audit"))
	if err != nil {
		p.t.Fatal(err)
	}
	if err := pr.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { co.GracefulStop(); pr.GracefulStop() })
	if _, err := pr.Send(p.ctx, &rmq.Message{Topic: "audit", Body: []byte("logged in")}); err != nil {
		p.t.Fatal(err)
	}
}
