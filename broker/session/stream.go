package session

import (
	"errors"
	"slices"
)

// Command is something the broker tells a client. Concrete types are the only
// implementations, so whoever writes them to the wire can be exhaustive.
type Command interface{ command() }

// Reconnect asks a client to build its connections anew.
type Reconnect struct{ Nonce string }

func (Reconnect) command() {}

// UnsubscribeLite tells a consumer that a lite topic is gone or no longer its.
type UnsubscribeLite struct{ LiteTopic string }

func (UnsubscribeLite) command() {}

// RecoverTransaction asks a producer whether a half message is to be delivered.
// The message is looked up when the command is written: it may be large, and
// decided by then.
type RecoverTransaction struct{ ID string }

func (RecoverTransaction) command() {}

// PrintStack asks a client what its threads are doing. Its answer has the nonce.
type PrintStack struct{ Nonce string }

func (PrintStack) command() {}

// VerifyMessage has a consumer consume one message, outside of any lease. Its answer
// has the nonce. The message is whoever's that sends the command: it may be large.
type VerifyMessage struct{ Nonce string }

func (VerifyMessage) command() {}

// ErrNoStream reports a client without an open command stream.
var ErrNoStream = errors.New("session: client has no open stream")

type stream struct{ send func(Command) error }

// Attach makes send the way to reach the client until detach is called. It must
// not block.
//
// The newest stream wins, because an SDK that reopens a stream may do so before
// the server has noticed the end of the old one. An older stream that is still
// open takes over when a newer one ends: C++ clients keep one stream to the
// access point and one to the address in the route, which may both be us.
func (r *Registry) Attach(id string, send func(Command) error) (detach func()) {
	s := &stream{send: send}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.streams[id] = append(r.streams[id], s)
	return func() { r.detach(id, s) }
}

func (r *Registry) detach(id string, s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	open := slices.DeleteFunc(r.streams[id], func(o *stream) bool { return o == s })
	if len(open) == 0 {
		delete(r.streams, id)
		return
	}
	r.streams[id] = open
}

// Send gives c to the client's newest stream. It reports ErrNoStream, or what
// the stream's own send reports.
func (r *Registry) Send(id string, c Command) error {
	r.mu.Lock()
	open := r.streams[id]
	var s *stream
	if len(open) > 0 {
		s = open[len(open)-1]
	}
	r.mu.Unlock()
	if s == nil {
		return ErrNoStream
	}
	return s.send(c)
}
