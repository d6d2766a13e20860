package client

import (
	"errors"
	"fmt"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// Code says why the broker refused something: the numbers of
// apache.rocketmq.v2.Code.
type Code int32

// The codes that programs act on. The rest are in
// proto/apache/rocketmq/v2/definition.proto.
const (
	CodeOK                 Code = 20000
	CodeIllegalTopic       Code = 40002
	CodeIllegalFilter      Code = 40010
	CodeIllegalTime        Code = 40012
	CodeInvalidHandle      Code = 40013
	CodeTypeConflict       Code = 40014
	CodeIllegalOffset      Code = 40019
	CodeUnauthorized       Code = 40100
	CodeForbidden          Code = 40300
	CodeTopicNotFound      Code = 40402
	CodeGroupNotFound      Code = 40403
	CodeBodyTooLarge       Code = 41301
	CodeBodyEmpty          Code = 41302
	CodePreconditionFailed Code = 42800
	CodeTooManyRequests    Code = 42900
	CodeInternal           Code = 50001
	CodeUnavailable        Code = 50002
	CodeNotImplemented     Code = 50100
)

// Error is a refusal by the broker. errors.Is compares it by its code.
type Error struct {
	Code    Code
	Message string // which field, which limit
}

func (e *Error) Error() string { return fmt.Sprintf("gantry: %s (code %d)", e.Message, e.Code) }

// Is reports whether target is an *Error of the same code.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// Temporary reports whether the same request may succeed later: the broker is
// short of something, or another node leads.
func (e *Error) Temporary() bool { return e.Code == CodeTooManyRequests || e.Code == CodeUnavailable }

// Errors to compare with, by errors.Is.
var (
	ErrTopicNotFound   error = &Error{CodeTopicNotFound, "the topic does not exist"}
	errGroupNotFound   error = &Error{CodeGroupNotFound, "the group does not exist"}
	ErrTooManyRequests error = &Error{CodeTooManyRequests, "the broker is short of something"}
	ErrUnauthorized    error = &Error{CodeUnauthorized, "the client may not do this"}
	// ErrLeaseLost: the message is settled already, or was handed out again.
	ErrLeaseLost error = &Error{CodeInvalidHandle, "the lease is over"}
	// ErrDecided: a transaction, or a delayed message, was decided on otherwise
	// before.
	ErrDecided error = &Error{CodePreconditionFailed, "it was decided before"}
)

var (
	// ErrClosed is the error of calls on what was closed.
	ErrClosed = errors.New("gantry: closed")
	// ErrUnknown wraps the reason why the outcome of a send is not known: it was
	// given up before the broker answered.
	ErrUnknown = errors.New("gantry: the outcome of the send is unknown")
)

// statusError returns nil for OK, which an absent status is too.
func statusError(s *gantryv1.StreamStatus) error {
	if s == nil || Code(s.Code) == CodeOK {
		return nil
	}
	return &Error{Code: Code(s.Code), Message: s.Message}
}
