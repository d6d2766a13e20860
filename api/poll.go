package api

import (
	"context"
	"time"

	"github.com/gantry-mq/gantry/broker"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

const (
	// replyReserve is how long before a client's deadline a poll that found
	// nothing is answered, so that the answer beats the client's timer.
	replyReserve = 100 * time.Millisecond

	// defaultRequestTimeout is what SDKs give an ordinary call.
	defaultRequestTimeout = 3 * time.Second

	// pollingTimeVersion is the first client version that knows
	// ILLEGAL_POLLING_TIME. The reference compares versions as text, and
	// clients were tested against that.
	pollingTimeVersion = "5.0.3"

	// noDeadline is the time left to a call without a deadline.
	noDeadline = time.Duration(-1)
)

// pollWait is how long a poll may wait for its first message: as long as it
// asked for, within the contract's bounds and the time left to the call, which
// is noDeadline or at least 0.
func pollWait(asked timespan, left, requestTimeout time.Duration, version string) (time.Duration, error) {
	wait := broker.MaxPollWait
	switch {
	case asked.set:
		wait = asked.duration()
	case left != noDeadline:
		wait = left - requestTimeout/2
	}
	wait = min(max(wait, broker.MinPollWait), broker.MaxPollWait)
	if left == noDeadline {
		return wait, nil
	}
	if left < wait && left < broker.MinPollWait {
		reason := broker.BadRequest
		if version >= pollingTimeVersion {
			reason = broker.IllegalPollingTime
		}
		return 0, broker.Errorf(reason, "long_polling_timeout %v is beyond the call's deadline in %v, which must be at least %v away",
			wait, left.Round(time.Millisecond), broker.MinPollWait)
	}
	return min(wait, left-replyReserve), nil
}

// wait applies pollWait to the call of ctx.
func (m *messaging) wait(ctx context.Context, client string, asked timespan) (time.Duration, error) {
	requestTimeout := defaultRequestTimeout
	if c, ok := m.broker.Sessions().Get(client); ok && c.RequestTimeout > 0 {
		requestTimeout = c.RequestTimeout
	}
	left := noDeadline
	if deadline, ok := ctx.Deadline(); ok {
		left = max(0, time.Until(deadline))
	}
	return pollWait(asked, left, requestTimeout, header(ctx, headerClientVersion))
}

func filterTypeOf(t v2.FilterType) (broker.FilterType, error) {
	switch t {
	case v2.FilterType_FILTER_TYPE_UNSPECIFIED, v2.FilterType_TAG:
		return broker.FilterTag, nil
	case v2.FilterType_SQL:
		return broker.FilterSQL, nil
	}
	return 0, broker.Errorf(broker.IllegalFilter, "filter type %d is neither TAG nor SQL", t)
}
