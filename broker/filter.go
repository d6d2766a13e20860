package broker

import (
	"strings"
	"sync"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/filter"
	"github.com/gantry-mq/gantry/filter/sql92"
)

// maxFilterLen bounds a filter expression, in bytes.
const maxFilterLen = sql92.MaxLen

// matcher is a compiled filter of either language.
type matcher interface {
	// MatchHash reports whether a message whose tag hashes to h may match. false
	// is certain, and spares a look at the log.
	MatchHash(h uint32) bool
	Match(*record.Message) bool
	// MatchRecord is Match for a record of which nothing is verified, false for one
	// that is no message.
	MatchRecord(rec []byte) bool
}

type tagMatcher struct{ *filter.Tags }

func (t tagMatcher) Match(m *record.Message) bool {
	if t.All() {
		return true
	}
	tag, _ := m.Properties.Lookup(record.FieldTag)
	return t.Tags.Match(tag)
}

func (t tagMatcher) MatchRecord(rec []byte) bool {
	tag, ok := record.TagOf(rec)
	return ok && t.Tags.Match(tag)
}

type sqlMatcher struct{ *sql92.Expr }

func (sqlMatcher) MatchHash(uint32) bool { return true }

func (s sqlMatcher) MatchRecord(rec []byte) bool {
	m, err := record.ParseMessage(rec)
	return err == nil && s.Match(&m)
}

// CheckFilter refuses an expression that does not compile: IllegalFilter.
func (b *Broker) CheckFilter(t FilterType, expr string) error {
	_, err := compileFilter(t, expr)
	return err
}

// filterCache keeps compiled filters: a group uses one for months, and asks with
// every receive.
type filterCache struct {
	mu       sync.RWMutex
	compiled map[filterText]matcher
}

// filterCacheLen is at which length the cache begins anew.
const filterCacheLen = 1024

type filterText struct {
	language FilterType
	expr     string
}

func (t filterText) String() string {
	if t.language == FilterSQL {
		return "SQL " + t.expr
	}
	return "TAG " + t.expr
}

// textOf is one text for all ways to write the same filter.
func textOf(t FilterType, expr string) filterText {
	expr = strings.TrimSpace(expr)
	if t != FilterSQL && expr == "" {
		expr = "*"
	}
	return filterText{t, expr}
}

// get is compileFilter.
func (c *filterCache) get(t FilterType, expr string) (matcher, error) {
	key := filterText{t, expr}
	c.mu.RLock()
	m := c.compiled[key]
	c.mu.RUnlock()
	if m != nil {
		return m, nil
	}
	m, err := compileFilter(t, expr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.compiled) >= filterCacheLen || c.compiled == nil {
		c.compiled = map[filterText]matcher{}
	}
	key.expr = strings.Clone(expr) // which may be part of a request
	c.compiled[key] = m
	return m, nil
}

func compileFilter(t FilterType, expr string) (matcher, error) {
	if len(expr) > maxFilterLen {
		return nil, Errorf(IllegalFilter, "the filter expression has %d bytes, the limit is %d", len(expr), maxFilterLen)
	}
	switch t {
	case FilterTag:
		f, err := filter.CompileTags(expr)
		if err != nil {
			return nil, Errorf(IllegalFilter, "the filter expression %q: %w", clip(expr), err)
		}
		return tagMatcher{f}, nil
	case FilterSQL:
		if strings.TrimSpace(expr) == "" {
			return nil, Errorf(IllegalFilter, "the SQL filter expression is empty")
		}
		f, err := sql92.Compile(expr)
		if err != nil {
			return nil, Errorf(IllegalFilter, "the filter expression %q: %w", clip(expr), err)
		}
		return sqlMatcher{f}, nil
	}
	return nil, Errorf(IllegalFilter, "the filter type %d is unknown", t)
}

// filterGuard keeps the consumers of one group to one filter per topic. What
// one consumer's filter does not want is passed for the whole group, so a
// second filter beside it would lose messages; the reference lets that happen.
// Here a receive with another filter is refused as long as a connected client
// of the group uses the one in force. When the last such client is gone, or has
// changed over, the new filter takes over, so a rolling change of a filter
// completes by itself and loses nothing.
type filterGuard struct {
	mu   sync.Mutex
	subs map[inflight.SubKey]*filterUse
}

type filterUse struct {
	current filterText            // in force
	clients map[string]filterText // what connected clients used last
}

// use registers that the client receives with the filter, or refuses it.
func (g *filterGuard) use(key inflight.SubKey, client string, t FilterType, expr string, live func(client string) bool) error {
	text := textOf(t, expr)
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.subs[key]
	if u == nil {
		if g.subs == nil {
			g.subs = map[inflight.SubKey]*filterUse{}
		}
		u = &filterUse{current: text, clients: map[string]filterText{}}
		g.subs[key] = u
	}
	if u.current != text || len(u.clients)%128 == 127 {
		for other, used := range u.clients {
			switch {
			case !live(other):
				delete(u.clients, other)
			case u.current != text && other != client && used == u.current:
				return Errorf(IllegalFilter, "the filter %q differs from %q, with which client %q of the same group receives: what one filter skips is skipped for the group, so a group has one filter per topic", clip(text.String()), clip(u.current.String()), clip(other))
			}
		}
		u.current = text
	}
	if u.clients[client] != text && live(client) {
		u.clients[client] = text
	}
	return nil
}

// inForce returns the filter that a group receives with; false when nobody has
// since the start.
func (g *filterGuard) inForce(key inflight.SubKey) (filterText, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.subs[key]
	if u == nil {
		return filterText{}, false
	}
	return u.current, true
}

// drop forgets what is said of a deleted topic or group.
func (g *filterGuard) drop(gone func(inflight.SubKey) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.subs {
		if gone(key) {
			delete(g.subs, key)
		}
	}
}
