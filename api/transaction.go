package api

import (
	"context"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/transaction"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// EndTransaction decides about a half message. A producer that does not know
// (Go sends that, as an unspecified resolution) changes nothing.
func (m *messaging) EndTransaction(ctx context.Context, req *v2.EndTransactionRequest) (*v2.EndTransactionResponse, error) {
	var outcome transaction.Outcome
	switch req.GetResolution() {
	case v2.TransactionResolution_COMMIT:
		outcome = transaction.Committed
	case v2.TransactionResolution_ROLLBACK:
		outcome = transaction.RolledBack
	}
	err := m.broker.EndTransaction(ctx, resource(req.GetTopic()), req.GetMessageId(), req.GetTransactionId(),
		outcome, req.GetSource() == v2.TransactionSource_SOURCE_SERVER_CHECK)
	st := statusFor(m.log, err)
	if broker.ReasonOf(err) == broker.PreconditionFailed {
		// SDKs know no other code of this call that says so (wire-contract 11).
		st = &v2.Status{Code: v2.Code_INVALID_TRANSACTION_ID, Message: st.Message}
	}
	return &v2.EndTransactionResponse{Status: st}, nil
}

// sendRecover asks the client about a half message, unless that was decided
// while the command waited for its turn.
func (m *messaging) sendRecover(stream telemetryStream, id string) error {
	d, err := m.broker.HalfMessage(stream.Context(), id)
	if err != nil {
		switch broker.ReasonOf(err) {
		case broker.PreconditionFailed, broker.InvalidTransaction:
		default:
			m.log.Error("a half message cannot be checked", "transaction", id, "error", err)
		}
		return nil
	}
	defer d.Release()
	msg, err := unpacked(stream.Context(), m.broker, &d.Messages[0], localAddr(stream.Context()))
	if err != nil {
		m.log.Error("a half message cannot be checked", "transaction", id, "error", err)
		return nil
	}
	msg.SystemProperties.MessageType = v2.MessageType_TRANSACTION
	return stream.Send(&v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_RecoverOrphanedTransactionCommand{
		RecoverOrphanedTransactionCommand: &v2.RecoverOrphanedTransactionCommand{Message: msg, TransactionId: id},
	}})
}
