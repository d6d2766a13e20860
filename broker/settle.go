package broker

import (
	"context"
	"errors"

	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Transaction is a half message as an operator sees it.
type Transaction struct {
	ID    string
	Topic record.Resource
	transaction.Half
	// Decision is what was decided, nil while nothing is. Of Half only the
	// position is known then.
	Decision *transaction.Decision
}

// TransactionFilter says which half messages to list.
type TransactionFilter struct {
	Topic     *record.Resource // nil = all
	MessageID string           // "" = all
	Parked    bool             // only these
	After     string           // the id of the last one of the page before; "" = from the first
	Limit     int              // 1 to MaxTransactionPage, else that
}

// Transactions lists undecided half messages, the oldest first.
func (b *Broker) Transactions(_ context.Context, f TransactionFilter) ([]Transaction, error) {
	var after record.Position
	if f.After != "" {
		var err error
		if _, after, err = b.openTransaction(f.After); err != nil {
			return nil, err
		}
	}
	var only record.TopicID
	if f.Topic != nil {
		tp, err := b.Route(*f.Topic)
		if err != nil {
			return nil, err
		}
		only = tp.ID
	}
	halves := b.transactions.List(func(h *transaction.Half) bool {
		return h.Position > after && (f.Topic == nil || h.Key.Topic() == only) &&
			(f.MessageID == "" || b.halfID(h) == f.MessageID) && (!f.Parked || h.Parked)
	})
	if f.Limit < 1 || f.Limit > MaxTransactionPage {
		f.Limit = MaxTransactionPage
	}
	var out []Transaction
	for _, h := range halves[:min(len(halves), f.Limit)] {
		if tp, ok := b.topics.ByID(h.Key.Topic()); ok {
			h.MessageID = b.halfID(&h)
			out = append(out, Transaction{ID: b.handles.Load().sealTransaction(tp.ID, h.Position), Topic: tp.Name, Half: h})
		}
	}
	return out, nil
}

// Transaction returns one half message, decided or not.
func (b *Broker) Transaction(ctx context.Context, id string) (Transaction, error) {
	topic, pos, err := b.openTransaction(id)
	if err != nil {
		return Transaction{}, err
	}
	tp, ok := b.topics.ByID(topic)
	if !ok {
		return Transaction{}, transactionError(transaction.ErrUnknown)
	}
	tx := Transaction{ID: id, Topic: tp.Name}
	tx.Half, err = b.transactions.Get(pos)
	if err == nil {
		tx.MessageID = b.halfID(&tx.Half)
	}
	var decided *transaction.DecidedError
	if errors.As(err, &decided) {
		tx.Position, tx.Decision, err = pos, &decided.Decision, nil
	}
	return tx, transactionError(err)
}

// SettleTransaction decides about a half message by hand, parked or not, and
// returns it as it stands then. The rules are those of EndTransaction.
func (b *Broker) SettleTransaction(ctx context.Context, id string, outcome transaction.Outcome) (Transaction, error) {
	_, pos, err := b.openTransaction(id)
	if err == nil {
		err = b.decide(ctx, pos, "", outcome, transaction.FromOperator)
	}
	if err != nil {
		return Transaction{}, err
	}
	return b.Transaction(ctx, id)
}

// RecheckTransaction has producers asked about a half message at once, and from
// the first check on again, parked or not. producers is how many there are now.
func (b *Broker) RecheckTransaction(ctx context.Context, id string) (tx Transaction, producers int, err error) {
	_, pos, err := b.openTransaction(id)
	if err == nil {
		_, err = b.transactions.Get(pos)
	}
	if err != nil {
		return Transaction{}, 0, transactionError(err)
	}
	again := []transaction.Check{{Position: pos, Next: b.now()}}
	if err := b.commit(record1(transaction.AppendCheck(nil, again))); err != nil {
		return Transaction{}, 0, err
	}
	tx, err = b.Transaction(ctx, id)
	return tx, len(b.sessions.Producers(tx.Topic)), err
}
