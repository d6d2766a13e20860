package broker

import (
	"context"
	"errors"
	"time"

	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// checkBatch bounds how many half messages share a check record. It is below the
// backlog of a client's command stream, so that a client that reads gets them all.
const checkBatch = 32

// checkBack asks producers about half messages that were left undecided, until
// the broker closes.
func (b *Broker) checkBack() {
	nap := time.NewTimer(0)
	defer nap.Stop()
	asker := asker{b: b}
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-nap.C:
		case <-b.transactions.Changed():
		}
		nap.Reset(asker.pass(b.now()))
	}
}

// asker belongs to checkBack.
type asker struct {
	b    *Broker
	turn int // of the producers, round-robin
}

// pass asks about what is due, once, and returns how long to wait before the
// next pass.
//
// It asks first and then writes down that it did: an answer that overtakes the
// record is a decision, and the record then finds nothing to change. A crash in
// between costs a check that is not counted.
func (a *asker) pass(now int64) time.Duration {
	b := a.b
	due, next := b.transactions.Due(now, checkBatch)
	if len(due) == 0 {
		// A jump of the clock is noticed within a second.
		return time.Duration(min(1000, max(0, next-now))) * time.Millisecond
	}
	producers := map[record.TopicID][]session.Client{}
	checks := make([]transaction.Check, 0, len(due))
	parked := 0
	for _, h := range due {
		c := transaction.Check{Position: h.Position, Checks: h.Checks, Next: now + b.opts.TransactionCheckEvery.Milliseconds()}
		if int(h.Checks) >= b.opts.TransactionCheckMax {
			c.Parked = true
			parked++
		} else if err := a.ask(h, producers); !errors.Is(err, errProducersBusy) {
			c.Checks++ // also when no producer is there to ask: wire-contract 4.5
		}
		checks = append(checks, c)
	}
	if err := b.commit(record1(transaction.AppendCheck(nil, checks))); err != nil {
		if !b.ending() {
			b.log.Error("the checks of transactions could not be written down", "error", err)
		}
		return b.opts.TransactionCheckEvery
	}
	if parked > 0 {
		b.log.Warn("transactions are parked, no producer decided: gantry txn list --parked", "transactions", parked)
	}
	return 0
}

var (
	errNoProducer    = errors.New("broker: no producer of the topic is there")
	errProducersBusy = errors.New("broker: no producer of the topic takes commands now")
)

// ask sends the check of one half message to one live producer of its topic.
func (a *asker) ask(h transaction.Half, known map[record.TopicID][]session.Client) error {
	tp, ok := a.b.topics.ByID(h.Key.Topic())
	if !ok {
		return errNoProducer
	}
	producers, ok := known[tp.ID]
	if !ok {
		producers = a.b.sessions.Producers(tp.Name)
		known[tp.ID] = producers
	}
	check := session.RecoverTransaction{ID: a.b.handles.Load().sealTransaction(tp.ID, h.Position)}
	err := errNoProducer
	for range producers {
		a.turn++
		switch sent := a.b.sessions.Send(producers[a.turn%len(producers)].ID, check); {
		case sent == nil:
			return nil
		case !errors.Is(sent, session.ErrNoStream):
			err = errProducersBusy
		}
	}
	return err
}

// HalfMessage returns the message that a producer is asked about. Release it
// after use. PreconditionFailed or InvalidTransaction: it was decided meanwhile,
// or is gone.
func (b *Broker) HalfMessage(_ context.Context, id string) (*Delivery, error) {
	topic, pos, err := b.openTransaction(id)
	if err != nil {
		return nil, err
	}
	h, err := b.transactions.Get(pos)
	if err != nil {
		return nil, transactionError(err)
	}
	tp, ok := b.topics.ByID(topic)
	if !ok {
		return nil, transactionError(transaction.ErrUnknown)
	}
	l, err := b.loadEntry(consumequeue.Entry{Position: h.Payload, Size: h.Size}, h.Key.Queue(), record.NoOffset)
	if err != nil {
		return nil, err
	}
	return &Delivery{Messages: []Delivered{l.delivered(tp.Name, h.Key.Queue(), record.NoOffset)}}, nil
}
