package api

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// sendHalf stores a transactional message and returns its transaction id.
func (f *fixture) sendHalf(m *v2.Message) string {
	f.t.Helper()
	m.SystemProperties.MessageType = v2.MessageType_TRANSACTION
	resp, err := f.SendMessage(as("producer"), &v2.SendMessageRequest{Messages: []*v2.Message{m}})
	if err != nil || resp.GetStatus().GetCode() != v2.Code_OK || resp.Entries[0].TransactionId == "" {
		f.t.Fatalf("send: %v, %v", resp, err)
	}
	return resp.Entries[0].TransactionId
}

func (f *fixture) end(topic, message, id string, r v2.TransactionResolution, s v2.TransactionSource) *v2.Status {
	f.t.Helper()
	resp, err := f.EndTransaction(as("producer"), &v2.EndTransactionRequest{
		Topic: &v2.Resource{Name: topic}, MessageId: message, TransactionId: id, Resolution: r, Source: s,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.Status
}

func TestOrphanedTransactionIsRecoveredOverTheCommandStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := startInBubble(t)
		f.topic("tx", topic.Transaction, 1)
		stream := f.telemetry(as("colleague"))
		settle(t, stream, producerSettings("tx"))
		m := plain("tx", "id-1", "body")
		m.SystemProperties.Tag, m.SystemProperties.Keys = ptr("A"), []string{"k"}
		m.SystemProperties.BodyEncoding = v2.Encoding_GZIP
		m.SystemProperties.OrphanedTransactionRecoveryDuration = durationpb.New(10 * time.Second)
		m.UserProperties = map[string]string{"a": "1"}
		id := f.sendHalf(m)
		began := time.Now()
		if st := f.end("tx", "id-1", id, v2.TransactionResolution_TRANSACTION_RESOLUTION_UNSPECIFIED, 0); st.Code != v2.Code_OK {
			t.Fatalf("unknown: %v", st)
		}
		cmd, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if d := time.Since(began).Truncate(time.Second); d != 10*time.Second {
			t.Errorf("asked after %v", d)
		}
		check := cmd.GetRecoverOrphanedTransactionCommand()
		p := check.GetMessage().GetSystemProperties()
		if cmd.GetStatus().GetCode() != v2.Code_OK || check.GetTransactionId() != id || check.GetMessage().GetTopic().GetName() != "tx" ||
			string(check.GetMessage().GetBody()) != "body" || check.GetMessage().GetUserProperties()["a"] != "1" ||
			p.GetMessageId() != "id-1" || p.GetTag() != "A" || len(p.GetKeys()) != 1 || p.GetMessageType() != v2.MessageType_TRANSACTION ||
			p.GetBodyEncoding() != v2.Encoding_GZIP || len(p.GetBodyDigest().GetChecksum()) != 40 || p.GetBornTimestamp() == nil ||
			p.GetDeliveryAttempt() != 1 || p.OrphanedTransactionRecoveryDuration != nil {
			t.Errorf("the command is %v", cmd)
		}
		if st := f.end("tx", "id-1", id, v2.TransactionResolution_COMMIT, v2.TransactionSource_SOURCE_SERVER_CHECK); st.Code != v2.Code_OK {
			t.Fatalf("commit: %v", st)
		}
		_, got := f.receive(as("c"), receiving("tx", "g"))
		if len(got) != 1 || got[0].SystemProperties.GetMessageType() != v2.MessageType_NORMAL || got[0].SystemProperties.GetQueueOffset() != 0 {
			t.Errorf("received %v", got)
		}
		st := f.end("tx", "id-1", id, v2.TransactionResolution_ROLLBACK, v2.TransactionSource_SOURCE_CLIENT)
		if st.Code != v2.Code_INVALID_TRANSACTION_ID || !strings.Contains(st.Message, "committed already, by a check") {
			t.Errorf("rollback after commit: %v", st)
		}
		if st := f.end("tx", "id-1", id, v2.TransactionResolution_COMMIT, 0); st.Code != v2.Code_OK {
			t.Errorf("commit again: %v", st)
		}
	})
}

// A check waits in the client's backlog, and the decision comes meanwhile. The
// next command shows that nothing was written before it.
func TestCheckOfADecidedTransactionIsNotWritten(t *testing.T) {
	f := start(t, Options{})
	f.topic("tx", topic.Transaction, 1)
	stream := f.telemetry(as("p"))
	settle(t, stream, producerSettings("tx"))
	id := f.sendHalf(plain("tx", "id-1", "body"))
	f.end("tx", "", id, v2.TransactionResolution_ROLLBACK, 0)
	for _, c := range []session.Command{session.RecoverTransaction{ID: id}, session.Reconnect{Nonce: "next"}} {
		if err := f.broker.Sessions().Send("p", c); err != nil {
			t.Fatal(err)
		}
	}
	if cmd, err := stream.Recv(); err != nil || cmd.GetReconnectEndpointsCommand().GetNonce() != "next" {
		t.Errorf("%v, %v", cmd, err)
	}
}

func TestOperatorSettlesTransactions(t *testing.T) {
	f := start(t, Options{})
	f.topic("tx", topic.Transaction, 4)
	ctx := context.Background()
	m := plain("tx", "id-1", strings.Repeat("x", 100_000))
	m.SystemProperties.Tag, m.SystemProperties.Keys, m.UserProperties = ptr("A"), []string{"k"}, map[string]string{"a": "1"}
	commit := f.sendHalf(m)
	rollback := f.sendHalf(plain("tx", "id-2", "never"))

	list, err := f.admin.ListTransactions(ctx, &gantryv1.ListTransactionsRequest{Topic: "tx"})
	if err != nil || len(list.Transactions) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	first := list.Transactions[0]
	if first.Id != commit || first.MessageId != "id-1" || first.Topic != "tx" || first.State != gantryv1.TransactionState_OPEN ||
		first.NextCheck.AsTime().Sub(first.Stored.AsTime()) != 6*time.Second {
		t.Errorf("listed %v", first)
	}
	if list, err := f.admin.ListTransactions(ctx, &gantryv1.ListTransactionsRequest{Parked: true}); err != nil || len(list.Transactions) != 0 {
		t.Errorf("parked: %v, %v", list, err)
	}
	shown, err := f.admin.DescribeTransaction(ctx, &gantryv1.DescribeTransactionRequest{Id: commit})
	if err != nil || shown.Tag != "A" || shown.Keys[0] != "k" || shown.Properties["a"] != "1" || shown.BodySize != 100_000 || len(shown.Body) != shownBody {
		t.Errorf("%v, %v", shown, err)
	}
	for _, c := range []struct {
		id    string
		do    gantryv1.Settlement
		state gantryv1.TransactionState
		code  codes.Code
	}{
		{commit, gantryv1.Settlement_RECHECK, gantryv1.TransactionState_OPEN, codes.OK},
		{commit, gantryv1.Settlement_COMMIT, gantryv1.TransactionState_COMMITTED, codes.OK},
		{commit, gantryv1.Settlement_COMMIT, gantryv1.TransactionState_COMMITTED, codes.OK},
		{commit, gantryv1.Settlement_ROLLBACK, 0, codes.FailedPrecondition},
		{commit, gantryv1.Settlement_RECHECK, 0, codes.FailedPrecondition},
		{rollback, gantryv1.Settlement_ROLLBACK, gantryv1.TransactionState_ROLLED_BACK, codes.OK},
		{rollback, gantryv1.Settlement_SETTLEMENT_UNSPECIFIED, 0, codes.InvalidArgument},
		{"made up", gantryv1.Settlement_COMMIT, 0, codes.InvalidArgument},
	} {
		resp, err := f.admin.SettleTransaction(ctx, &gantryv1.SettleTransactionRequest{Id: c.id, Settlement: c.do})
		if status.Code(err) != c.code || resp.GetTransaction().GetState() != c.state {
			t.Errorf("%v of %.6s: %v, %v", c.do, c.id, resp, err)
		}
	}
	shown, err = f.admin.DescribeTransaction(ctx, &gantryv1.DescribeTransactionRequest{Id: rollback})
	if err != nil || shown.Transaction.DecidedBy != "an operator" || shown.Transaction.Decided == nil {
		t.Errorf("after the rollback: %v, %v", shown, err)
	}
	if _, got := f.receive(as("c"), receiving("tx", "g")); len(got) != 1 || got[0].SystemProperties.MessageId != "id-1" {
		t.Errorf("received %v", got)
	}
}
