package broker

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog/record"
)

const (
	simCheckAfter = 5 * time.Second
	simCheckEvery = 10 * time.Second
	simCheckMax   = 3
	simLiteTTL    = 0
)

// simState is the model: what a broker that did what was asked of it looks like
// from outside. It knows queues and leases, but no log, no index and no cursor.
type simState struct {
	began    time.Time
	topics   map[string]*simTopic
	groups   map[string]*simGroup
	halves   []*simHalf
	timers   []*simDelayed
	clients  map[string]*simClient
	asked    *simAsked
	told     *simTold
	trimmed  bool            // retention has taken a part of the log
	seen     record.Position // the log's end at the last look
	opened   int64           // Unix ms: when this broker started
	polling  *simGroup       // by which a receive waits
	sent     int             // messages so far
	sequence uint64          // of the last pack
	packs    []simPack       // the newest
	attempts int             // attempt ids so far
}

// simMsg is a message as it was sent.
type simMsg struct {
	number                    int       // of all that were sent: its body begins with it
	home                      *simTopic // that it was sent to
	id, tag, key, group, lite string
	n                         int // the user property "n"
	body                      []byte
	prio                      bool
	priority                  int32
	due                       int64 // Unix ms, 0 = at once
	half                      bool
	recovery                  int64 // seconds until its first check, 0 = simCheckAfter
}

// simTopic is one life of a topic.
type simTopic struct {
	topic.Topic
	name   string
	queues map[uint32]*simQueue // of lite topics too
	lites  map[string]uint32
	// coming is what is to appear in a queue of the topic: a message twice when it is
	// dead twice and both are redriven. look takes it out; what then is left and must
	// have come is missing.
	coming  []*simComing
	changed int64 // Unix ms: when its retention was set
	holes   bool  // a message was deleted from among others
	// firsts is what was sent within the deduplication window, and before, in that
	// order.
	firsts []*simFirst
	again  map[string]bool // ids of messages that were sent again
}

type simQueue struct {
	entries []*simEntry // by offset
	low     int         // retention or a purge took those below
	purged  int         // a purge did
}

// simComing is a message that is about to enter a queue.
type simComing struct {
	m     *simMsg
	queue int  // where, -1 = anywhere
	must  bool // else it may
}

func (c *simComing) String() string { return fmt.Sprintf("%s for %d", c.m.id, c.queue) }

// expect says that a message is about to come.
func (tp *simTopic) expect(m *simMsg, queue int, must bool) *simComing {
	c := &simComing{m, queue, must}
	tp.coming = append(tp.coming, c)
	return c
}

// simEntry is a message in its place.
type simEntry struct {
	m       *simMsg
	topic   *simTopic
	queue   uint32
	offset  int
	stored  int64           // Unix ms: when it came here
	after   record.Position // the record that put it here is at or above
	letter  *simLetter      // of a dead letter
	lost    bool            // retention took the payload
	deleted bool            // by an operator
}

func (e *simEntry) String() string {
	return fmt.Sprintf("%s at %s/%d/%d", e.m.id, e.topic.name, e.queue, e.offset)
}

// simLetter is what a dead letter says of itself.
type simLetter struct {
	from     *simEntry
	attempts int32
	reason   string
	state    DeadLetterState
}

// simGroup is one life of a group: one subscription to one topic.
type simGroup struct {
	name, topic string
	fifo        bool
	max         int32
	filter      simFilter
	clients     []string
	ofLites     bool // it takes lite topics
	lite        group.Lite
	subs        map[string]*simSubs // by client
	places      map[*simEntry]*simPlace
	begun       map[uint32]bool // queues that it has looked at
	stored      map[uint32]record.QueueOffset
	handles     []simHandle
	freed       int64 // Unix ms: when the broker settled something by itself last
	// dying is what is to become a dead letter, as coming is of topics.
	dying map[*simEntry]*simDying
	// strays says that a replay put messages there that the group does not want.
	strays bool
}

type simDying struct {
	attempts int32
	reason   string
	must     bool
}

// simPlace is how far a group is with an entry. No place: never handed out.
type simPlace struct {
	attempt int32
	handle  string // of the last lease
	by      string // attempt id of the receive that holds it
	owner   string
	since   int64
	auto    bool
	// suspended says that its last delivery does not count.
	suspended bool
	// It may be handed out again from early on and must be from late on; both Unix
	// ms, and equal unless somebody's timing comes in.
	early, late int64
	end         int64 // of the lease itself
	// good is what the handle says of its own end, Unix ms. Until then it is no
	// error to settle with it what is settled already: by retention too.
	good    int64
	settled bool
}

// handedOut says that it was, and is not settled; else a replay put it there.
func (p *simPlace) handedOut() bool { return !p.settled && p.handle != "" }

// simHandle is a handle that was given out at some time.
type simHandle struct {
	e        *simEntry
	handle   string
	deadline int64
}

// simFilter is a filter in both languages: the broker's and ours.
type simFilter struct {
	kind  FilterType
	text  string
	wants func(*simMsg) bool
}

var simFilters = []simFilter{
	{FilterTag, "*", func(*simMsg) bool { return true }},
	{FilterTag, "A||B", func(m *simMsg) bool { return m.tag == "A" || m.tag == "B" }},
	{FilterSQL, "n > 3 AND n <> 7", func(m *simMsg) bool { return m.n > 3 && m.n != 7 }},
	{FilterSQL, "TAGS IN ('A', 'C') OR n BETWEEN 0 AND 1", func(m *simMsg) bool {
		return m.tag == "A" || m.tag == "C" || m.n <= 1
	}},
}

// simClient is a client that is connected, or not.
type simClient struct {
	id    string
	group string // "" = the producer
	live  bool
	seen  int64 // Unix ms
	// listens says that it has a command stream, which outlives its session.
	listens bool
}

// simProducer is the client that is asked about half messages.
const simProducer = "producer"

// simAsked is what the producer was asked about since the last look.
type simAsked struct {
	busy atomic.Bool // it takes no commands
	mu   sync.Mutex
	ids  []string
}

func (a *simAsked) command(c session.Command) error {
	if a.busy.Load() {
		return errSimStop
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids = append(a.ids, c.(session.RecoverTransaction).ID)
	return nil
}

func (a *simAsked) take() (ids []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids, a.ids = a.ids, nil
	return ids
}

// simDelayed is a delayed message.
type simDelayed struct {
	m        *simMsg
	topic    *simTopic
	queue    int
	due      int64
	stored   int64 // Unix ms
	handle   string
	old      []string // handles of before it was rescheduled
	fired    bool
	recalled bool
}

// simHalf is a half message.
type simHalf struct {
	m       *simMsg
	topic   *simTopic
	id      string
	stored  int64 // Unix ms
	next    int64 // Unix ms, of its next check
	checks  int
	parked  bool
	outcome transaction.Outcome // 0 = undecided
}

func (s *sim) now() int64 { return time.Now().UnixMilli() }

// begin makes the broker, the topics and the groups.
func (s *sim) begin() {
	s.simState = simState{asked: new(simAsked), told: new(simTold), began: time.Now(), topics: map[string]*simTopic{}, groups: map[string]*simGroup{}, clients: map[string]*simClient{}}
	var err error
	s.b, err = s.open(s.disk)
	s.must(err)
	s.opened = s.now()
	s.createTopic("plain", topic.Normal, 3)
	s.createTopic("ordered", topic.FIFO, 3)
	s.createTopic("delay", topic.Delay, 2)
	s.createTopic("tx", topic.Transaction, 2)
	s.createTopic("priority", topic.Priority, 3)
	s.createTopic("mixed", topic.Mixed, 3)
	s.createTopic("lite", topic.Lite, 1)
	for _, g := range []simGroup{
		{name: "all", topic: "plain", max: 1000},
		{name: "some", topic: "plain", max: 2, filter: simFilters[1]},
		{name: "one-by-one", topic: "plain", fifo: true, max: 1000},
		{name: "in-order", topic: "ordered", fifo: true, max: 3},
		{name: "whatever", topic: "ordered", max: 3, filter: simFilters[2]},
		{name: "later", topic: "delay", max: 3},
		{name: "decided", topic: "tx", max: 3},
		{name: "urgent", topic: "priority", max: 4},
		{name: "mixture", topic: "mixed", max: 2, filter: simFilters[3]},
		{name: "mixture-in-order", topic: "mixed", fifo: true, max: 4},
		{name: "letters", topic: DLQPrefix + "some", max: 1000},
		{name: "lites", topic: "lite", fifo: true, max: 3, ofLites: true},
		{name: "one-lite-each", topic: "lite", fifo: true, max: 3, ofLites: true, lite: group.Lite{Exclusive: true, ResetTaken: true, ResetLeft: true}},
	} {
		g.clients = []string{g.name + "@1", g.name + "@2"}
		for _, id := range g.clients {
			s.clients[id] = &simClient{id: id, group: g.name}
		}
		if g.filter.text == "" {
			g.filter = simFilters[0]
		}
		s.createGroup(g)
	}
	s.clients[simProducer] = &simClient{id: simProducer}
	s.look()
}

func (s *sim) createTopic(n string, kind topic.Type, queues uint32) {
	want := topic.Topic{Name: name(n), Type: kind, Queues: queues}
	if kind == topic.Lite {
		want.LiteTTL = simLiteTTL
	}
	made, err := s.b.CreateTopic(s.t.Context(), want)
	s.must(err)
	s.topics[n] = newSimTopic(made)
}

func newSimTopic(tp topic.Topic) *simTopic {
	st := &simTopic{Topic: tp, name: tp.Name.Name, queues: map[uint32]*simQueue{}, lites: map[string]uint32{}, again: map[string]bool{}}
	for q := range tp.Queues {
		st.queues[q] = &simQueue{}
	}
	return st
}

func (s *sim) createGroup(g simGroup) {
	_, err := s.b.CreateGroup(s.t.Context(), group.Group{Name: name(g.name), FIFO: g.fifo, MaxAttempts: g.max, Lite: g.lite})
	s.must(err)
	g.places, g.begun, g.stored = map[*simEntry]*simPlace{}, map[uint32]bool{}, map[uint32]record.QueueOffset{}
	g.dying, g.handles, g.subs = map[*simEntry]*simDying{}, nil, map[string]*simSubs{}
	s.groups[g.name] = &g
}

func (s *sim) recreateGroup() {
	g := s.group()
	s.must(s.b.DeleteGroup(s.t.Context(), name(g.name)))
	s.logf("%s", g.name)
	s.createGroup(*g)
}

// recreateTopic ends a topic with all that is in it, pending and undecided.
func (s *sim) recreateTopic() {
	tp := s.topic()
	s.must(s.b.DeleteTopic(s.t.Context(), tp.Name))
	s.logf("%s", tp.name)
	s.timers = slices.DeleteFunc(s.timers, func(t *simDelayed) bool { return t.topic == tp })
	s.halves = slices.DeleteFunc(s.halves, func(h *simHalf) bool { return h.topic == tp })
	s.packs = slices.DeleteFunc(s.packs, func(p simPack) bool { return p.topic == tp })
	s.createTopic(tp.name, tp.Type, tp.Queues)
	for _, g := range s.groups {
		if g.topic == tp.name {
			g.places, g.begun, g.stored, g.handles = map[*simEntry]*simPlace{}, map[uint32]bool{}, map[uint32]record.QueueOffset{}, nil
			g.subs = map[string]*simSubs{}
		}
	}
}

// ---- Choices ----

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func sorted[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// group picks a group whose topic is there.
func (s *sim) group() *simGroup {
	for {
		if g := s.groups[pick(s.r, sorted(s.groups))]; s.topics[g.topic] != nil {
			return g
		}
	}
}

// topic picks a topic that is no dead-letter topic, of one of the types if any
// are given.
func (s *sim) topic(types ...topic.Type) *simTopic {
	for {
		tp := s.topics[pick(s.r, sorted(s.topics))]
		if !isDLQ(tp.Topic) && (len(types) == 0 || slices.Contains(types, tp.Type)) {
			return tp
		}
	}
}

// ---- What is there ----

// entries returns the entries of the topic in order of queue and offset.
func (tp *simTopic) entries() (out []*simEntry) {
	for _, q := range sorted(tp.queues) {
		out = append(out, tp.queues[q].entries...)
	}
	return out
}

// gone reports whether retention has taken an entry.
func (e *simEntry) gone() bool {
	q := e.topic.queues[e.queue]
	return e.lost || q == nil || e.offset < q.low
}

func (g *simGroup) wants(e *simEntry) bool { return g.filter.wants(e.m) }

func (g *simGroup) ordered(tp *simTopic) bool { return g.fifo || tp.Type == topic.Lite }

// held returns what the group was handed and has not settled, in an order of chance.
func (s *sim) held(g *simGroup) (out []*simEntry) {
	out = slices.DeleteFunc(sortedEntries(g.places), func(e *simEntry) bool { return !g.places[e].handedOut() })
	s.r.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// simReady is what a receive may find.
type simReady struct {
	sure  map[*simEntry]bool // it does
	maybe map[*simEntry]bool // it may
	// burying says that something has had its attempts: a receive makes it a dead
	// letter first, and may then come back with less than there is.
	burying map[*simEntry]bool
}

// ready returns what a receive of the group from the queues would find at time
// now, Unix ms.
func (s *sim) ready(g *simGroup, now int64, queues func(uint32) bool) simReady {
	out := simReady{map[*simEntry]bool{}, map[*simEntry]bool{}, map[*simEntry]bool{}}
	tp := s.topics[g.topic]
	for n, q := range tp.queues {
		if !queues(n) {
			continue
		}
		busy := map[string]bool{}      // message groups with an earlier message,
		ghost := map[string]bool{}     // or one that retention took and nobody noticed yet
		turn := map[string]*simEntry{} // what was handed out keeps its turn from what a replay put before it
		for _, e := range q.entries {
			switch p := g.places[e]; {
			case p == nil || !p.handedOut() || e.deleted:
			case e.gone():
				ghost[e.m.group] = true
			default:
				turn[e.m.group] = e
			}
		}
		for _, e := range q.entries {
			p := g.places[e]
			if p != nil && p.settled || p == nil && !g.wants(e) || e.stored > now || e.deleted {
				continue
			}
			line := e.m.group
			if !g.begun[n] && q.low > 0 && !g.ofLites { // a group that is new to the queue begins at its end then, wherever that is
				if !e.gone() {
					out.maybe[e] = true
				}
				continue
			}
			if e.gone() {
				ghost[line] = true // it may have been handed out, or put aside
				continue
			}
			blocked := g.ordered(tp) && (turn[line] == nil && busy[line] || turn[line] != nil && turn[line] != e)
			busy[line] = true
			sure, may := true, true
			if p != nil {
				sure, may = now >= p.late, now >= p.early
			}
			switch {
			case blocked || !may:
			case p != nil && p.attempt >= g.max:
				out.burying[e] = true
			case sure && !(g.ordered(tp) && ghost[line]):
				out.sure[e] = true
			default:
				out.maybe[e] = true
			}
		}
	}
	return out
}

// anyQueue accepts the queues of whoever takes no lite topics.
func anyQueue(q uint32) bool { return q < record.FirstLiteQueue }

// check holds a message against what was sent.
func (m *simMsg) check(got *record.Message) error {
	var id, tag, key, group, lite, n string
	err := got.Properties.Each(func(f record.Field, k, v []byte) bool {
		switch f {
		case record.FieldMessageID:
			id = string(v)
		case record.FieldTag:
			tag = string(v)
		case record.FieldKey:
			key = string(v)
		case record.FieldGroup:
			group = string(v)
		case record.FieldLiteTopic:
			lite = string(v)
		case record.FieldUser:
			n = string(k) + "=" + string(v)
		}
		return true
	})
	is := fmt.Sprintf("%q", []any{id, tag, key, group, lite, n, got.Priority, got.DueTime})
	was := fmt.Sprintf("%q", []any{m.id, m.tag, m.key, m.group, m.lite, fmt.Sprint("n=", m.n), m.priority, m.due})
	if err == nil && (is != was || string(got.Body) != string(m.body)) {
		err = fmt.Errorf("the message is %v with a body of %d bytes, sent as %v with %d", is, len(got.Body), was, len(m.body))
	}
	return err
}

func idOf(m *record.Message) string {
	id, _ := m.Properties.Lookup(record.FieldMessageID)
	return strings.Clone(string(id))
}

// numberOf reads what message wrote.
func numberOf(m *record.Message) int {
	text, _, _ := bytes.Cut(m.Body, []byte(":"))
	n, _ := strconv.Atoi(string(text))
	return n
}
