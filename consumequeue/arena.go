package consumequeue

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gantry-mq/gantry/internal/mmapfile"
)

// arena is one file. Its descriptor stays open from first to last, so that no
// failed write-back can go unnoticed by Flush; its mapping comes and goes.
type arena struct {
	arenaName
	file mmapfile.File

	// refs counts the users of the mapping, plus one while the arena is among
	// mappings.arenas. The mapping exists while refs is not 0.
	refs    atomic.Int64
	mu      sync.Mutex // held to make refs 0 or take it from there, except by the last user of an arena that is gone
	gone    bool       // under mu: removed, must not be mapped again
	mapping mmapfile.Mapping

	used  atomic.Uint64 // mappings.clock when last acquired
	dirty atomic.Bool   // stored to since the last Flush; set after the store

	// Owned by the holder of Store.writer.
	space   *space
	live    int  // pages that belong to queues
	leaving bool // no queue's, left out of the last snapshot, to be removed
	damaged bool // its file is not in the directory any more: see condemn
}

func arenaFile(id uint32) string { return fmt.Sprintf("%08d.arena", id) }

var errGone = errors.New("consumequeue: arena was removed")

// mappings bounds how many arenas are mapped at once. The one used least
// recently is unmapped first, but never while somebody uses it: the bound may be
// passed by as many arenas as there are concurrent calls.
type mappings struct {
	limit int
	log   *slog.Logger
	clock atomic.Uint64 // counts mmaps: coarse, so that hot arenas share a read-only word

	mu     sync.Mutex
	arenas []*arena
}

// acquire returns the arena's bytes, mapping them if need be. They may be used
// until release.
func (m *mappings) acquire(a *arena) ([]byte, error) {
	for {
		refs := a.refs.Load()
		if refs == 0 {
			return m.open(a)
		}
		if a.refs.CompareAndSwap(refs, refs+1) {
			if now := m.clock.Load(); a.used.Load() != now {
				a.used.Store(now)
			}
			return a.mapping.Bytes(), nil
		}
	}
}

func (m *mappings) release(a *arena) {
	if a.refs.Add(-1) == 0 {
		m.finish(a) // only an arena that is gone gets here: see evict
	}
}

func (m *mappings) open(a *arena) ([]byte, error) {
	a.mu.Lock()
	if a.gone {
		a.mu.Unlock()
		return nil, errGone
	}
	if a.refs.Load() != 0 { // mapped by another reader meanwhile
		a.mu.Unlock()
		return m.acquire(a)
	}
	mapping, err := a.file.MapWritable()
	if err != nil {
		a.mu.Unlock()
		return nil, fmt.Errorf("consumequeue: %w", err)
	}
	a.mapping = mapping
	a.used.Store(m.clock.Add(1))
	a.refs.Store(2)
	a.mu.Unlock()
	m.add(a)
	return mapping.Bytes(), nil
}

// add lists an arena that was just mapped, and unmaps others over the limit.
func (m *mappings) add(a *arena) {
	m.mu.Lock()
	m.arenas = append(m.arenas, a)
	var victims []*arena
	for len(m.arenas) > m.limit {
		oldest := 0
		for i, b := range m.arenas {
			if b.used.Load() < m.arenas[oldest].used.Load() {
				oldest = i
			}
		}
		victims = append(victims, m.arenas[oldest])
		m.arenas = slices.Delete(m.arenas, oldest, oldest+1)
	}
	m.mu.Unlock()
	for _, v := range victims {
		if !m.evict(v) {
			m.mu.Lock()
			m.arenas = append(m.arenas, v)
			m.mu.Unlock()
		}
	}
}

// unload takes all that is mapped out of memory.
func (m *mappings) unload() error {
	m.mu.Lock()
	arenas := slices.Clone(m.arenas)
	m.mu.Unlock()
	var errs []error
	for _, a := range arenas {
		// Under mu, a mapping that is there stays.
		a.mu.Lock()
		if a.mapping != nil && !a.gone {
			errs = append(errs, a.mapping.Unload())
		}
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}

// evict unmaps an arena that nobody uses. An arena that is gone has lost the
// list's reference already, so the one it may see there is a user's.
func (m *mappings) evict(a *arena) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.gone {
		return true
	}
	if !a.refs.CompareAndSwap(1, 0) {
		return false
	}
	if err := a.mapping.Unmap(); err != nil {
		m.log.Error("unmap index arena", "arena", a.file.Name(), "err", err)
	}
	a.mapping = nil
	return true
}

// remove forgets an arena. Its mapping and descriptor live until the last user
// has released it.
func (m *mappings) remove(a *arena) {
	a.mu.Lock()
	a.gone = true
	last := a.refs.Load() == 0 || a.refs.Add(-1) == 0
	a.mu.Unlock()
	m.mu.Lock()
	m.arenas = slices.DeleteFunc(m.arenas, func(b *arena) bool { return a == b })
	m.mu.Unlock()
	if last {
		m.finish(a)
	}
}

func (m *mappings) finish(a *arena) {
	if a.mapping != nil {
		if err := a.mapping.Unmap(); err != nil {
			m.log.Error("unmap index arena", "arena", a.file.Name(), "err", err)
		}
		a.mapping = nil
	}
	if err := a.file.Close(); err != nil {
		m.log.Error("close index arena", "arena", a.file.Name(), "err", err)
	}
}

func (m *mappings) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.arenas)
}
