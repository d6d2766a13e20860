package history

import (
	"context"
	"fmt"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/history/check"
)

// producer sends to one topic until stop. It belongs to one goroutine.
type producer struct {
	client
	topic string
	fifo  bool
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
		p.pace(stop)
	}
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
			ID: system.GetMessageId(), Topic: p.topic, Group: system.GetMessageGroup(), Tag: system.GetTag(),
			Body: check.Sum(m.GetBody()), Call: call, Position: i, OK: ok, Begin: begin, End: end,
		}
		if ok {
			sends[i].Offset = r.GetEntries()[i].GetOffset()
		}
	}
	p.AddSends(sends...)
	return ok
}
