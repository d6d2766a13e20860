// Package check decides whether a recorded history of sends, deliveries and
// acknowledgements keeps the broker's promises. It knows no broker: times,
// offsets and bodies are all it looks at.
//
// # Time
//
// All times are nanoseconds on one clock of the recorder. An operation happened
// at some moment between Begin and End; one operation was before another when
// its End is before the other's Begin.
package check

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
)

// Send is one message of one send call. A message that is sent again, because
// its outcome was not known, is another Send with the same ID.
type Send struct {
	ID       string `json:"id"`
	Topic    string `json:"topic"`
	Group    string `json:"group,omitempty"` // message group
	Tag      string `json:"tag,omitempty"`
	Body     uint64 `json:"body"`   // Sum
	Call     int    `json:"call"`   // the same for all messages of one call
	OK       bool   `json:"ok"`     // acknowledged; else the outcome is not known
	Offset   int64  `json:"offset"` // when acknowledged
	Begin    int64  `json:"begin"`
	End      int64  `json:"end"`
	Position int    `json:"position"` // in its call

	// Once: its topic stores a message once, however often it is sent, and answers
	// with the first result.
	Once   bool   `json:"once,omitempty"`
	Result string `json:"result,omitempty"` // when acknowledged: what was answered
	Due    int64  `json:"due,omitempty"`    // not delivered before; 0 = at once
	Half   bool   `json:"half,omitempty"`   // not delivered unless it is committed
}

// placed reports whether its answer told an offset.
func (s *Send) placed() bool { return s.Due == 0 && !s.Half }

// Ending is a decision about a half message.
type Ending struct {
	ID     string `json:"id"`
	Commit bool   `json:"commit"` // else it is to be rolled back
	OK     bool   `json:"ok"`     // else the outcome is not known
	Begin  int64  `json:"begin"`
	End    int64  `json:"end"`
}

// Slot is one place of one queue: what is stored once is there once.
type Slot struct {
	Topic  string `json:"topic"`
	Queue  int32  `json:"queue"`
	Offset int64  `json:"offset"`
}

// Delivery is one message in a receive's answer.
type Delivery struct {
	Consumers string `json:"consumers"` // consumer group
	Slot
	ID        string `json:"id"`
	Group     string `json:"group,omitempty"`
	Tag       string `json:"tag,omitempty"`
	Body      uint64 `json:"body"`
	Attempt   int32  `json:"attempt"`
	AttemptID string `json:"attempt_id,omitempty"` // of the receive; retries of a receive share it
	Begin     int64  `json:"begin"`                // the receive began
	End       int64  `json:"end"`                  // the message was there
}

// Ack is the acknowledgement of one delivery, or, when Dead, its end among the
// dead letters, from where it is moved back into its topic, to another place.
type Ack struct {
	ID        string `json:"id,omitempty"` // when Dead
	Dead      bool   `json:"dead,omitempty"`
	Consumers string `json:"consumers"`
	Slot
	Attempt int32 `json:"attempt"` // of the delivery
	OK      bool  `json:"ok"`      // else the outcome is not known
	Begin   int64 `json:"begin"`
	End     int64 `json:"end"`
}

// Consumers is one consumer group, subscribed to one topic.
type Consumers struct {
	Name  string   `json:"name"`
	Topic string   `json:"topic"`
	FIFO  bool     `json:"fifo,omitempty"`
	Tags  []string `json:"tags,omitempty"` // empty = all
}

// History is what clients saw. The Add methods may be called concurrently;
// everything else only when they are done.
type History struct {
	Groups     []Consumers
	Sends      []Send
	Deliveries []Delivery
	Acks       []Ack
	Endings    []Ending

	mu sync.Mutex
}

func (h *History) AddSends(s ...Send) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Sends = append(h.Sends, s...)
}

func (h *History) AddDelivery(d Delivery) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Deliveries = append(h.Deliveries, d)
}

func (h *History) AddAcks(a ...Ack) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Acks = append(h.Acks, a...)
}

func (h *History) AddEnding(e Ending) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.Endings = append(h.Endings, e)
}

// Missing counts the acknowledged messages of a topic that nobody has received yet.
// It may be called while others add.
func (h *History) Missing(topic string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	missing := map[string]bool{}
	for _, s := range h.Sends {
		if s.Topic == topic && s.OK {
			missing[s.ID] = true
		}
	}
	for _, d := range h.Deliveries {
		delete(missing, d.ID)
	}
	return len(missing)
}

// Sum stands for a body.
func Sum(body []byte) uint64 {
	f := fnv.New64a()
	f.Write(body)
	return f.Sum64()
}

// WriteJSON writes the history, one object per line: {"send": ...} and so on.
func (h *History) WriteJSON(w io.Writer) error {
	enc := json.NewEncoder(w)
	var first error
	put := func(kind string, v any) {
		if err := enc.Encode(map[string]any{kind: v}); err != nil && first == nil {
			first = fmt.Errorf("write the history: %w", err)
		}
	}
	for i := range h.Groups {
		put("consumers", &h.Groups[i])
	}
	for i := range h.Sends {
		put("send", &h.Sends[i])
	}
	for i := range h.Deliveries {
		put("delivery", &h.Deliveries[i])
	}
	for i := range h.Acks {
		put("ack", &h.Acks[i])
	}
	for i := range h.Endings {
		put("ending", &h.Endings[i])
	}
	return first
}
