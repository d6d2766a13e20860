package api

import (
	"context"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/proto/wire"
)

// sendRequest is a SendMessageRequest, read where gRPC put it: strings and
// bodies alias gRPC's buffer, on which it has a reference until free. Fields of
// the message are by number, as in definition.proto.
type sendRequest struct {
	messages []broker.Outgoing

	held mem.Buffer
	keys []string          // of all messages
	user []broker.Property // likewise
}

var sendRequests = sync.Pool{New: func() any { return new(sendRequest) }}

func newSendRequest() *sendRequest { return sendRequests.Get().(*sendRequest) }

// UnmarshalWire reads the request. A request that came in several frames has
// been copied into one piece of memory before.
func (r *sendRequest) UnmarshalWire(data mem.BufferSlice) error {
	r.held = data.MaterializeToBuffer(wire.Buffers)
	return r.read(r.held.ReadOnlyData())
}

func (r *sendRequest) read(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if m, ok := f.Bytes(); ok {
				f.Fail(r.readMessage(m))
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}

// free gives gRPC's buffer back: nothing may use the request's strings and
// bodies any more.
func (r *sendRequest) free() {
	if r.held != nil {
		r.held.Free()
	}
	clear(r.messages)
	clear(r.keys)
	clear(r.user)
	*r = sendRequest{messages: r.messages[:0], keys: r.keys[:0], user: r.user[:0]}
	if cap(r.messages) <= broker.MaxSendBatch && cap(r.keys) <= 4*broker.MaxSendBatch && cap(r.user) <= 4*broker.MaxSendBatch {
		sendRequests.Put(r)
	}
}

// fillHosts has messages whose producer did not say where it is come from the
// other end of the connection.
func (r *sendRequest) fillHosts(ctx context.Context) {
	for i := range r.messages {
		if m := &r.messages[i]; m.BornHost == "" {
			m.BornHost = remoteAddr(ctx)
		}
	}
}

// timespan is a Timestamp or a Duration: both are seconds (1) and nanos (2).
type timespan struct {
	set     bool
	seconds int64
	nanos   int32
}

func (t *timespan) read(b []byte) error {
	t.set = true
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if v, ok := f.Varint(); ok {
				t.seconds = int64(v)
			}
		case 2:
			if v, ok := f.Varint(); ok {
				t.nanos = int32(v)
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}

// unixMilli saturates, because a client may send any seconds and an overflow
// would turn "in a million years" into "now".
func (t *timespan) unixMilli() int64 {
	switch {
	case t.seconds > math.MaxInt64/1000-1:
		return math.MaxInt64
	case t.seconds < math.MinInt64/1000+1:
		return math.MinInt64
	}
	return t.seconds*1000 + int64(t.nanos)/1e6
}

// valid reports whether it is a Timestamp as that type's documentation has it.
func (t *timespan) valid() bool {
	return t.set && (&timestamppb.Timestamp{Seconds: t.seconds, Nanos: t.nanos}).IsValid()
}

// duration saturates, too.
func (t *timespan) duration() time.Duration {
	return (&durationpb.Duration{Seconds: t.seconds, Nanos: t.nanos}).AsDuration()
}

// readResource reads a Resource over what is there: protobuf merges a message
// field that comes twice.
func readResource(to *record.Resource, b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if s, ok := f.String(); ok {
				to.Namespace = s
			}
		case 2:
			if s, ok := f.String(); ok {
				to.Name = s
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}

// readMessage reads one message of a send. It looks at nothing: every rule is
// the broker's.
func (r *sendRequest) readMessage(b []byte) error {
	r.messages = append(r.messages, broker.Outgoing{})
	m := &r.messages[len(r.messages)-1]
	keys, user := len(r.keys), len(r.user)
	var times messageTimes
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if v, ok := f.Bytes(); ok {
				f.Fail(readResource(&m.Topic, v))
			}
		case 2:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.readProperty(v))
			}
		case 3:
			if v, ok := f.Bytes(); ok {
				f.Fail(r.readSystem(m, &times, v))
			}
		case 4:
			if v, ok := f.Bytes(); ok {
				m.Body = v
			}
		default:
			f.Skip()
		}
	}
	if len(r.keys) > keys {
		m.Keys = r.keys[keys:len(r.keys):len(r.keys)]
	}
	r.user = lastOfEach(r.user, user)
	if len(r.user) > user {
		m.User = r.user[user:len(r.user):len(r.user)]
	}
	times.apply(m)
	return f.Err()
}

// readProperty reads one entry of the map of user properties.
func (r *sendRequest) readProperty(b []byte) error {
	var p broker.Property
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if s, ok := f.String(); ok {
				p.Key = s
			}
		case 2:
			if s, ok := f.String(); ok {
				p.Value = s
			}
		default:
			f.Skip()
		}
	}
	r.user = append(r.user, p)
	return f.Err()
}

// lastOfEach leaves of the properties from index from on one for each key: the
// last, as maps have it, in the place of the first.
func lastOfEach(all []broker.Property, from int) []broker.Property {
	props := all[from:]
	if len(props) < 2 {
		return all
	}
	kept := from
	if len(props) <= 16 {
		for _, p := range props {
			at := from
			for at < kept && all[at].Key != p.Key {
				at++
			}
			all[at] = p
			kept = max(kept, at+1)
		}
		return all[:kept]
	}
	places := make(map[string]int, len(props))
	for _, p := range props {
		at, seen := places[p.Key]
		if !seen {
			at = kept
			places[p.Key] = at
			kept++
		}
		all[at] = p
	}
	return all[:kept]
}

// messageTimes are the times of a message while it is read.
type messageTimes struct{ born, due, recovery timespan }

func (t *messageTimes) apply(m *broker.Outgoing) {
	if t.born.valid() {
		m.BornTime = max(0, t.born.unixMilli())
	}
	if t.due.set {
		// Presence alone makes it a delay message: a time at or before 1970 is
		// one that is due now, not one without a time.
		m.DueTime = max(1, t.due.unixMilli())
	}
	if t.recovery.set {
		d := t.recovery.duration()
		m.RecoverySeconds = int64(d / time.Second)
		if d%time.Second > 0 {
			m.RecoverySeconds++
		}
	}
}

// readSystem reads SystemProperties. What only deliveries have is looked at for
// its faults.
func (r *sendRequest) readSystem(m *broker.Outgoing, times *messageTimes, b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			if s, ok := f.String(); ok {
				m.Tag = s
			}
		case 2:
			if s, ok := f.String(); ok {
				r.keys = append(r.keys, s)
			}
		case 3:
			if s, ok := f.String(); ok {
				m.ID = s
			}
		case 4: // body_digest: the broker makes its own
			if v, ok := f.Bytes(); ok {
				f.Fail(checkDigest(v))
			}
		case 5:
			if v, ok := f.Varint(); ok {
				m.Packing = 0
				if v2.Encoding(int32(v)) == v2.Encoding_GZIP {
					m.Packing = record.FlagGzip
				}
			}
		case 6:
			if v, ok := f.Varint(); ok {
				m.Transaction = v2.MessageType(int32(v)) == v2.MessageType_TRANSACTION
			}
		case 7:
			if v, ok := f.Bytes(); ok {
				f.Fail(times.born.read(v))
			}
		case 8:
			if s, ok := f.String(); ok {
				m.BornHost = s
			}
		case 9, 15: // store_timestamp, invisible_duration
			if v, ok := f.Bytes(); ok {
				f.Fail(new(timespan).read(v))
			}
		case 10, 12: // store_host, receipt_handle
			f.String()
		case 11:
			if v, ok := f.Bytes(); ok {
				f.Fail(times.due.read(v))
			}
		case 17:
			if s, ok := f.String(); ok {
				m.Group, m.HasGroup = s, true
			}
		case 18:
			if s, ok := f.String(); ok {
				m.Trace = s
			}
		case 19:
			if v, ok := f.Bytes(); ok {
				f.Fail(times.recovery.read(v))
			}
		case 20: // dead_letter_queue
			if v, ok := f.Bytes(); ok {
				f.Fail(checkOrigin(v))
			}
		case 21:
			if s, ok := f.String(); ok {
				m.LiteTopic = s
			}
		case 22:
			if v, ok := f.Varint(); ok {
				m.Priority, m.HasPriority = int32(v), true
			}
		default:
			f.Skip()
		}
	}
	return f.Err()
}

// checkDigest looks at a Digest, which official clients send with each message.
func checkDigest(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1:
			f.Varint()
		case 2:
			f.String()
		default:
			f.Skip()
		}
	}
	return f.Err()
}

// checkOrigin looks at a DeadLetterQueue.
func checkOrigin(b []byte) error {
	f := wire.NewReader(b)
	for f.Next() {
		switch f.Field() {
		case 1, 2:
			f.String()
		default:
			f.Skip()
		}
	}
	return f.Err()
}
