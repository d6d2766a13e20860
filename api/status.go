package api

import (
	"context"
	"errors"
	"log/slog"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// outcomes says how each of the broker's reasons is told to a messaging client
// and to an operator. SDKs choose exceptions and retries by the code
// (wire-contract 10.5): TOO_MANY_REQUESTS makes them back off, and
// INVALID_RECEIPT_HANDLE is the only one on which they stop repeating an ack.
var outcomes = map[broker.Reason]struct {
	code v2.Code
	grpc codes.Code
}{
	broker.Internal:             {v2.Code_INTERNAL_SERVER_ERROR, codes.Internal},
	broker.BadRequest:           {v2.Code_BAD_REQUEST, codes.InvalidArgument},
	broker.IllegalTopic:         {v2.Code_ILLEGAL_TOPIC, codes.InvalidArgument},
	broker.IllegalGroup:         {v2.Code_ILLEGAL_CONSUMER_GROUP, codes.InvalidArgument},
	broker.IllegalTag:           {v2.Code_ILLEGAL_MESSAGE_TAG, codes.InvalidArgument},
	broker.IllegalKey:           {v2.Code_ILLEGAL_MESSAGE_KEY, codes.InvalidArgument},
	broker.IllegalMessageGroup:  {v2.Code_ILLEGAL_MESSAGE_GROUP, codes.InvalidArgument},
	broker.IllegalPropertyKey:   {v2.Code_ILLEGAL_MESSAGE_PROPERTY_KEY, codes.InvalidArgument},
	broker.IllegalMessageID:     {v2.Code_ILLEGAL_MESSAGE_ID, codes.InvalidArgument},
	broker.IllegalFilter:        {v2.Code_ILLEGAL_FILTER_EXPRESSION, codes.InvalidArgument},
	broker.IllegalInvisibleTime: {v2.Code_ILLEGAL_INVISIBLE_TIME, codes.InvalidArgument},
	broker.IllegalDeliveryTime:  {v2.Code_ILLEGAL_DELIVERY_TIME, codes.InvalidArgument},
	broker.IllegalPollingTime:   {v2.Code_ILLEGAL_POLLING_TIME, codes.InvalidArgument},
	broker.IllegalOffset:        {v2.Code_ILLEGAL_OFFSET, codes.OutOfRange},
	broker.IllegalLiteTopic:     {v2.Code_ILLEGAL_LITE_TOPIC, codes.InvalidArgument},
	broker.InvalidHandle:        {v2.Code_INVALID_RECEIPT_HANDLE, codes.InvalidArgument},
	broker.InvalidTransaction:   {v2.Code_INVALID_TRANSACTION_ID, codes.InvalidArgument},
	broker.TypeConflict:         {v2.Code_MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, codes.InvalidArgument},
	broker.Corrupted:            {v2.Code_MESSAGE_CORRUPTED, codes.InvalidArgument},
	broker.TopicNotFound:        {v2.Code_TOPIC_NOT_FOUND, codes.NotFound},
	broker.GroupNotFound:        {v2.Code_CONSUMER_GROUP_NOT_FOUND, codes.NotFound},
	broker.MessageNotFound:      {v2.Code_MESSAGE_NOT_FOUND, codes.NotFound},
	broker.OffsetNotFound:       {v2.Code_OFFSET_NOT_FOUND, codes.NotFound},
	broker.Forbidden:            {v2.Code_FORBIDDEN, codes.PermissionDenied},
	broker.BodyTooLarge:         {v2.Code_MESSAGE_BODY_TOO_LARGE, codes.InvalidArgument},
	broker.BodyEmpty:            {v2.Code_MESSAGE_BODY_EMPTY, codes.InvalidArgument},
	broker.PropertiesTooLarge:   {v2.Code_MESSAGE_PROPERTIES_TOO_LARGE, codes.InvalidArgument},
	broker.TooManyRequests:      {v2.Code_TOO_MANY_REQUESTS, codes.ResourceExhausted},
	broker.Unsupported:          {v2.Code_NOT_IMPLEMENTED, codes.Unimplemented},
	broker.AlreadyExists:        {v2.Code_BAD_REQUEST, codes.AlreadyExists},
	broker.PreconditionFailed:   {v2.Code_PRECONDITION_FAILED, codes.FailedPrecondition},
	broker.Unavailable:          {v2.Code_HA_NOT_AVAILABLE, codes.Unavailable},

	broker.Unauthorized:   {v2.Code_UNAUTHORIZED, codes.Unauthenticated},
	broker.UserNotFound:   {v2.Code_NOT_FOUND, codes.NotFound},
	broker.PolicyNotFound: {v2.Code_NOT_FOUND, codes.NotFound},
	broker.QuotaNotFound:  {v2.Code_NOT_FOUND, codes.NotFound},

	broker.LiteTopicQuota:        {v2.Code_LITE_TOPIC_QUOTA_EXCEEDED, codes.ResourceExhausted},
	broker.LiteSubscriptionQuota: {v2.Code_LITE_SUBSCRIPTION_QUOTA_EXCEEDED, codes.ResourceExhausted},
}

var statusOK = &v2.Status{Code: v2.Code_OK, Message: v2.Code_OK.String()}

// statusFor is err as a messaging client sees it, OK for nil. A failure that
// the broker has no words for is logged here and told without its details.
func statusFor(log *slog.Logger, err error) *v2.Status {
	if err == nil {
		return statusOK
	}
	var told *broker.Error
	var coded *codedError
	switch {
	case errors.As(err, &coded):
		return &v2.Status{Code: coded.code, Message: coded.text}
	case errors.As(err, &told):
		if told.Reason == broker.Internal {
			log.Error("request failed", "error", err, "cause", told.Cause)
		}
		return &v2.Status{Code: outcomes[told.Reason].code, Message: told.Message}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		// The client is not waiting any more; nobody but a packet capture sees it.
		return &v2.Status{Code: v2.Code_PROXY_TIMEOUT, Message: "the request ended before its outcome was known"}
	}
	log.Error("request failed", "error", err)
	return &v2.Status{Code: v2.Code_INTERNAL_SERVER_ERROR, Message: "internal error, the server's log has the reason"}
}

// noteRefusal keeps what a client was refused where operators see it. That a receive
// found nothing is no refusal.
func noteRefusal(r *session.Registry, client, method string, code v2.Code, text string) {
	if code != v2.Code_OK && code != v2.Code_MESSAGE_NOT_FOUND && code != v2.Code_UNRECOGNIZED_CLIENT_TYPE {
		r.Refused(client, session.Refusal{Method: method, Code: code.String(), Text: text})
	}
}

// CodeName names an outcome that Options.Calls has: the contract's codes begin above
// those of gRPC.
func CodeName(code int32) string {
	if code > int32(codes.Unauthenticated) {
		return v2.Code(code).String()
	}
	return codes.Code(code).String()
}

// refused is noteRefusal for a call of a messaging client, and counts it.
func (m *messaging) refused(ctx context.Context, fullMethod string, st *v2.Status) {
	if st.GetCode() != v2.Code_OK {
		m.calls.Refused(fullMethod, int32(st.GetCode()))
	}
	noteRefusal(m.broker.Sessions(), clientID(ctx), strings.TrimPrefix(fullMethod, messagingPrefix), st.GetCode(), st.GetMessage())
}

// rpcError is err as an operator sees it.
func rpcError(log *slog.Logger, err error) error {
	var told *broker.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &told):
		if told.Reason == broker.Internal {
			log.Error("management request failed", "error", err, "cause", told.Cause)
		}
		return status.Error(outcomes[told.Reason].grpc, told.Message)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return status.FromContextError(err).Err()
	}
	if _, sent := status.FromError(err); sent { // gRPC's own, of a stream whose client is gone
		return err
	}
	log.Error("management request failed", "error", err)
	return status.Error(codes.Internal, "internal error, the server's log has the reason")
}

// agreed is the status of a request with entries: theirs if they agree.
type agreed struct {
	first  *v2.Status
	failed *v2.Status // the first that is not OK, nil = none
	mixed  bool
}

func (a *agreed) add(st *v2.Status) {
	if a.first == nil {
		a.first = st
	}
	if a.failed == nil && st != statusOK {
		a.failed = st
	}
	a.mixed = a.mixed || st.Code != a.first.Code
}

// status is what they agree on, after at least one was added.
func (a *agreed) status() *v2.Status {
	if a.mixed {
		return &v2.Status{Code: v2.Code_MULTIPLE_RESULTS, Message: v2.Code_MULTIPLE_RESULTS.String()}
	}
	return a.first
}

// codedError is a failure of the wire contract itself, which the broker has no
// reason for.
type codedError struct {
	code v2.Code
	text string
}

func (e *codedError) Error() string { return e.text }
