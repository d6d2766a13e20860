package tally

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Calls counts calls by method and outcome. Use NewCalls; a nil one counts nothing.
type Calls struct {
	mu      sync.Mutex // of Add
	methods atomic.Pointer[map[string]*method]
}

// maxCodes bounds the outcomes of a method that are told apart.
const maxCodes = 16

type method struct {
	took  Histogram // us
	ended atomic.Uint64
	codes [maxCodes]struct {
		code atomic.Int32 // 0 = nobody has it
		n    atomic.Uint64
	}
}

// NewCalls returns one that knows no method.
func NewCalls() *Calls {
	c := &Calls{}
	c.methods.Store(&map[string]*method{})
	return c
}

// Add has methods counted from now on, by their full names; others never are, so that
// callers cannot add series.
func (c *Calls) Add(names ...string) {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := maps.Clone(*c.methods.Load())
	for _, n := range names {
		if all[n] == nil {
			all[n] = &method{}
		}
	}
	c.methods.Store(&all)
}

func (c *Calls) find(name string) *method {
	if c == nil {
		return nil
	}
	return (*c.methods.Load())[name]
}

// Done counts a call that has ended, and how long it took.
func (c *Calls) Done(name string, took time.Duration) {
	if m := c.find(name); m != nil {
		m.took.Add(took.Microseconds(), 1)
	}
}

// Ended counts a stream that has ended, whose length says nothing.
func (c *Calls) Ended(name string) {
	if m := c.find(name); m != nil {
		m.ended.Add(1)
	}
}

// Refused counts an outcome, other than 0, of a call that is counted beside. Beyond the
// 15 outcomes that a method has first, the rest counts as the 16th.
func (c *Calls) Refused(name string, code int32) {
	m := c.find(name)
	if m == nil {
		return
	}
	for i := range m.codes {
		s := &m.codes[i]
		if have := s.code.Load(); have == code || i == maxCodes-1 || have == 0 && (s.code.CompareAndSwap(0, code) || s.code.Load() == code) {
			s.n.Add(1)
			return
		}
	}
}

// Method is what was counted of one.
type Method struct {
	Service, Name string
	Took          Counts // us, of calls whose length means something
	Calls         uint64 // that have ended
	Refused       map[int32]uint64
}

// Read returns the methods that were called, by name.
func (c *Calls) Read() (all []Method) {
	methods := *c.methods.Load()
	for _, name := range slices.Sorted(maps.Keys(methods)) {
		m := methods[name]
		one := Method{Took: m.took.Read(), Refused: map[int32]uint64{}}
		if one.Calls = one.Took.Count + m.ended.Load(); one.Calls == 0 {
			continue
		}
		one.Service, one.Name, _ = strings.Cut(strings.TrimPrefix(name, "/"), "/")
		for i := range m.codes {
			if n := m.codes[i].n.Load(); n > 0 {
				one.Refused[m.codes[i].code.Load()] += n
			}
		}
		all = append(all, one)
	}
	return all
}
