package main

import (
	"encoding/json"
	"strings"
	"testing"

	"google.golang.org/grpc/metadata"

	"github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// sendHalf stores a transactional message, which no command does, and returns
// its transaction id.
func (s *serving) sendHalf(t *testing.T, topic, id, body string) string {
	t.Helper()
	c, err := (&clientFlags{server: s.server}).connect()
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	tag := "A"
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-mq-client-id", "producer")
	r, err := rocketmqv2.NewMessagingServiceClient(c.conn).SendMessage(ctx, &rocketmqv2.SendMessageRequest{Messages: []*rocketmqv2.Message{{
		Topic: &rocketmqv2.Resource{Name: topic}, Body: []byte(body), UserProperties: map[string]string{"price": "12"},
		SystemProperties: &rocketmqv2.SystemProperties{MessageId: id, Tag: &tag, MessageType: rocketmqv2.MessageType_TRANSACTION},
	}}})
	if err != nil || r.GetStatus().GetCode() != rocketmqv2.Code_OK {
		t.Fatal(r, err)
	}
	return r.GetEntries()[0].GetTransactionId()
}

func TestTransactionsAreListedShownAndSettled(t *testing.T) {
	s := serve(t, t.TempDir())
	gantry := func(args ...string) string { return ok(t, append(args, "--server", s.server)...) }
	gantry("topic", "create", "orders", "--type", "transaction")
	commit := s.sendHalf(t, "orders", "m-1", "one")
	rollback := s.sendHalf(t, "orders", "m-2", "two")

	if list := gantry("txn", "list", "--topic", "orders"); !strings.Contains(list, commit) || !strings.Contains(list, "m-2") || !strings.Contains(list, "open") {
		t.Errorf("list:\n%s", list)
	}
	if list := gantry("txn", "list", "--limit", "1"); strings.Contains(list, "m-2") || !strings.Contains(list, "--after "+commit) {
		t.Errorf("first page:\n%s", list)
	}
	if list := gantry("txn", "list", "--after", commit); strings.Contains(list, "m-1") || !strings.Contains(list, "m-2") {
		t.Errorf("second page:\n%s", list)
	}
	if list := gantry("txn", "list", "--parked", "--json"); strings.TrimSpace(list) != "[]" {
		t.Errorf("parked: %s", list)
	}
	for _, part := range []string{"open", "m-1", "tag", "property price", "body, 3 bytes:\none"} {
		if shown := gantry("txn", "show", commit); !strings.Contains(shown, part) {
			t.Errorf("show lacks %q:\n%s", part, shown)
		}
	}
	if out := gantry("txn", "list", "--parked"); out != "no undecided transaction\n" {
		t.Error(out)
	}
	if out := gantry("txn", "recheck", commit); !strings.HasSuffix(out, "asked again; none is connected now\n") {
		t.Error(out)
	}
	gantry("txn", "commit", commit)
	gantry("txn", "rollback", rollback)
	var v txnView
	if err := json.Unmarshal([]byte(gantry("txn", "show", "--json", rollback)), &v); err != nil || v.State != "rolled back" || v.DecidedBy != "an operator" || v.Message != nil {
		t.Errorf("%+v, %v", v, err)
	}
	if shown := gantry("txn", "show", commit); !strings.Contains(shown, "committed\nby an operator") {
		t.Errorf("show:\n%s", shown)
	}
	code, _, errOut := cli(t, "txn", "rollback", commit, "--server", s.server)
	if code != exitFailed || !strings.Contains(errOut, "committed already, by an operator") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if code, _, _ := cli(t, "txn", "list", "--limit", "0", "--server", s.server); code != exitUsage {
		t.Errorf("a limit of 0: exit %d", code)
	}
}
