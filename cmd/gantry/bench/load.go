package bench

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gantry-mq/gantry/client"
)

// payload is the bodies of a run: slices of one random block, so that no two
// that follow each other are equal and none is made for its message.
type payload struct {
	block []byte
	size  int
}

func newPayload(size int) payload {
	p := payload{block: make([]byte, size+64<<10), size: size}
	r := rand.NewChaCha8([32]byte{1})
	r.Read(p.block)
	return p
}

// fillJSON makes the block something that can be compressed.
func (p *payload) fillJSON() {
	r := rand.New(rand.NewPCG(1, 1))
	var b []byte
	for n := 0; len(b) < len(p.block); n++ {
		b = fmt.Appendf(b, `{"order":%d,"customer":"c-%06d","status":"paid","total":%d.%02d,"currency":"EUR","items":%d},`,
			10_000_000+n, r.IntN(1e6), r.IntN(500), r.IntN(100), 1+r.IntN(9))
	}
	copy(p.block, b)
}

func (p *payload) body(i int) []byte {
	off := (i * 61) & (64<<10 - 1)
	return p.block[off : off+p.size]
}

// Tags of messages: a filter matches "hit" and not "miss".
const (
	hit  = "hit"
	miss = "miss"
)

// tag gives message i its tag, so that the share Match of them is hit, evenly
// spread.
func (b *bench) tag(i int) string {
	if int(float64(i+1)*b.Match) > int(float64(i)*b.Match) {
		return hit
	}
	return miss
}

// sampleEvery is how many messages share one latency sample when sent flat out: a
// callback for each would measure the callbacks.
const sampleEvery = 32

// sender sends its share of the messages of a run.
type sender struct {
	b     *bench
	m     *meter
	p     *client.Producer
	from  int // number of the sender, of senders
	of    int
	stamp bool // the body begins with the time at which it should be sent
	rate  int
	count int           // of all senders, 0 = none
	until time.Duration // 0 = none
}

// run sends until count, until, or ctx. Stamped bodies must have room for 8 bytes.
func (s *sender) run(ctx context.Context) error {
	begun := time.Now()
	msg := client.Message{}
	for i := s.from; s.count == 0 || i < s.count; i += s.of {
		due := time.Time{}
		if s.rate > 0 {
			due = begun.Add(time.Duration(float64(i) / float64(s.rate) * float64(time.Second)))
			if s.until > 0 && due.Sub(begun) >= s.until {
				break
			}
			if wait := time.Until(due); wait > 0 && !sleep(ctx, wait) {
				break
			}
		} else if i/s.of%64 == 0 && s.until > 0 && time.Since(begun) >= s.until {
			break
		}
		if ctx.Err() != nil {
			break
		}
		msg = client.Message{Topic: s.b.topics[i%len(s.b.topics)], Body: s.b.payload.body(i), Tag: s.b.tag(i)}
		if s.stamp {
			msg.Body = append([]byte(nil), msg.Body...)
			sent := due
			if sent.IsZero() {
				sent = time.Now()
			}
			binary.LittleEndian.PutUint64(msg.Body, uint64(sent.UnixNano()))
		}
		if err := s.p.Publish(ctx, &msg, s.callback(i, due)); err != nil {
			if ctx.Err() != nil {
				break
			}
			return err
		}
	}
	// What is under way still counts, and is waited for even after ctx.
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	if err := s.p.Flush(flush); err != nil {
		return fmt.Errorf("not everything that was sent was stored: %w", err)
	}
	return nil
}

// callback counts message i, and those before it that have none of their own.
func (s *sender) callback(i int, due time.Time) func(client.Result, error) {
	n := int64(1)
	if s.rate == 0 {
		if i/s.of%sampleEvery != sampleEvery-1 && (s.count == 0 || i+s.of < s.count) {
			return nil
		}
		n = int64(i/s.of%sampleEvery) + 1
		due = time.Now()
	}
	return func(_ client.Result, err error) {
		if err != nil {
			s.m.errors.Add(1)
			return
		}
		s.m.messages.Add(n)
		if !s.stamp {
			s.m.observe(time.Since(due))
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
