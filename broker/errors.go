package broker

import (
	"errors"
	"fmt"
)

// Reason says why a request failed, in the terms of the public contract but
// without its numbers: api maps each Reason to one wire code in one table. New ones
// go to the end: producer marks in the log carry their numbers.
type Reason int

const (
	Internal Reason = iota
	BadRequest
	IllegalTopic
	IllegalGroup
	IllegalTag
	IllegalKey
	IllegalMessageGroup
	IllegalPropertyKey
	IllegalMessageID
	IllegalFilter
	IllegalInvisibleTime
	IllegalDeliveryTime
	IllegalPollingTime
	IllegalOffset
	IllegalLiteTopic
	InvalidHandle
	InvalidTransaction
	TypeConflict
	Corrupted
	TopicNotFound
	GroupNotFound
	MessageNotFound
	OffsetNotFound
	Forbidden
	BodyTooLarge
	BodyEmpty
	PropertiesTooLarge
	TooManyRequests
	Unsupported
	AlreadyExists
	PreconditionFailed
	Unavailable
	LiteTopicQuota
	LiteSubscriptionQuota
	Unauthorized
	UserNotFound
	PolicyNotFound
	QuotaNotFound
)

// Error is a failure that a client is told about. Message names the field and
// the limit; it never carries what a client must not see.
type Error struct {
	Reason  Reason
	Message string
	Cause   error
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Cause }

// Errorf makes an Error. A trailing %w is kept as its cause.
func Errorf(r Reason, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: r, Message: err.Error(), Cause: errors.Unwrap(err)}
}

// ReasonOf returns the Reason in err's chain, Internal when there is none.
func ReasonOf(err error) Reason {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return Internal
}
