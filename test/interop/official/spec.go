package official

import (
	"fmt"
	"maps"
)

// Role is one producer or consumer of a program. test/interop/README.md says what the fields do.
type Role struct {
	Name       string              `json:"name"`
	Kind       string              `json:"kind"`
	Topic      string              `json:"topic"`
	Group      string              `json:"group,omitempty"`
	Filter     string              `json:"filter,omitempty"`
	SQL        bool                `json:"sql,omitempty"`
	Fail       map[string]int      `json:"fail,omitempty"`
	Plan       map[string][]string `json:"plan,omitempty"`
	InvisibleS int                 `json:"invisible_s,omitempty"`
	IntervalMS int                 `json:"interval_ms,omitempty"`
	Retry      bool                `json:"retry,omitempty"`
	Stay       bool                `json:"stay,omitempty"`
	Lites      []string            `json:"lites,omitempty"`
	Suspend    map[string]int      `json:"suspend,omitempty"`
	User       string              `json:"user,omitempty"`
	Secret     string              `json:"secret,omitempty"`
	Namespace  string              `json:"namespace,omitempty"`
	Messages   []Message           `json:"messages,omitempty"`
}

// Message is what a producer sends.
type Message struct {
	Body       string            `json:"body,omitempty"`
	BodyFile   string            `json:"body_file,omitempty"`
	Tag        string            `json:"tag,omitempty"`
	Keys       []string          `json:"keys,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Group      string            `json:"group,omitempty"`
	DelayS     int               `json:"delay_s,omitempty"`
	Lite       string            `json:"lite,omitempty"`
	Priority   int               `json:"priority,omitempty"`
	Recall     int               `json:"recall,omitempty"`
	Tx         string            `json:"transaction,omitempty"`
}

// Known returns the message with its property "case" set.
func (m Message) Known(as string) Message {
	properties := map[string]string{"case": as}
	maps.Copy(properties, m.Properties)
	m.Properties = properties
	return m
}

// Event is what a program says that happened.
type Event struct {
	Role       string            `json:"role"`
	Event      string            `json:"event"`
	AtMS       int64             `json:"at_ms"`
	Op         string            `json:"op"`
	Message    string            `json:"message"`
	Index      int               `json:"index"`
	ID         string            `json:"id"`
	Size       int               `json:"size"`
	SHA256     string            `json:"sha256"`
	Tag        *string           `json:"tag"`
	Keys       []string          `json:"keys"`
	Properties map[string]string `json:"properties"`
	Group      *string           `json:"group"`
	Lite       *string           `json:"lite"`
	Attempt    int               `json:"attempt"`
	Delivery   int               `json:"delivery"`
	Action     string            `json:"action"`
}

// Gist says it in a line.
func (e Event) Gist() string {
	switch e.Event {
	case "sent":
		return fmt.Sprintf("%s sent %d %s", e.Role, e.Index, e.ID)
	case "error":
		return fmt.Sprintf("%s error in %s: %s", e.Role, e.Op, e.Message)
	case "message":
		return fmt.Sprintf("%s message %s case=%q attempt=%d delivery=%d %s", e.Role, e.ID, e.Properties["case"], e.Attempt, e.Delivery, e.Action)
	}
	return e.Role + " " + e.Event
}
