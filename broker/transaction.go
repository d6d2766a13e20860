package broker

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"time"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// A transaction id is opaque to clients: URL-safe base64, unpadded, of
//
//	off size
//	 0   1   'T', which no receipt handle begins with: one is never the other
//	 1   4   topic id
//	 5   8   position of the half message's record
//	13  16   first half of HMAC-SHA-256 of the bytes before, under the store's key
const (
	transactionTag    = 'T'
	transactionFields = 13
)

func (k *handleKey) sealTransaction(topic record.TopicID, pos record.Position) string {
	var b [transactionFields]byte
	b[0] = transactionTag
	binary.LittleEndian.PutUint32(b[1:], uint32(topic))
	binary.LittleEndian.PutUint64(b[5:], uint64(pos))
	return k.sealed(b[:])
}

func (k *handleKey) openTransaction(s string) (topic record.TopicID, pos record.Position, ok bool) {
	var b [transactionFields]byte
	if !k.opened(b[:], transactionTag, s) {
		return 0, 0, false
	}
	return record.TopicID(binary.LittleEndian.Uint32(b[1:])), record.Position(binary.LittleEndian.Uint64(b[5:])), true
}

// openTransaction decodes a transaction id. Its half message is applied: no id
// leaves the broker before that.
func (b *Broker) openTransaction(id string) (record.TopicID, record.Position, error) {
	if strings.TrimSpace(id) == "" {
		return 0, 0, Errorf(InvalidTransaction, "the transaction id is blank")
	}
	topic, pos, ok := b.handles.Load().openTransaction(id)
	if !ok {
		return 0, 0, Errorf(InvalidTransaction, "the transaction id is not one of this broker's")
	}
	return topic, pos, nil
}

// transactionError says to a client why a transaction cannot be decided.
func transactionError(err error) error {
	var decided *transaction.DecidedError
	switch {
	case errors.As(err, &decided):
		return Errorf(PreconditionFailed, "the transaction was %v already, by %v at %s",
			decided.Outcome, decided.Source, time.UnixMilli(decided.Time).UTC().Format(time.RFC3339))
	case errors.Is(err, transaction.ErrUnknown):
		return Errorf(InvalidTransaction, "the transaction is not known any more: it was decided long ago, or its message is gone")
	}
	return err
}

// EndTransaction decides about a half message: outcome is what its producer
// says, 0 that it does not know, which changes nothing. fromCheck says that it was
// asked. It answers when the decision is applied: a committed message can be
// received.
//
// The first decision counts. The same one again is fine; another one is
// PreconditionFailed, and says what was decided, by whom and when. How late a
// decision comes does not matter, nor whether the message is parked.
func (b *Broker) EndTransaction(ctx context.Context, topicName record.Resource, messageID, id string, outcome transaction.Outcome, fromCheck bool) error {
	if err := checkTopicName(topicName); err != nil {
		return err
	}
	of, pos, err := b.openTransaction(id)
	if err != nil {
		return err
	}
	tp, err := b.Route(topicName)
	if err != nil {
		return err
	}
	if tp.ID != of {
		return Errorf(InvalidTransaction, "the transaction belongs to another topic")
	}
	source := transaction.FromProducer
	if fromCheck {
		source = transaction.FromCheck
	}
	if outcome == 0 {
		return nil
	}
	return b.decide(ctx, pos, messageID, outcome, source)
}

// decide takes a decision, or learns that it was taken. messageID, unless "",
// must be that of the half message.
func (b *Broker) decide(ctx context.Context, pos record.Position, messageID string, outcome transaction.Outcome, source transaction.Source) error {
	for {
		h, busy, err := b.transactions.Begin(pos)
		var decided *transaction.DecidedError
		switch {
		case errors.As(err, &decided) && decided.Outcome == outcome:
			return nil
		case err != nil:
			return transactionError(err)
		case busy != nil:
			select {
			case <-busy:
			case <-ctx.Done():
				return ctx.Err()
			case <-b.ctx.Done():
				return Errorf(Unavailable, "the broker is shutting down")
			}
			continue
		case messageID != "" && messageID != b.halfID(&h):
			b.transactions.Cancel(pos)
			return Errorf(InvalidTransaction, "the transaction is not that of message %q", clip(messageID))
		}
		rec := transaction.AppendRollback(nil, pos, source)
		if outcome == transaction.Committed {
			rec = transaction.AppendCommit(nil, h, source)
		}
		batch := record1(rec)
		if err := b.append.Submit(batch); err != nil {
			b.transactions.Cancel(pos)
			return wrapAppend(err)
		}
		if err := b.await(batch); err != nil {
			return err
		}
		b.counters.decided(h.Key.Topic(), outcome)
		return nil
	}
}
