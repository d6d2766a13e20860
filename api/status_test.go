package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

var discard = slog.New(slog.DiscardHandler)

func TestEveryReasonHasAnOutcome(t *testing.T) {
	for r := broker.Internal; r <= broker.QuotaNotFound; r++ {
		o, ok := outcomes[r]
		if !ok {
			t.Errorf("reason %d has no outcome", r)
			continue
		}
		if v2.Code_name[int32(o.code)] == "" || o.code == v2.Code_CODE_UNSPECIFIED || o.code == v2.Code_OK {
			t.Errorf("reason %d: code %d is not one that tells of a failure", r, o.code)
		}
		if o.grpc == codes.OK || o.grpc == codes.Unknown {
			t.Errorf("reason %d: gRPC code %v", r, o.grpc)
		}
	}
	if len(outcomes) != int(broker.QuotaNotFound)+1 {
		t.Errorf("%d outcomes for %d reasons", len(outcomes), broker.QuotaNotFound+1)
	}
}

func TestStatusTellsTheMessageOfARefusal(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", broker.Errorf(broker.IllegalTag, "tag is longer than 16384 bytes"))
	st := statusFor(discard, err)
	if st.Code != v2.Code_ILLEGAL_MESSAGE_TAG || st.Message != "tag is longer than 16384 bytes" {
		t.Errorf("status %v", st)
	}
	if got := status.Convert(rpcError(discard, err)); got.Code() != codes.InvalidArgument || got.Message() != st.Message {
		t.Errorf("gRPC status %v", got)
	}
	if statusFor(discard, nil).Code != v2.Code_OK || rpcError(discard, nil) != nil {
		t.Error("no error is not OK")
	}
}

func TestAClientThatLeavesAStreamIsNoFaultOfTheServer(t *testing.T) {
	var logged strings.Builder
	gone := status.Error(codes.Unavailable, "transport is closing") // what its Send returns
	if err := rpcError(slog.New(slog.NewTextHandler(&logged, nil)), gone); status.Code(err) != codes.Unavailable || logged.Len() > 0 {
		t.Errorf("%v, and logged %q", err, logged.String())
	}
}

func TestStatusKeepsInternalsToTheLog(t *testing.T) {
	var logged strings.Builder
	log := slog.New(slog.NewTextHandler(&logged, nil))
	secret := errors.New("open /var/lib/secret: permission denied")
	if st := statusFor(log, secret); st.Code != v2.Code_INTERNAL_SERVER_ERROR || strings.Contains(st.Message, "secret") {
		t.Errorf("status %v", st)
	}
	if st := status.Convert(rpcError(log, secret)); st.Code() != codes.Internal || strings.Contains(st.Message(), "secret") {
		t.Errorf("gRPC status %v", st)
	}
	if strings.Count(logged.String(), "secret") != 2 {
		t.Errorf("the log does not have the reason twice:\n%s", &logged)
	}
}

func TestStatusOfACallThatEndedIsNotLogged(t *testing.T) {
	var logged strings.Builder
	log := slog.New(slog.NewTextHandler(&logged, nil))
	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		if st := statusFor(log, err); st.Code != v2.Code_PROXY_TIMEOUT {
			t.Errorf("%v: status %v", err, st)
		}
	}
	if logged.Len() > 0 {
		t.Errorf("logged: %s", &logged)
	}
}

func TestCommonStatusIsMixedOnlyWhenEntriesDisagree(t *testing.T) {
	ok, bad := statusOK, &v2.Status{Code: v2.Code_INVALID_RECEIPT_HANDLE}
	for _, c := range []struct {
		entries []*v2.Status
		want    v2.Code
	}{
		{[]*v2.Status{ok}, v2.Code_OK},
		{[]*v2.Status{ok, ok}, v2.Code_OK},
		{[]*v2.Status{bad, bad}, v2.Code_INVALID_RECEIPT_HANDLE},
		{[]*v2.Status{ok, bad, ok}, v2.Code_MULTIPLE_RESULTS},
	} {
		var common agreed
		for _, st := range c.entries {
			common.add(st)
		}
		if got := common.status(); got.Code != c.want {
			t.Errorf("%v: %v, want %v", c.entries, got.Code, c.want)
		}
	}
}

func TestEveryMessagingResponseCanCarryARefusal(t *testing.T) {
	methods := v2.File_apache_rocketmq_v2_service_proto.Services().ByName("MessagingService").Methods()
	for i := range methods.Len() {
		name := string(methods.Get(i).Name())
		m := refusal(messagingPrefix+name, identify(context.Background()))
		if !strings.Contains(fmt.Sprint(m), "CLIENT_ID_REQUIRED") {
			t.Errorf("%s: %v", name, m)
		}
	}
}
