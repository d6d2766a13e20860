// Package stable keeps what a raft node must not forget: its term and its vote.
// A node that forgets a vote may vote twice in one term, and then there are two
// leaders.
//
// # One damaged slot never brings an old vote back
//
// A Set writes its state into the first slot, makes it durable, and then the same
// for the second. Only then does it return. So
//
//   - at any time at most one slot is being written, and the other one is durable
//     and holds everything that was acknowledged;
//   - a slot that cannot be read, torn or rotten, can be replaced by the other, and
//     is when the store is opened.
//
// With slots written in turn, each Set into the one that is older, a bad slot
// beside a good one could be a write that never finished, or the newest vote gone
// bad, and nothing tells the two apart. The price of knowing is a second sync per
// Set; there are three Sets in an election and none otherwise.
//
// What no crash can leave is refused with ErrCorrupt: both slots bad, or both good
// but not neighbours. And a missing file is an error of Open, not an empty store: a
// node that lost it must not vote under its old name.
//
// # Half a vote
//
// Raft writes a vote as two Sets, LastVoteTerm and then LastVoteCand. A crash
// between them would leave a vote in the new term for the candidate of the old one,
// and raft repeats a vote it finds without looking at the candidate's log, so an
// outdated node could be elected (hashicorp/raft#661). Here the first of the two
// also forgets the candidate, in the same write: then there is no vote to repeat,
// and none was promised.
package stable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// The names that raft uses for a vote.
const (
	keyVoteTerm      = "LastVoteTerm"
	keyVoteCandidate = "LastVoteCand"
)

// Store is a raft.StableStore in one file. Methods may be called concurrently;
// Sets take effect, in the file as well, in the order in which they return.
type Store struct {
	// mu is held over writes: their order is the promise.
	mu     sync.Mutex
	file   mmapfile.File
	slot   slot
	failed error // of the first write that failed: the file is not known from then on
}

var _ raft.StableStore = (*Store)(nil)

// Create makes an empty store, durable when it returns. The name must be free, or
// the error is fs.ErrExist. A crash leaves the whole file or none. The caller holds
// the lock of the directory.
func Create(fsys mmapfile.FS, name string) (*Store, error) {
	if f, err := fsys.OpenRead(name); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			f.Close()
			err = &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
		}
		return nil, fmt.Errorf("stable: %w", err)
	}
	empty := slot{seq: 1, values: map[string][]byte{}}
	b, err := empty.encode()
	if err != nil {
		return nil, err
	}
	if err := mmapfile.WriteFile(fsys, name, append(b, b...)); err != nil {
		return nil, fmt.Errorf("stable: %w", err)
	}
	file, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("stable: %w", err)
	}
	return &Store{file: file, slot: empty}, nil
}

// Open opens an existing store. The error is fs.ErrNotExist when there is none, and
// ErrCorrupt, with the file's name, when what is there cannot be trusted. A slot
// that had to be restored from the other is logged: after a power loss that is
// expected, at other times the disk is going bad.
func Open(fsys mmapfile.FS, name string, logger *slog.Logger) (*Store, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, fmt.Errorf("stable: %w", err)
	}
	s := &Store{file: file}
	if err := s.recover(logger); err != nil {
		file.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) recover(logger *slog.Logger) error {
	corrupt := func(cause error) error {
		return fmt.Errorf("%w: %s: %w", ErrCorrupt, s.file.Name(), cause)
	}
	if s.file.Size() != fileLen {
		return corrupt(fmt.Errorf("%d bytes, want %d", s.file.Size(), fileLen))
	}
	first, err0 := s.read(0)
	second, err1 := s.read(1)
	stale := -1 // the slot to restore
	switch {
	case err0 != nil && err1 != nil:
		return corrupt(fmt.Errorf("first slot: %w; second slot: %w", err0, err1))
	case err0 != nil:
		s.slot, stale = second, 0
	case err1 != nil:
		s.slot, stale = first, 1
	case first.seq == second.seq+1:
		s.slot, stale = first, 1 // stopped between the two
	case first.seq == second.seq && maps.EqualFunc(first.values, second.values, bytes.Equal):
		s.slot = first
	default:
		return corrupt(fmt.Errorf("the slots are writes %d and %d, not one or two in a row", first.seq, second.seq))
	}
	// A killed process may have left the slot written, but not durable. It must be
	// before the other is touched, and before anybody acts by it.
	if err := s.file.Datasync(); err != nil {
		return fmt.Errorf("stable: %w", err)
	}
	if stale < 0 {
		return nil
	}
	if bad := errors.Join(err0, err1); bad != nil {
		logger.Warn("a slot of the raft vote was damaged; restored from the other", "file", s.file.Name(), "slot", stale, "cause", bad)
	}
	b, err := s.slot.encode()
	if err != nil {
		return err
	}
	return s.write(stale, b)
}

func (s *Store) read(i int) (slot, error) {
	b := make([]byte, slotLen)
	if _, err := s.file.ReadAt(b, int64(i)*slotLen); err != nil {
		return slot{}, err
	}
	return decode(b)
}

// write makes b the content of slot i, durably.
func (s *Store) write(i int, b []byte) error {
	if _, err := s.file.WriteAt(b, int64(i)*slotLen); err != nil {
		return fmt.Errorf("stable: %w", err)
	}
	if err := s.file.Datasync(); err != nil {
		return fmt.Errorf("stable: %w", err)
	}
	return nil
}

// Set stores value under key. When it returns nil, that is durable. After
// ErrTooLarge nothing has changed. After any other error it is not known what is on
// disk, so this and every later call of Get and Set fail with it: the node has to
// stop.
func (s *Store) Set(key, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	if old, ok := s.slot.values[string(key)]; ok && bytes.Equal(old, value) {
		return nil
	}
	next := slot{seq: s.slot.seq + 1, values: maps.Clone(s.slot.values)}
	next.values[string(key)] = append([]byte{}, value...)
	if string(key) == keyVoteTerm {
		delete(next.values, keyVoteCandidate)
	}
	b, err := next.encode()
	if err != nil {
		return err
	}
	for i := range 2 {
		if s.failed = s.write(i, b); s.failed != nil {
			return s.failed
		}
	}
	s.slot = next
	return nil
}

// Get returns a copy of the value of key, nil when there is none.
func (s *Store) Get(key []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.slot.values[string(key)]), s.failed
}

// SetUint64 is Set of a number.
func (s *Store) SetUint64(key []byte, value uint64) error {
	return s.Set(key, le.AppendUint64(nil, value))
}

// GetUint64 returns the number that was stored under key, 0 when there is none.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	b, err := s.Get(key)
	switch {
	case err != nil || b == nil:
		return 0, err
	case len(b) != 8:
		return 0, fmt.Errorf("stable: %s is %d bytes, not a number", key, len(b))
	}
	return le.Uint64(b), nil
}

// Close releases the file. What was set is durable already.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.file.Close()
}
