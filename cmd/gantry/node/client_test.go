package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/client"
	"github.com/gantry-mq/gantry/internal/sharding"
)

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func dialShard(t *testing.T, p *process, shard int) *client.Client {
	t.Helper()
	at, err := sharding.Address(p.at, shard)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.Dial(soon(t), []string{at}, client.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(soon(t)) })
	return c
}

func producerOf(t *testing.T, c *client.Client, opts client.ProducerOptions) *client.Producer {
	t.Helper()
	opts.Topic = "t"
	p, err := c.NewProducer(opts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func consumerOf(t *testing.T, c *client.Client, group, topic string) *client.Consumer {
	t.Helper()
	co, err := c.NewConsumer(client.ConsumerOptions{Group: group, Topic: topic})
	if err != nil {
		t.Fatal(err)
	}
	return co
}

// inAll makes a topic, and waits until all shards have it.
func inAll(t *testing.T, p *process, kind topic.Type) (leads []*broker.Broker) {
	t.Helper()
	for i := range p.leads {
		_, b := leader(t, []*process{p}, i)
		leads = append(leads, b)
	}
	if _, err := leads[0].CreateTopic(t.Context(), topic.Topic{Name: tp, Type: kind, Queues: 2}); err != nil {
		t.Fatal(err)
	}
	shards{p.shards, 0}.Settle(soon(t))
	return leads
}

func shardOf(queue uint32) int {
	shard, _ := client.ShardOf(queue)
	return int(shard)
}

// A program does not see that there are several shards: whichever it dials, its messages are spread over
// all and come from all, a group's are in one, transactions are decided on, and delayed ones taken back, where they are.
func TestTheGoClientUsesAllShards(t *testing.T) {
	n1 := begin(t, "n1", 3, nil)
	leads := inAll(t, n1, topic.Mixed)
	for dialled := range leads {
		c := dialShard(t, n1, dialled)
		p := producerOf(t, c, client.ProducerOptions{Check: func(context.Context, *client.Open) client.Decision { return client.Undecided }})
		co := consumerOf(t, c, "g", "t")
		want := map[string]int{} // of each body, its shard; -1: any
		spread := map[int]bool{}
		sending := soon(t)
		// Those whose streams are not open yet are passed over.
		for i := 0; i < 30 || len(spread) < 3; i++ {
			body := fmt.Sprint("plain ", i)
			r, err := p.Send(sending, &client.Message{Body: []byte(body)})
			if err != nil {
				t.Fatalf("dialled %d: messages went to shards %v: %v", dialled, slices.Sorted(maps.Keys(spread)), err)
			}
			want[body], spread[shardOf(r.Queue)] = shardOf(r.Queue), true
		}
		of := map[string]int{}
		for i := range 30 {
			group := fmt.Sprint("group ", i%10)
			body := fmt.Sprint("ordered ", i)
			r, err := p.Send(soon(t), &client.Message{Body: []byte(body), Group: group})
			if err != nil {
				t.Fatal(err)
			}
			want[body] = shardOf(r.Queue)
			if at, ok := of[group]; ok && at != want[body] {
				t.Errorf("message group %s is in shards %d and %d", group, at, want[body])
			}
			of[group] = want[body]
		}
		for i := range 6 {
			body := fmt.Sprint("half ", i)
			tx, err := p.Begin(soon(t), &client.Message{Body: []byte(body)}, 0)
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				want[body], err = -1, tx.Commit(soon(t))
			} else {
				err = tx.Rollback(soon(t))
			}
			if err != nil {
				t.Error(err)
			}
		}
		for i := range 6 {
			r, err := p.Send(soon(t), &client.Message{Body: []byte("late"), ID: fmt.Sprint("late ", dialled, i), DeliverAt: time.Now().Add(time.Hour)})
			if err == nil {
				err = p.Recall(soon(t), "t", r.RecallHandle)
			}
			if err != nil {
				t.Error(err)
			}
		}
		for left := len(want); left > 0; left-- {
			d, err := co.Receive(soon(t))
			if err != nil {
				t.Fatal(err)
			}
			body := string(d.Body())
			if at, ok := want[body]; !ok || at >= 0 && at != shardOf(d.Queue()) {
				t.Errorf("dialled %d: %q came from shard %d, want %d, %v", dialled, body, shardOf(d.Queue()), at, ok)
			}
			delete(want, body)
			if err := d.Ack(soon(t)); err != nil {
				t.Error(err)
			}
		}
		if err := co.Close(soon(t)); err != nil {
			t.Error(err)
		}
		if err := p.Close(soon(t)); err != nil {
			t.Error(err)
		}
	}
}

// What a reader commits is committed in the shard of each queue.
func TestAReaderCommitsInAllShards(t *testing.T) {
	n1 := begin(t, "n1", 2, nil)
	inAll(t, n1, topic.Normal)
	c := dialShard(t, n1, 0)
	p := producerOf(t, c, client.ProducerOptions{})
	sent := map[uint32]int64{} // by queue, one beyond its last message
	for i := range 40 {
		r, err := p.Send(soon(t), &client.Message{Body: fmt.Append(nil, i)})
		if err != nil {
			t.Fatal(err)
		}
		sent[r.Queue] = r.Offset + 1
	}
	if shards := slices.Collect(maps.Keys(sent)); !slices.ContainsFunc(shards, func(q uint32) bool { return shardOf(q) == 0 }) || !slices.ContainsFunc(shards, func(q uint32) bool { return shardOf(q) == 1 }) {
		t.Fatalf("messages went to queues %v, want some in each shard", sent)
	}
	for round, want := range []int{40, len(sent)} { // then the last of each queue
		r, err := c.NewReader(client.ReaderOptions{Topic: "t", Group: "g"})
		if err != nil {
			t.Fatal(err)
		}
		for range want {
			if _, err := r.Next(soon(t)); err != nil {
				t.Fatal(err)
			}
		}
		back := maps.Clone(sent)
		for q := range back {
			back[q]--
		}
		if err := r.Commit(soon(t), back); err != nil {
			t.Fatal(err)
		}
		short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		if m, err := r.Next(short); err == nil {
			t.Errorf("round %d: one more message, %d of queue %d", round, m.Offset(), m.Queue())
		}
		cancel()
		r.Close(t.Context())
	}
	var one uint32
	for q := range sent {
		one = max(one, q)
	}
	r, err := c.NewReader(client.ReaderOptions{Topic: "t", Offsets: map[uint32]int64{one: sent[one] - 2}})
	if err != nil {
		t.Fatal(err)
	}
	for offset := sent[one] - 2; offset < sent[one]; offset++ {
		if m, err := r.Next(soon(t)); err != nil || m.Queue() != one || m.Offset() != offset {
			t.Fatalf("%+v, %v; want message %d of queue %d", m, err, offset, one)
		}
	}
	if _, err := c.NewReader(client.ReaderOptions{Topic: "t", Offsets: map[uint32]int64{client.Queue(2, 0): 0}}); err == nil {
		t.Error("a reader of a shard that does not exist")
	}
}

// A topic that is in no shard is missing; one that is in some, as that of dead letters, is read there.
func TestATopicOfOneShardIsReadThere(t *testing.T) {
	n1 := begin(t, "n1", 2, nil)
	inAll(t, n1, topic.Normal)
	c := dialShard(t, n1, 0)
	if _, err := consumerOf(t, c, "g", "nowhere").Receive(soon(t)); !errors.Is(err, client.ErrTopicNotFound) {
		t.Errorf("of a topic that does not exist: %v", err)
	}
	p := producerOf(t, c, client.ProducerOptions{})
	for {
		if r, err := p.Send(soon(t), &client.Message{Body: []byte("x")}); err != nil {
			t.Fatal(err)
		} else if shardOf(r.Queue) == 1 {
			break
		}
	}
	for co := consumerOf(t, c, "g", "t"); ; {
		d, err := co.Receive(soon(t))
		if err != nil {
			t.Fatal(err)
		}
		if shardOf(d.Queue()) == 1 {
			if err := d.DeadLetter(soon(t)); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	d, err := consumerOf(t, c, "of-the-dead", broker.DLQPrefix+"g").Receive(soon(t))
	if err != nil || shardOf(d.Queue()) != 1 {
		t.Errorf("a dead letter of shard 1: %+v, %v", d, err)
	}
}

// A cluster that gets one more shard is used as it is then by programs that run on.
func TestTheGoClientFindsAShardThatIsNew(t *testing.T) {
	n1 := begin(t, "n1", 1, nil)
	inAll(t, n1, topic.Normal)
	c := dialShard(t, n1, 0)
	p := producerOf(t, c, client.ProducerOptions{})
	co := consumerOf(t, c, "g", "t")
	if _, err := p.Send(soon(t), &client.Message{Body: []byte("before")}); err != nil {
		t.Fatal(err)
	}
	n1.stop()
	n1.up(t, 2, nil)
	seen := map[int]bool{}
	eventually(t, "both shards are sent to", func() bool {
		if r, err := p.Send(soon(t), &client.Message{Body: []byte("after")}); err == nil {
			seen[shardOf(r.Queue)] = true
		}
		return len(seen) == 2
	})
	from := map[int]bool{}
	for len(from) < 2 {
		d, err := co.Receive(soon(t))
		if err != nil {
			t.Fatalf("messages came from %v: %v", from, err)
		}
		from[shardOf(d.Queue())] = true
		if err := d.Ack(soon(t)); err != nil {
			t.Error(err)
		}
	}
}
