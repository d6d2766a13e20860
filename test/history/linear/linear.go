// Package linear judges whether what clients saw of small objects (topics, groups, and
// the offsets of groups) is what one copy of each would have shown them, doing one
// thing after the other: each at a moment between its call and its answer.
//
// An object is there or not, and has two values. What was asked and never answered may
// have happened at any time after the call, or not at all.
package linear

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Verb is what is asked.
type Verb string

const (
	Create Verb = "create" // with A and B; not when it is there
	Read   Verb = "read"
	SetA   Verb = "set A" // of what is there
	SetB   Verb = "set B" // of what is there
	Put    Verb = "put"   // A, there or not
	Delete Verb = "delete"
)

// Ask is one call.
type Ask struct {
	Object string
	Verb   Verb
	A, B   int64
	Grows  bool // the object's B never becomes less: that is refused
}

// Kind is how a call ended.
type Kind string

const (
	Done    Kind = "done"
	Exists  Kind = "exists"
	Missing Kind = "missing"
	Refused Kind = "refused"
	Unknown Kind = "unknown" // no answer, or one that does not tell
)

// Answer is what came back. A and B are those of the object after a create, a read or
// a set that was done.
type Answer struct {
	Kind Kind
	A, B int64
}

// History is what clients saw. Its methods may be called concurrently; the zero value
// is ready.
type History struct {
	mu      sync.Mutex
	began   time.Time
	clients int
	ops     []porcupine.Operation
}

// Client is one that does one thing after the other.
type Client struct {
	h  *History
	id int
}

// Client returns a new one, for one goroutine.
func (h *History) Client() *Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.began.IsZero() {
		h.began = time.Now()
	}
	h.clients++
	return &Client{h, h.clients - 1}
}

// Do makes a call and records it.
func (c *Client) Do(a Ask, call func() Answer) {
	began := time.Since(c.h.began)
	answer := call()
	c.add(a, answer, began, time.Since(c.h.began))
}

func (c *Client) add(a Ask, answer Answer, began, ended time.Duration) {
	op := porcupine.Operation{ClientId: c.id, Input: a, Output: answer, Call: int64(began), Return: int64(ended)}
	if answer.Kind == Unknown {
		if a.Verb == Read {
			return
		}
		op.Return = math.MaxInt64
		*c = *c.h.Client() // that one is at it for ever
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.ops = append(c.h.ops, op)
}

// Report is what was judged.
type Report struct {
	Objects, Asked int
	Answers        map[Kind]int // those unknown are of changes
	// Wrong is the objects that no one copy could have been like, and Undecided those
	// of which the time did not suffice to say it.
	Wrong, Undecided []string
	Files            []string // pictures of both
}

func (r *Report) String() string {
	return fmt.Sprintf("%d calls about %d objects: %d done, %d that it exists, %d that it does not, %d refused, %d changes of unknown outcome; not linearizable: %d, undecided: %d",
		r.Asked, r.Objects, r.Answers[Done], r.Answers[Exists], r.Answers[Missing], r.Answers[Refused], r.Answers[Unknown], len(r.Wrong), len(r.Undecided))
}

// Check judges each object, for no longer than limit. Histories of those that are not
// as they should be are drawn in dir, as pages for a browser.
func (h *History) Check(dir string, limit time.Duration) (*Report, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	end := int64(0)
	for _, op := range h.ops {
		if op.Return != math.MaxInt64 {
			end = max(end, op.Return)
		}
		end = max(end, op.Call)
	}
	of := map[string][]porcupine.Operation{}
	r := &Report{Answers: map[Kind]int{}}
	for _, op := range h.ops {
		op.Return = min(op.Return, end+1)
		name := op.Input.(Ask).Object
		of[name] = append(of[name], op)
		r.Answers[op.Output.(Answer).Kind]++
	}
	r.Objects, r.Asked = len(of), len(h.ops)
	for name, ops := range of {
		result, info := porcupine.CheckOperationsVerbose(model, ops, limit)
		switch result {
		case porcupine.Ok:
			continue
		case porcupine.Illegal:
			r.Wrong = append(r.Wrong, name)
		default:
			r.Undecided = append(r.Undecided, name)
		}
		file := filepath.Join(dir, "linear-"+name+".html")
		if err := draw(file, info); err != nil {
			return r, err
		}
		r.Files = append(r.Files, file)
	}
	return r, nil
}

func draw(file string, info porcupine.LinearizationInfo) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := porcupine.Visualize(model, info, f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// object is the state of one.
type object struct {
	there bool
	a, b  int64
}

// next is the state after a call, and its answer.
func (o object) next(a Ask) (object, Answer) {
	switch {
	case a.Verb == Create && o.there:
		return o, Answer{Kind: Exists}
	case a.Verb == Create:
		o = object{true, a.A, a.B}
	case a.Verb == Put:
		o.there, o.a = true, a.A
		return o, Answer{Kind: Done}
	case !o.there:
		return o, Answer{Kind: Missing}
	case a.Verb == Delete:
		return object{}, Answer{Kind: Done}
	case a.Verb == SetA:
		o.a = a.A
	case a.Verb == SetB && a.Grows && a.B < o.b:
		return o, Answer{Kind: Refused}
	case a.Verb == SetB:
		o.b = a.B
	}
	return o, Answer{Done, o.a, o.b}
}

var model = porcupine.Model{
	Init: func() any { return object{} },
	Step: func(state, input, output any) (bool, any) {
		after, answer := state.(object).next(input.(Ask))
		got := output.(Answer)
		return got == answer || got.Kind == Unknown, after
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(Ask), output.(Answer)
		s := string(in.Verb)
		switch in.Verb {
		case Create:
			s = fmt.Sprintf("create %d %d", in.A, in.B)
		case SetA, Put:
			s = fmt.Sprintf("%s %d", s, in.A)
		case SetB:
			s = fmt.Sprintf("%s %d", s, in.B)
		}
		if out.Kind != Done {
			return fmt.Sprintf("%s: %s", s, out.Kind)
		}
		return fmt.Sprintf("%s: %d %d", s, out.A, out.B)
	},
	DescribeState: func(state any) string {
		o := state.(object)
		if !o.there {
			return "none"
		}
		return fmt.Sprintf("%d %d", o.a, o.b)
	},
}
