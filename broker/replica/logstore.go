package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/commitlog"
)

// logStore is raft's log store over the commit log. raft calls what writes from
// one goroutine, and GetLog from any.
type logStore struct {
	log   *commitlog.Log
	fatal func(error)
	calls calls

	recent recent

	// The last proposal that was stored; raft's goroutine's. See stamp.
	serial, number uint64
	entries        []commitlog.Entry
}

var (
	_ raft.LogStore          = (*logStore)(nil)
	_ raft.MonotonicLogStore = (*logStore)(nil)
)

// IsMonotonic tells raft that there are no gaps between the indexes.
func (s *logStore) IsMonotonic() bool { return true }

func (s *logStore) FirstIndex() (uint64, error) { return s.log.FirstIndex(), nil }
func (s *logStore) LastIndex() (uint64, error)  { return s.log.LastIndex(), nil }

// GetLog reads an entry. raft compares the error for one that is not there by ==,
// and sends a snapshot then.
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	if s.recent.get(index, out) {
		return nil
	}
	e, err := s.log.Entry(index)
	if errors.Is(err, commitlog.ErrOutOfRange) {
		return raft.ErrLogNotFound
	}
	if err != nil {
		return err
	}
	kind, err := logType(e.Type)
	if err != nil {
		return err
	}
	*out = entry(&e, kind)
	return nil
}

// entry is what raft is given of a stored entry.
func entry(e *commitlog.Entry, kind raft.LogType) raft.Log {
	return raft.Log{
		Index: e.Index, Term: e.Term, Type: kind, Data: e.Payload,
		Extensions: le.AppendUint64(nil, uint64(e.Time)), AppendedAt: time.Unix(0, e.Time),
	}
}

func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs makes entries durable. An error says that none was written: the disk
// is full, or what was proposed does not belong here. After a failed write there
// is no return: the process ends.
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	defer s.calls.begin()()
	s.entries = s.entries[:0]
	defer func() { clear(s.entries) }()
	serial, number, last := s.serial, s.number, s.log.Time()
	for _, l := range logs {
		kind, err := frameType(l.Type)
		if err != nil {
			return err
		}
		e := commitlog.Entry{Index: l.Index, Term: l.Term, Type: kind, Payload: l.Data, Time: l.AppendedAt.UnixNano()}
		if len(l.Extensions) >= 8 {
			e.Time = int64(le.Uint64(l.Extensions))
		}
		last = max(last, e.Time) // as the log has it
		e.Time = last
		if len(l.Extensions) == stampLen {
			proposed, of, n := le.Uint64(l.Extensions[8:]), le.Uint64(l.Extensions[16:]), le.Uint64(l.Extensions[24:])
			if of > serial {
				serial, number = of, 0
			}
			if number++; proposed != l.Term || of != serial || n != number {
				return fmt.Errorf("replica: proposal %d of term %d (%d) in term %d, want number %d of %d: what it says of offsets may be wrong", n, proposed, of, l.Term, number, serial)
			}
		}
		s.entries = append(s.entries, e)
	}
	if err := s.log.Store(s.entries); err != nil {
		return err
	}
	for i := range s.entries {
		s.recent.add(entry(&s.entries[i], logs[i].Type))
	}
	s.serial, s.number = serial, number
	return nil
}

// DeleteRange takes back the end of the log. What is old stays: retention decides
// about that, and it is there for replicas that come late.
func (s *logStore) DeleteRange(first, last uint64) error {
	if last < s.log.LastIndex() {
		return nil
	}
	defer s.calls.begin()()
	s.recent.forget()
	err := s.log.TruncateAfter(first - 1)
	if errors.Is(err, commitlog.ErrAgreed) {
		// Two replicas disagree about what is committed: nothing good can follow.
		s.fatal(fmt.Errorf("replica: the leader wants entries %d to %d taken back: %w", first, last, err))
	}
	return err
}

// A proposal carries when it was made and, for its own node only, of which Term it
// is and its number in it, from 1:
//
//	off size
//	 0   8   time, Unix ns: what every replica keeps as the frame's
//	 8   8   raft's term
//	16   8   serial number of the Term in this process
//	24   8   number
//
// A proposal gives queue offsets after those of the proposal before, as of a state
// in which the leader had applied all before its Term. So the leader itself stores
// none out of raft's term, none of a Term that another has followed, and none after
// one that raft has turned away, as it does while leadership is being handed over:
// rather it steps down.
const stampLen = 32

func stamp(time int64, term, serial, number uint64) []byte {
	b := make([]byte, 0, stampLen)
	b = le.AppendUint64(b, uint64(time))
	b = le.AppendUint64(b, term)
	b = le.AppendUint64(b, serial)
	return le.AppendUint64(b, number)
}

var frameTypes = map[raft.LogType]commitlog.FrameType{
	raft.LogCommand:       commitlog.FrameRecords,
	raft.LogNoop:          commitlog.FrameElection,
	raft.LogBarrier:       commitlog.FrameBarrier,
	raft.LogConfiguration: commitlog.FrameMembership,
}

func frameType(t raft.LogType) (commitlog.FrameType, error) {
	f, ok := frameTypes[t]
	if !ok {
		return 0, fmt.Errorf("replica: entries of type %v are not stored", t)
	}
	return f, nil
}

func logType(f commitlog.FrameType) (raft.LogType, error) {
	for t, g := range frameTypes {
		if g == f {
			return t, nil
		}
	}
	return 0, fmt.Errorf("replica: a frame of type %d is none of raft's", f)
}
