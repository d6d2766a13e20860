// Package logging gives each component of a process a log level of its own, which
// can be changed while it runs.
//
// A component is what a logger says of itself: logger.With(logging.Component, "raft").
// So whoever logs needs slog and nothing of this package.
package logging

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Component is the attribute that names a logger's component.
const Component = "component"

// All stands for every component, those that come later too.
const All = "all"

// Levels decide which lines are written. A component without a level of its own has
// the one of all. Methods may be called concurrently.
type Levels struct {
	all slog.LevelVar

	mu  sync.Mutex
	own map[string]*own // guarded by mu; every component that there is
}

// own is a component's level, nil while it has none.
type own struct{ level atomic.Pointer[slog.Level] }

// New returns levels that are level everywhere.
func New(level slog.Level) *Levels {
	l := &Levels{own: map[string]*own{}}
	l.all.Set(level)
	return l
}

// Handler returns inner behind the levels. Inner must let everything through.
func (l *Levels) Handler(inner slog.Handler) slog.Handler {
	return &handler{inner: inner, levels: l}
}

// Set gives one component a level, or all of them the same.
func (l *Levels) Set(component string, level slog.Level) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if component == All {
		l.all.Set(level)
		for _, o := range l.own {
			o.level.Store(nil)
		}
		return nil
	}
	o := l.own[component]
	if o == nil {
		return fmt.Errorf("there is no component %q: it is one of %s", component, strings.Join(append(l.names(), All), ", "))
	}
	o.level.Store(&level)
	return nil
}

// Level is one component's level.
type Level struct {
	Component string
	Level     slog.Level
	Own       bool // not that of all
}

// List returns the components by name, All first.
func (l *Levels) List() []Level {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []Level{{All, l.all.Level(), true}}
	for _, name := range l.names() {
		one := Level{name, l.all.Level(), false}
		if level := l.own[name].level.Load(); level != nil {
			one.Level, one.Own = *level, true
		}
		list = append(list, one)
	}
	return list
}

// names are those of the components. Called with mu held.
func (l *Levels) names() []string {
	names := make([]string, 0, len(l.own))
	for name := range l.own {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}

// of returns a component's level, made at its first use: names are written in the
// code, so there is a handful of them.
func (l *Levels) of(name string) *own {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.own[name]
	if o == nil {
		o = &own{}
		l.own[name] = o
	}
	return o
}

type handler struct {
	inner  slog.Handler
	levels *Levels
	own    *own // nil: of no component
	group  bool // attributes belong to a group, and name no component
}

func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	if h.own != nil {
		if own := h.own.level.Load(); own != nil {
			return level >= *own
		}
	}
	return level >= h.levels.all.Level()
}

func (h *handler) Handle(ctx context.Context, r slog.Record) error { return h.inner.Handle(ctx, r) }

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.inner = h.inner.WithAttrs(attrs)
	for _, a := range attrs {
		if a.Key == Component && !h.group {
			with.own = h.levels.of(a.Value.String())
		}
	}
	return &with
}

func (h *handler) WithGroup(name string) slog.Handler {
	with := *h
	with.inner, with.group = h.inner.WithGroup(name), h.group || name != ""
	return &with
}
