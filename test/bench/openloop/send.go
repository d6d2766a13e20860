package openloop

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// Patience is how long a sender waits for an answer; one that comes later does not
// count. It is what official clients wait for.
const Patience = 3 * time.Second

// Queue is how long a call waits for its connection to take it. Without such a bound all
// that leaves would be as old as its sender's patience, and no server could do anything
// about it.
const Queue = 100 * time.Millisecond

// Sends are SendMessage calls of one message each, so many a second over all
// connections.
type Sends struct {
	Addr  string
	Topic string
	Size  int // bytes of a body
	Conns int
	Rate  float64
	For   time.Duration
}

// Outcome is what came of calls whose time had come.
type Outcome struct {
	Due      int64            // their number
	Held     int64            // not made: the connection took no more calls until it was too late
	Acked    int64            // stored, and told so in time
	Within   int64            // of these, told while calls were still due
	Late     int64            // stored, and told so too late
	Silent   int64            // not answered
	Refused  map[string]int64 // by the first words of the answer
	Latency  []float64        // of the acknowledged, in seconds from when they were due
	Duration time.Duration
}

// Add adds what another connection saw.
func (o *Outcome) Add(p *Outcome) {
	o.Due += p.Due
	o.Held += p.Held
	o.Acked += p.Acked
	o.Within += p.Within
	o.Late += p.Late
	o.Silent += p.Silent
	for k, n := range p.Refused {
		o.Refused[k] += n
	}
	o.Latency = append(o.Latency, p.Latency...)
}

// PerSecond is the goodput. What was told after the last call was due does not count, or
// a long queue would pass for a fast server.
func (o *Outcome) PerSecond() float64 { return float64(o.Within) / o.Duration.Seconds() }

const tick = time.Millisecond

// Run makes the calls, and waits for the answers to the last ones.
func (s Sends) Run(ctx context.Context) (*Outcome, error) {
	var (
		mu    sync.Mutex
		all   = &Outcome{Refused: map[string]int64{}, Duration: s.For}
		wait  sync.WaitGroup
		first error
	)
	begun := time.Now().Add(200 * time.Millisecond) // when all are connected
	for i := range s.Conns {
		wait.Go(func() {
			o, err := s.one(ctx, i, begun)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				first = cmp.Or(first, err)
				return
			}
			all.Add(o)
		})
	}
	wait.Wait()
	return all, first
}

// sending is one connection of Sends.
type sending struct {
	*conn
	mu  sync.Mutex
	due map[uint32]time.Time // of calls that are not answered
	end time.Time            // when the last call is due
	o   Outcome
}

func (s Sends) one(ctx context.Context, number int, begun time.Time) (*Outcome, error) {
	c, err := dial(s.Addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	end := begun.Add(s.For)
	w := &sending{conn: c, due: map[uint32]time.Time{}, end: end, o: Outcome{Refused: map[string]int64{}}}
	c.onMessage, c.onEnd = w.answered, w.ended
	failed := make(chan error, 1)
	go func() { failed <- c.read() }()

	first, later := block("/apache.rocketmq.v2.MessagingService/SendMessage", s.Addr, Headers{
		{"x-mq-client-id", fmt.Sprintf("sender-%d", number)}, {"x-mq-language", "GO"}, {"x-mq-client-version", "5.1.4"}, {"x-mq-protocol", "v2"}, {"grpc-timeout", "3S"},
	})
	const blank = "0000000000000000"
	message, err := proto.Marshal(&v2.SendMessageRequest{Messages: []*v2.Message{{
		Topic: &v2.Resource{Name: s.Topic}, Body: bytes.Repeat([]byte("x"), s.Size),
		SystemProperties: &v2.SystemProperties{MessageId: fmt.Sprintf("%016x", number) + blank, MessageType: v2.MessageType_NORMAL},
	}}})
	if err != nil {
		return nil, err
	}
	message = framed(message)
	id := message[bytes.Index(message, []byte(fmt.Sprintf("%016x", number)+blank))+16:][:16]

	pause := time.Duration(float64(time.Second) / s.Rate * float64(s.Conns))
	at := begun.Add(pause * time.Duration(number) / time.Duration(s.Conns)) // when the next is due
	for clock := time.NewTicker(tick); ; {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case err := <-failed:
			return nil, fmt.Errorf("connection %d: %w", number, err)
		case <-clock.C:
		}
		now := time.Now()
		for ; at.Before(now) && at.Before(end); at = at.Add(pause) {
			w.mu.Lock()
			under := int64(len(w.due))
			w.mu.Unlock()
			if under >= c.streams.Load() || c.window.Load() < int64(len(message)) {
				if now.Sub(at) < Queue {
					break // its client keeps it back
				}
				w.o.Due++
				w.o.Held++
				continue
			}
			w.o.Due++
			copy(id, fmt.Sprintf("%016x", c.next))
			w.mu.Lock()
			w.due[c.next] = at
			w.mu.Unlock()
			c.call(first, message)
			first = later
		}
		c.answer()
		if err := c.out.Flush(); err != nil {
			return nil, err
		}
		w.mu.Lock()
		under := len(w.due)
		if over := !at.Before(end); over && (under == 0 || now.Sub(end) > 2*Patience) {
			w.o.Silent = int64(under)
			o := w.o
			w.due = nil
			w.mu.Unlock()
			c.Close()
			<-failed
			return &o, nil
		}
		w.mu.Unlock()
	}
}

// answered takes the response of a call.
func (w *sending) answered(stream uint32, message []byte) {
	code, text := status(message)
	w.mu.Lock()
	defer w.mu.Unlock()
	due, ok := w.due[stream]
	if !ok {
		return
	}
	delete(w.due, stream)
	now := time.Now()
	took := now.Sub(due)
	switch {
	case code != v2.Code_OK:
		words, _, _ := strings.Cut(text, ":")
		w.o.Refused[code.String()+", "+words]++
	case took > Patience:
		w.o.Late++
	default:
		w.o.Acked++
		if now.Before(w.end) {
			w.o.Within++
		}
		w.o.Latency = append(w.o.Latency, took.Seconds())
	}
}

// ended is the end of a call, which comes after its response, if there is one.
func (w *sending) ended(stream uint32, status string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.due[stream]; ok {
		delete(w.due, stream)
		w.o.Refused["gRPC "+status]++
	}
}

// status reads the first status of a response: proto.Unmarshal would take more than
// all the rest.
func status(message []byte) (v2.Code, string) {
	field := func(b []byte, want protowire.Number) []byte {
		for len(b) > 0 {
			num, typ, n := protowire.ConsumeTag(b)
			if n < 0 {
				return nil
			}
			m := protowire.ConsumeFieldValue(num, typ, b[n:])
			if m < 0 {
				return nil
			}
			if num == want {
				return b[n : n+m]
			}
			b = b[n+m:]
		}
		return nil
	}
	st, _ := protowire.ConsumeBytes(field(message, 1))
	code, _ := protowire.ConsumeVarint(field(st, 1))
	text, _ := protowire.ConsumeBytes(field(st, 2))
	return v2.Code(code), string(text)
}
