package client_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/brokertest"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

var compressions = []client.Compression{client.Zstd, client.LZ4, client.S2}

func TestACompressedMessageArrivesAsItWas(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("t", gantryv1.TopicType_MIXED, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx := deadline(t)
	text := strings.Repeat(`{"order":17,"status":"paid"},`, 100)
	random := make([]byte, 1000)
	rand.NewChaCha8([32]byte{1}).Read(random)
	type sent struct{ body, stored, how string }
	var want []sent
	for _, how := range compressions {
		p := producer(t, c, client.ProducerOptions{Topic: "t", Compression: how, CompressFrom: 100})
		for _, body := range []string{text, text[:99], string(random)} {
			if _, err := p.Send(ctx, &client.Message{Body: []byte(body), Tag: "A", Properties: map[string]string{"n": "1"}}); err != nil {
				t.Fatal(err)
			}
			w := sent{body: body}
			if body == text {
				w.how = how.String()
			}
			want = append(want, w)
		}
		tx, err := p.Begin(ctx, &client.Message{Body: []byte("committed: " + text), Tag: "A", Properties: map[string]string{"n": "1"}}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
		want = append(want, sent{body: "committed: " + text, how: how.String()})
		_, err = p.Send(ctx, &client.Message{Body: []byte("delayed: " + text), Tag: "A", Properties: map[string]string{"n": "1"}, DeliverAt: time.Now().Add(time.Millisecond)})
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, sent{body: "delayed: " + text, how: how.String()})
	}
	left := map[string]int{}
	for _, w := range want {
		left[w.how+" "+w.body]++
	}
	check := func(body []byte, how string, stored []byte, err error) {
		t.Helper()
		if err != nil || how != "" == bytes.Equal(stored, body) {
			t.Errorf("%q: %d bytes are stored as %d, %v", how, len(body), len(stored), err)
		}
		left[how+" "+string(body)]--
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "g", Topic: "t", SQL: "n = 1 AND TAGS = 'A'"})
	if err != nil {
		t.Fatal(err)
	}
	for range want {
		d, err := co.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		check(d.Body(), d.Compression(), d.StoredBody(), d.BodyErr())
		if err := d.Ack(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for k, n := range left {
		if n != 0 {
			t.Errorf("%d times too few: %.40q", n, k)
		}
	}
}

// A body that does not decompress is a dead letter, without a call of its handler, and an
// operator is told.
func TestABodyThatDoesNotDecompressIsADeadLetter(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	s.CreateTopic("t", gantryv1.TopicType_NORMAL, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	w.Write(make([]byte, record.MaxBody+1))
	w.Close()
	msgs := []broker.Outgoing{
		{ID: "bomb", Body: zipped.Bytes(), Packing: record.FlagGzip},
		{ID: "none", Body: []byte("not zstd"), Packing: record.FlagZstd},
		{ID: "good", Body: []byte("good")},
	}
	for i := range msgs {
		msgs[i].Topic = record.Resource{Name: "t"}
	}
	if _, err := s.Broker().Send(ctx, msgs); err != nil {
		t.Fatal(err)
	}
	co, err := c.NewConsumer(client.ConsumerOptions{Group: "g", Topic: "t"})
	if err != nil {
		t.Fatal(err)
	}
	err = co.Run(ctx, func(_ context.Context, d *client.Delivery) error {
		if d.ID() != "good" || d.BodyErr() != nil {
			t.Errorf("called with %q, %v", d.ID(), d.BodyErr())
		}
		cancel()
		return nil
	}, client.RunOptions{Concurrency: 1, Ordered: true})
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.NewReader(client.ReaderOptions{Topic: "%DLQ%g", Start: client.Earliest})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		m, err := r.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		if m.Body() != nil || m.BodyErr() == nil || len(m.StoredBody()) == 0 {
			t.Errorf("%s: %d bytes, %v", m.ID(), len(m.Body()), m.BodyErr())
		}
	}
	conn, err := grpc.NewClient(s.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	dead, err := gantryv1.NewDeadLettersClient(conn).Show(deadline(t), &gantryv1.ShowDeadLetterRequest{Group: "g", Offset: 1})
	if err != nil || dead.Compression != "zstd" || dead.Unreadable == "" || string(dead.Body) != "not zstd" {
		t.Errorf("%v, %v", dead, err)
	}
}

func TestTheCheckOfATransactionReadsACompressedBody(t *testing.T) {
	s := brokertest.Start(t, broker.Options{TransactionCheckAfter: time.Second, TransactionCheckEvery: time.Second})
	s.CreateTopic("t", gantryv1.TopicType_TRANSACTION, 1)
	c := dial(t, s.Addr, client.Options{})
	ctx := deadline(t)
	text := strings.Repeat("text ", 1000)
	p := producer(t, c, client.ProducerOptions{Topic: "t", Compression: client.Zstd, Check: func(_ context.Context, m *client.Open) client.Decision {
		if string(m.Body()) != text || m.Compression() != "zstd" {
			t.Errorf("asked about %d bytes, %q", len(m.Body()), m.Compression())
		}
		return client.Commit
	}})
	if _, err := p.Begin(ctx, &client.Message{Body: []byte(text)}, time.Second); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, "t", 1)[0]; got[0] != text {
		t.Errorf("%d bytes", len(got[0]))
	}
}
