package api

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// deadLetters is gantry.v1.DeadLetters.
type deadLetters struct {
	gantryv1.UnsafeDeadLettersServer // an RPC without a method must not compile

	broker *broker.Broker
	log    *slog.Logger
}

// groupNamed is what all requests name a group by.
type groupNamed interface {
	GetGroup() string
	GetNamespace() string
}

func groupOf(req groupNamed) record.Resource {
	return record.Resource{Namespace: req.GetNamespace(), Name: req.GetGroup()}
}

func deadFilter(f *gantryv1.DeadLetterFilter) broker.DeadLetterFilter {
	out := broker.DeadLetterFilter{Reason: f.GetReason(), Topic: f.GetTopic(), MessageID: f.GetMessageId(), Settled: f.GetSettled()}
	if f.GetFrom() != nil {
		out.From = max(1, unixMilli(f.GetFrom()))
	}
	if f.GetTo() != nil {
		out.To = max(1, unixMilli(f.GetTo()))
	}
	for _, off := range f.GetOffsets() {
		out.Offsets = append(out.Offsets, record.QueueOffset(off))
	}
	return out
}

func (s *deadLetters) List(ctx context.Context, req *gantryv1.ListDeadLettersRequest) (*gantryv1.ListDeadLettersResponse, error) {
	page, next, err := s.broker.DeadLetters(ctx, groupOf(req), deadFilter(req.GetFilter()), record.QueueOffset(req.GetFrom()), int(req.GetLimit()))
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	resp := &gantryv1.ListDeadLettersResponse{}
	for i := range page {
		resp.DeadLetters = append(resp.DeadLetters, wireDeadLetter(&page[i]))
	}
	if next != record.NoOffset {
		resp.Next = (*int64)(&next)
	}
	return resp, nil
}

func (s *deadLetters) Show(ctx context.Context, req *gantryv1.ShowDeadLetterRequest) (resp *gantryv1.DeadLetterMessage, err error) {
	err = s.broker.DeadLetter(ctx, groupOf(req), record.QueueOffset(req.GetOffset()), func(dl *broker.DeadLetter, m *record.Message) error {
		resp, err = s.wireDeadMessage(ctx, dl, m)
		return err
	})
	if err != nil {
		return nil, rpcError(s.log, err)
	}
	return resp, nil
}

func (s *deadLetters) Redrive(req *gantryv1.RedriveRequest, stream gantryv1.DeadLetters_RedriveServer) error {
	r := broker.RedriveRequest{Filter: deadFilter(req.GetFilter()), Rate: int(req.GetRate()), DryRun: req.GetDryRun()}
	if req.GetTargetTopic() != "" {
		r.Target = &record.Resource{Namespace: req.GetNamespace(), Name: req.GetTargetTopic()}
	}
	p, err := s.broker.Redrive(stream.Context(), groupOf(req), r, func(p broker.DeadLetterProgress) error {
		return stream.Send(wireProgress(p))
	})
	if err != nil {
		return rpcError(s.log, err)
	}
	return stream.Send(wireProgress(p))
}

func (s *deadLetters) Discard(req *gantryv1.DiscardRequest, stream gantryv1.DeadLetters_DiscardServer) error {
	p, err := s.broker.Discard(stream.Context(), groupOf(req), deadFilter(req.GetFilter()), req.GetDryRun(), func(p broker.DeadLetterProgress) error {
		return stream.Send(wireProgress(p))
	})
	if err != nil {
		return rpcError(s.log, err)
	}
	return stream.Send(wireProgress(p))
}

func (s *deadLetters) Export(req *gantryv1.ExportDeadLettersRequest, stream gantryv1.DeadLetters_ExportServer) error {
	err := s.broker.ExportDeadLetters(stream.Context(), groupOf(req), deadFilter(req.GetFilter()), func(dl *broker.DeadLetter, m *record.Message) error {
		w, err := s.wireDeadMessage(stream.Context(), dl, m)
		if err != nil {
			return err
		}
		return stream.Send(w)
	})
	return rpcError(s.log, err)
}

func wireProgress(p broker.DeadLetterProgress) *gantryv1.DeadLetterProgress {
	return &gantryv1.DeadLetterProgress{Matched: p.Matched, Done: p.Done, Failed: p.Failed, Failure: p.Failure}
}

// deadStates numbers the broker's states as the wire does.
var deadStates = map[broker.DeadLetterState]gantryv1.DeadLetterState{
	broker.DeadOpen:      gantryv1.DeadLetterState_DEAD_LETTER_OPEN,
	broker.DeadRedriven:  gantryv1.DeadLetterState_DEAD_LETTER_REDRIVEN,
	broker.DeadDiscarded: gantryv1.DeadLetterState_DEAD_LETTER_DISCARDED,
	broker.DeadLost:      gantryv1.DeadLetterState_DEAD_LETTER_LOST,
}

func wireDeadLetter(dl *broker.DeadLetter) *gantryv1.DeadLetter {
	w := &gantryv1.DeadLetter{
		Offset: int64(dl.Offset), MessageId: dl.MessageID, Tag: dl.Tag, Keys: dl.Keys,
		Attempts: dl.Attempts, Reason: dl.Reason, Died: wireTime(dl.Died), BodySize: int64(dl.BodySize),
		State: deadStates[dl.State], LastClient: dl.Owner, LastLeaseEnd: wireTime(dl.LeaseEnd),
	}
	if o := dl.Origin; o != nil {
		w.Origin = &gantryv1.DeadLetterOrigin{Topic: o.Topic.Name, Namespace: o.Topic.Namespace, Queue: o.Queue, Offset: int64(o.Offset)}
	}
	return w
}

// wireDeadMessage copies the body: a stream may hold what it was given after
// Send, and m is valid only now.
func (s *deadLetters) wireDeadMessage(ctx context.Context, dl *broker.DeadLetter, m *record.Message) (*gantryv1.DeadLetterMessage, error) {
	w := &gantryv1.DeadLetterMessage{DeadLetter: wireDeadLetter(dl), History: wireAttempts(dl.History)}
	if m == nil {
		return w, nil
	}
	var err error
	if w.Body, w.Unreadable, err = s.broker.PlainBody(ctx, m); err != nil {
		return nil, err
	}
	w.Compression = m.Flags.PackingName()
	w.Born, w.Stored = wireTime(m.BornTime), wireTime(m.StoreTime)
	return w, m.Properties.Each(func(f record.Field, key, value []byte) bool {
		switch f {
		case record.FieldUser:
			w.Properties = append(w.Properties, &gantryv1.DeadLetterProperty{Key: string(key), Value: string(value)})
		case record.FieldGroup:
			w.MessageGroup = string(value)
		case record.FieldLiteTopic:
			w.LiteTopic = string(value)
		}
		return true
	})
}

// wireTime is Unix milliseconds on the wire, absent for 0.
func wireTime(ms int64) *timestamppb.Timestamp {
	if ms == 0 {
		return nil
	}
	return timestamppb.New(time.UnixMilli(ms))
}
