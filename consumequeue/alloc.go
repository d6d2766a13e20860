package consumequeue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// A queue's first extent is one page and each further one doubles, so a small
// queue costs 4 KiB and a long one has few extents.
//
// Freed pages take three steps back to the allocator, because the last durable
// snapshot may still say whose they were, and a crash would bring that back:
//
//	freed     since the last AppendSnapshot
//	covered   the last AppendSnapshot no longer names them, but may not be durable yet
//	free      after Persisted
//
// An arena without any live page goes the same way: AppendSnapshot leaves it
// out, Persisted removes its file.

// run is 2^order pages.
type run struct {
	page  uint32
	order uint8
}

func (s *Store) arenaOf(page uint32) *arena {
	if t := *s.table.Load(); page>>s.pageBits < uint32(len(t)) {
		return t[page>>s.pageBits]
	}
	return nil
}

// at returns where the entry of slot idx of the extent at page is in its arena.
func (s *Store) at(page uint32, idx int64) int64 {
	return int64(page&(1<<s.pageBits-1))<<pageShift + idx<<entryShift
}

// alloc returns a free run. On a full disk it may be shorter than asked for.
// Caller holds writer.
func (s *Store) alloc(order uint8) (run, error) {
	if r, ok := s.fit(order); ok {
		return r, nil
	}
	err := s.addArena()
	if err == nil {
		r, _ := s.fit(order)
		return r, nil
	}
	for errors.Is(err, mmapfile.ErrNoSpace) && order > 0 {
		order--
		if r, ok := s.fit(order); ok {
			return r, nil
		}
	}
	return run{}, err
}

func (s *Store) fit(order uint8) (run, bool) {
	t := *s.table.Load()
	for i := s.hint[order]; i < len(t); i++ {
		if a := t[i]; a != nil && !a.leaving {
			if page, ok := a.space.alloc(order); ok {
				s.hint[order] = i
				a.live += 1 << order
				return run{uint32(i)<<s.pageBits | page, order}, true
			}
		}
	}
	s.hint[order] = len(t)
	return run{}, false
}

// free takes the extents from their queue. Caller holds writer.
func (s *Store) free(exts []extent) {
	for i := range exts {
		r := run{exts[i].page, exts[i].order}
		s.arenaOf(r.page).live -= 1 << r.order
		s.freed = append(s.freed, r)
	}
}

// giveBack makes a run allocatable. Caller holds writer.
func (s *Store) giveBack(r run) {
	a := s.arenaOf(r.page)
	a.space.release(r.page&(1<<s.pageBits-1), r.order)
	s.offer(int(a.id))
}

// offer makes the search for space look at arena id again.
func (s *Store) offer(id int) {
	for o := range s.hint {
		s.hint[o] = min(s.hint[o], id)
	}
}

// addArena makes a file. It does not sync: Flush does, before any snapshot can
// name it.
func (s *Store) addArena() error {
	t := *s.table.Load()
	id := slices.Index(t, nil)
	if id < 0 {
		id = len(t)
	}
	if id >= maxArenas {
		return fmt.Errorf("consumequeue: %d arenas of %d bytes are the most", maxArenas, s.arenaSize)
	}
	name := arenaName{uint32(id), rand.Uint64()}
	f, err := s.fs.Create(filepath.Join(s.dir, arenaFile(name.id)), s.arenaSize)
	if err != nil {
		return fmt.Errorf("consumequeue: %w", err)
	}
	a := &arena{arenaName: name, file: f, space: newSpace(s.pageBits)}
	b, err := s.mapped.acquire(a)
	if err != nil {
		f.Close()
		return errors.Join(err, s.fs.Remove(f.Name()))
	}
	encodeArenaHeader(b, name, s.arenaSize, 0)
	s.mapped.release(a)
	a.dirty.Store(true)
	s.entriesAdded.Store(true)
	s.setArena(id, a)
	s.offer(id)
	s.log.Debug("new index arena", "arena", f.Name())
	return nil
}

// setArena replaces the table, which readers use without a lock. Caller holds
// writer.
func (s *Store) setArena(id int, a *arena) {
	t := slices.Clone(*s.table.Load())
	for len(t) <= id {
		t = append(t, nil)
	}
	t[id] = a
	s.table.Store(&t)
}
