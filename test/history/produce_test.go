package history

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/history/check"
)

// producer sends to one topic until stop. It belongs to one goroutine.
type producer struct {
	client
	topic string
	fifo  bool
	once  bool // the topic stores messages once

	transaction string // of the newest half message that was answered
}

// run sends one message or a batch a call. What failed is sent again, half of
// the time: the client does not know whether it was stored.
func (p *producer) run(ctx context.Context, stop <-chan struct{}) {
	for n := 0; ; {
		select {
		case <-stop:
			return
		default:
		}
		size := 1
		if p.IntN(3) == 0 {
			size += p.IntN(16)
		}
		messages := make([]*rocketmqv2.Message, size)
		for i := range messages {
			messages[i] = p.message(n)
			n++
		}
		for !p.send(ctx, messages) && p.IntN(2) == 0 {
			p.pace(stop)
		}
		for range p.paces() {
			p.pace(stop)
		}
	}
}

// paces is how often a producer waits after each call. Of a group in order one message of
// each message group, or lite topic, is out at a time: what two consumers cannot take
// under faults, they would be left to take afterwards, for half as long again.
func (p *producer) paces() int {
	if p.fifo || p.topic == liteTopic {
		return 8
	}
	return 1
}

// runOnce sends each message until it is answered, and now and then once more. To
// the topic of all kinds it sends some with a delay, a message group, a priority,
// and half ones, on which it then decides.
func (p *producer) runOnce(ctx context.Context, stop <-chan struct{}) {
	var recent [100]*rocketmqv2.Message
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		m := p.message(n)
		if p.topic == mixedTopic {
			p.vary(m.GetSystemProperties())
		}
		one := []*rocketmqv2.Message{m}
		for !p.send(ctx, one) {
			if ctx.Err() != nil {
				return
			}
			p.pace(ctx.Done())
		}
		if m.GetSystemProperties().GetMessageType() == rocketmqv2.MessageType_TRANSACTION {
			p.decide(ctx, m)
		}
		// One that was sent just now, or before the server was killed.
		if recent[n%len(recent)] = m; p.IntN(4) == 0 {
			p.send(ctx, []*rocketmqv2.Message{recent[p.IntN(min(n+1, len(recent)))]})
		}
		p.pace(stop)
	}
}

// vary makes a message one of the kinds, or several of them.
func (p *producer) vary(system *rocketmqv2.SystemProperties) {
	if p.IntN(3) == 0 {
		system.MessageType = rocketmqv2.MessageType_TRANSACTION
		return
	}
	if p.IntN(3) == 0 {
		priority := int32(p.IntN(queues))
		system.MessageType, system.Priority = rocketmqv2.MessageType_PRIORITY, &priority
	}
	if p.IntN(3) == 0 {
		group := fmt.Sprintf("%s-%d", p.name, p.IntN(6))
		system.MessageType, system.MessageGroup = rocketmqv2.MessageType_FIFO, &group
	}
	if p.IntN(2) == 0 {
		system.MessageType = rocketmqv2.MessageType_DELAY
		system.DeliveryTimestamp = timestamppb.New(time.Now().Add(time.Duration(p.IntN(3000)) * time.Millisecond).Truncate(time.Millisecond))
	}
}

// decide commits a half message or rolls it back, and now and then tries the
// opposite too.
func (p *producer) decide(ctx context.Context, m *rocketmqv2.Message) {
	commit := p.IntN(4) > 0
	for !p.end(ctx, m, commit) {
		if ctx.Err() != nil {
			return
		}
		p.pace(ctx.Done())
	}
	if p.IntN(3) == 0 {
		p.end(ctx, m, !commit)
	}
}

// end makes one call and records it. It reports whether the outcome is known: a
// refusal changes nothing.
func (p *producer) end(ctx context.Context, m *rocketmqv2.Message, commit bool) (known bool) {
	ctx, cancel := p.call(ctx)
	defer cancel()
	resolution := rocketmqv2.TransactionResolution_ROLLBACK
	if commit {
		resolution = rocketmqv2.TransactionResolution_COMMIT
	}
	e := check.Ending{ID: m.GetSystemProperties().GetMessageId(), Commit: commit, Begin: p.now()}
	r, err := p.stub.EndTransaction(ctx, &rocketmqv2.EndTransactionRequest{
		Topic: m.GetTopic(), MessageId: e.ID, TransactionId: p.transaction, Resolution: resolution, Source: rocketmqv2.TransactionSource_SOURCE_CLIENT,
	})
	e.End = p.now()
	e.OK = err == nil && r.GetStatus().GetCode() == rocketmqv2.Code_OK
	p.AddEnding(e)
	return err == nil
}

var tags = []string{"", "A", "B", "C"}

// message makes the producer's n-th message. In an ordered topic it is in one of
// the producer's own message groups.
func (p *producer) message(n int) *rocketmqv2.Message {
	id := fmt.Sprintf("%s-%06d", p.name, n)
	size := p.IntN(600)
	if p.IntN(200) == 0 {
		size = p.IntN(200_000)
	}
	body := append([]byte(id), make([]byte, size)...)
	for i := len(id); i < len(body); i++ {
		body[i] = byte(p.Uint32())
	}
	system := &rocketmqv2.SystemProperties{
		MessageId: id, MessageType: rocketmqv2.MessageType_NORMAL, BodyEncoding: rocketmqv2.Encoding_IDENTITY, BornHost: "history",
	}
	if p.fifo {
		group := fmt.Sprintf("%s-%d", p.name, p.IntN(6))
		system.MessageType, system.MessageGroup = rocketmqv2.MessageType_FIFO, &group
	} else if p.topic == liteTopic {
		lite := liteNames[p.IntN(len(liteNames))]
		system.MessageType, system.LiteTopic = rocketmqv2.MessageType_LITE, &lite
	} else if tag := tags[p.IntN(len(tags))]; tag != "" {
		system.Tag = &tag
	}
	return &rocketmqv2.Message{Topic: &rocketmqv2.Resource{Name: p.topic}, Body: body, SystemProperties: system}
}

// send makes one call and records it.
func (p *producer) send(ctx context.Context, messages []*rocketmqv2.Message) (ok bool) {
	call := int(p.calls.Add(1))
	ctx, cancel := p.call(ctx)
	defer cancel()
	begin := p.now()
	r, err := p.stub.SendMessage(ctx, &rocketmqv2.SendMessageRequest{Messages: messages})
	end := p.now()
	ok = err == nil && r.GetStatus().GetCode() == rocketmqv2.Code_OK
	sends := make([]check.Send, len(messages))
	for i, m := range messages {
		system := m.GetSystemProperties()
		sends[i] = check.Send{
			ID: system.GetMessageId(), Topic: p.topic, Group: system.GetMessageGroup() + system.GetLiteTopic(), Tag: system.GetTag(),
			Body: check.Sum(m.GetBody()), Call: call, Position: i, OK: ok, Begin: begin, End: end,
			Once: p.once, Half: system.GetMessageType() == rocketmqv2.MessageType_TRANSACTION,
		}
		if due := system.GetDeliveryTimestamp(); due != nil {
			sends[i].Due = max(1, int64(due.AsTime().Sub(p.began)))
		}
		if ok {
			e := r.GetEntries()[i]
			sends[i].Offset = e.GetOffset()
			sends[i].Result = fmt.Sprint(e.GetMessageId(), e.GetOffset(), e.GetTransactionId(), e.GetRecallHandle())
			p.transaction = e.GetTransactionId()
		}
	}
	p.AddSends(sends...)
	return ok
}
