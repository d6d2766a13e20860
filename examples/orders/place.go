package main

import (
	"context"
	"fmt"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
)

// A shop places orders in transactions.
type shop struct {
	producer rmq.Producer
	asked    journal // the orders the broker asked about
}

// open starts the shop's producer with the check-back that decides what place left undecided.
func (s *shop) open(c *clients, orders []order) error {
	valid := map[string]bool{}
	for i := range orders {
		valid[orders[i].id] = orders[i].valid
	}
	var err error
	s.producer, err = c.produce(rmq.WithTopics("orders"), rmq.WithTransactionChecker(&rmq.TransactionChecker{
		Check: func(mv *rmq.MessageView) rmq.TransactionResolution {
			id := string(mv.GetBody())
			s.asked.add(id)
			switch {
			case id == puzzle:
				return rmq.UNKNOWN
			case valid[id]:
				return rmq.COMMIT
			}
			return rmq.ROLLBACK
		},
	}))
	return err
}

// place sends every order as a half message and ends its transaction, or leaves it.
func (s *shop) place(ctx context.Context, orders []order) error {
	for i := range orders {
		o := &orders[i]
		tx := s.producer.BeginTransaction()
		if _, err := s.producer.SendWithTransaction(ctx, o.message(), tx); err != nil {
			return fmt.Errorf("%s: %w", o.id, err)
		}
		var err error
		switch o.fate {
		case commits:
			err = tx.Commit()
		case rollsBack:
			err = tx.RollBack()
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", o.id, o.fate, err)
		}
	}
	return nil
}

// decide commits the one transaction that the shop could not decide, once it is the only one left.
func decide(ctx context.Context) error {
	var left []struct{ ID string }
	for {
		if err := gantry(ctx, &left, "txn", "list", "--topic", "orders"); err != nil {
			return err
		}
		if len(left) <= 1 {
			break
		}
		if !pause(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%d transactions are undecided, want only that of %s", len(left), puzzle)
		}
	}
	if len(left) == 0 {
		return fmt.Errorf("no transaction is undecided, want that of %s", puzzle)
	}
	var shown struct{ Message struct{ Body string } }
	if err := gantry(ctx, &shown, "txn", "show", left[0].ID); err != nil {
		return err
	}
	if shown.Message.Body != puzzle {
		return fmt.Errorf("the transaction of %q is undecided, want %s", shown.Message.Body, puzzle)
	}
	var committed any
	return gantry(ctx, &committed, "txn", "commit", left[0].ID)
}
