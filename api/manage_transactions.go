package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// shownBody bounds what DescribeTransaction returns of a body.
const shownBody = 64 << 10

func (m *management) ListTransactions(ctx context.Context, req *gantryv1.ListTransactionsRequest) (*gantryv1.ListTransactionsResponse, error) {
	f := broker.TransactionFilter{
		MessageID: req.GetMessageId(), Parked: req.GetParked(), After: req.GetAfter(), Limit: int(req.GetLimit()),
	}
	if req.GetTopic() != "" {
		f.Topic = &record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}
	}
	list, err := m.broker.Transactions(ctx, f)
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	resp := &gantryv1.ListTransactionsResponse{}
	for _, tx := range list {
		resp.Transactions = append(resp.Transactions, wireTransaction(tx))
	}
	return resp, nil
}

func (m *management) DescribeTransaction(ctx context.Context, req *gantryv1.DescribeTransactionRequest) (*gantryv1.DescribeTransactionResponse, error) {
	tx, err := m.broker.Transaction(ctx, req.GetId())
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	resp := &gantryv1.DescribeTransactionResponse{Transaction: wireTransaction(tx)}
	if tx.Decision != nil {
		return resp, nil
	}
	d, err := m.broker.HalfMessage(ctx, req.GetId())
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	defer d.Release()
	msg := &d.Messages[0].Message
	err = msg.Properties.Each(func(f record.Field, key, value []byte) bool {
		switch f {
		case record.FieldTag:
			resp.Tag = string(value)
		case record.FieldKey:
			resp.Keys = append(resp.Keys, string(value))
		case record.FieldGroup:
			resp.MessageGroup = string(value)
		case record.FieldUser:
			if resp.Properties == nil {
				resp.Properties = map[string]string{}
			}
			resp.Properties[string(key)] = string(value)
		}
		return true
	})
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	body, _, err := m.broker.PlainBody(ctx, msg)
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	resp.BodySize = int64(len(body))
	resp.Body = body[:min(len(body), shownBody)]
	return resp, nil
}

func (m *management) SettleTransaction(ctx context.Context, req *gantryv1.SettleTransactionRequest) (*gantryv1.SettleTransactionResponse, error) {
	var tx broker.Transaction
	var producers int
	var err error
	switch req.GetSettlement() {
	case gantryv1.Settlement_COMMIT:
		tx, err = m.broker.SettleTransaction(ctx, req.GetId(), transaction.Committed)
	case gantryv1.Settlement_ROLLBACK:
		tx, err = m.broker.SettleTransaction(ctx, req.GetId(), transaction.RolledBack)
	case gantryv1.Settlement_RECHECK:
		tx, producers, err = m.broker.RecheckTransaction(ctx, req.GetId())
	default:
		err = broker.Errorf(broker.BadRequest, "the settlement %d is unknown", req.GetSettlement())
	}
	if err != nil {
		return nil, rpcError(m.log, err)
	}
	return &gantryv1.SettleTransactionResponse{Transaction: wireTransaction(tx), Producers: int32(producers)}, nil
}

func wireTransaction(tx broker.Transaction) *gantryv1.Transaction {
	w := &gantryv1.Transaction{Id: tx.ID, Topic: tx.Topic.Name, Namespace: tx.Topic.Namespace}
	if d := tx.Decision; d != nil {
		w.State = gantryv1.TransactionState_ROLLED_BACK
		if d.Outcome == transaction.Committed {
			w.State = gantryv1.TransactionState_COMMITTED
		}
		w.Decided = timestamppb.New(time.UnixMilli(d.Time))
		w.DecidedBy = d.Source.String()
		return w
	}
	w.MessageId = tx.MessageID
	w.Queue = tx.Key.Queue()
	w.Born = timestamppb.New(time.UnixMilli(tx.Born))
	w.Stored = timestamppb.New(time.UnixMilli(tx.Stored))
	w.Checks = int32(tx.Checks)
	w.State = gantryv1.TransactionState_PARKED
	if !tx.Parked {
		w.State = gantryv1.TransactionState_OPEN
		w.NextCheck = timestamppb.New(time.UnixMilli(tx.Next))
	}
	return w
}
