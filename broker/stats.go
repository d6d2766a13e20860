package broker

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/transaction"
	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
	"github.com/gantry-mq/gantry/internal/tally"
)

// Stats is the broker at one moment. Counters count from the start of the
// process.
type Stats struct {
	Uptime      time.Duration
	Serves      bool   // clients; a node of a cluster that follows knows the same state, and counts nothing
	Sends       uint64 // messages stored
	Duplicates  uint64 // messages sent again and answered with the first result
	Deliveries  uint64 // messages handed out, each attempt counted
	Acks        uint64
	Unpacked    uint64 // bodies decompressed for those that cannot
	Unreadable  uint64 // and those of which nothing could be made
	DeadLetters uint64
	Waiting     int // parked receives and pulls
	Clients     int
	Delayed     int64        // messages that are not due yet
	HalfOpen    int          // half messages that wait for their producer's decision
	HalfParked  int          // and for an operator's
	Lateness    tally.Counts // ms, of timers
	Applied     record.Position
	Checkpoints uint64
	Damages     uint64 // found while it runs
	Damage      string // the last of them, "" = none
	// CheckpointTime is how long the last checkpoint took to write.
	CheckpointTime time.Duration
	Log            commitlog.Stats
	Index          consumequeue.Stats
	Topics         []TopicStats
	Groups         []GroupStats
	GroupCount     int // also those that consume nothing
	Admission      Admission
	Throttled      []Throttled
	Connections    []Connections
}

// Throttled is how often something had to wait, or was refused, for a kind of quota.
type Throttled struct {
	Kind  quota.Kind
	Limit quota.Limit
	Count uint64
}

func (b *Broker) throttled() (out []Throttled) {
	for k := quota.Topic; k < quota.Kinds; k++ {
		for l := range quota.Names {
			if n := b.quotas.Throttled(k, quota.Limit(l)); n > 0 {
				out = append(out, Throttled{k, quota.Limit(l), n})
			}
		}
	}
	return out
}

// Connections is how many live clients are alike.
type Connections struct {
	Role              session.Role
	Group             record.Resource // of consumers
	Language, Version string          // as they say
	Count             int
}

// TopicStats is one topic.
type TopicStats struct {
	TopicStatus
	MessagesIn uint64
	BytesIn    uint64 // bodies
	Committed  uint64 // transactions that somebody decided about, one way or the other
	RolledBack uint64
	Half       int    // nobody has decided about
	Delayed    uint64 // messages that came to wait for their time
	Fired      uint64 // and those whose time came
	Timing     int64  // that wait now
}

// GroupStats is one group's consumption of one topic.
type GroupStats struct {
	Group, Topic record.Resource
	MessagesOut  uint64
	Lag          int64 // never handed out
	InFlight     int
	Ready        int
	DeadLetters  uint64
	// Oldest is when the oldest message that was never handed out was stored, in Unix
	// ms; 0 = there is none. Of lite topics it is not looked for.
	Oldest int64
	// Unsettled is when the oldest message that is not acknowledged was stored, likewise.
	Unsettled int64
	Paused    bool
}

// counters are what Stats counts by itself.
type counters struct {
	sends, deliveries, acks, deadLetters atomic.Uint64
	duplicates, unpacked, unreadable     atomic.Uint64
	checkpoints                          atomic.Uint64
	checkpointNanos                      atomic.Int64
	damages                              atomic.Uint64
	damage                               atomic.Pointer[string]

	mu     sync.Mutex
	topics map[record.TopicID]*topicCounter
	dead   map[inflight.SubKey]uint64
}

type topicCounter struct{ messages, bytes, committed, rolledBack, delayed, fired uint64 }

func (c *counters) stored(id record.TopicID, messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.of(id)
	t.messages += uint64(messages)
	t.bytes += uint64(bytes)
}

// delayed counts messages that came to wait for their time, and those whose time came.
func (c *counters) delayed(id record.TopicID, came, fired int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.of(id)
	t.delayed += uint64(came)
	t.fired += uint64(fired)
}

// decided counts a transaction that somebody decided about.
func (c *counters) decided(id record.TopicID, outcome transaction.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if outcome == transaction.Committed {
		c.of(id).committed++
	} else {
		c.of(id).rolledBack++
	}
}

// buried counts messages that a group was done with in vain.
func (c *counters) buried(key inflight.SubKey, n int) {
	c.deadLetters.Add(uint64(n))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead == nil {
		c.dead = map[inflight.SubKey]uint64{}
	}
	c.dead[key] += uint64(n)
}

func (c *counters) deadOf(key inflight.SubKey) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.dead[key]
}

// of is a topic's counter. Called with mu held.
func (c *counters) of(id record.TopicID) *topicCounter {
	t := c.topics[id]
	if t == nil {
		if c.topics == nil {
			c.topics = map[record.TopicID]*topicCounter{}
		}
		t = &topicCounter{}
		c.topics[id] = t
	}
	return t
}

func (c *counters) dropTopic(id record.TopicID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.topics, id)
	maps.DeleteFunc(c.dead, func(k inflight.SubKey, _ uint64) bool { return k.Topic == id })
}

func (c *counters) dropGroup(id record.GroupID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	maps.DeleteFunc(c.dead, func(k inflight.SubKey, _ uint64) bool { return k.Group == id })
}

func (c *counters) topic(id record.TopicID) topicCounter {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t := c.topics[id]; t != nil {
		return *t
	}
	return topicCounter{}
}

func (c *counters) checkpoint(took time.Duration) {
	c.checkpoints.Add(1)
	c.checkpointNanos.Store(int64(took))
}

// Stats returns the broker as it is now. It costs time in proportion to the
// number of queues.
func (b *Broker) Stats() Stats {
	c := &b.counters
	st := Stats{
		Uptime: time.Since(b.opened), Serves: b.live.Load(), Sends: c.sends.Load(), Duplicates: c.duplicates.Load(), Deliveries: c.deliveries.Load(),
		Acks: c.acks.Load(), Unpacked: c.unpacked.Load(), Unreadable: c.unreadable.Load(), DeadLetters: c.deadLetters.Load(),
		Waiting: b.hub.Waiting(), Applied: b.dispatcher.Applied(),
		Damages: c.damages.Load(), Damage: c.lastDamage(), Checkpoints: c.checkpoints.Load(), CheckpointTime: time.Duration(c.checkpointNanos.Load()),
		Log: b.wal.Stats(), Index: b.index.Stats(),
	}
	st.Admission = b.admissionStats()
	st.Throttled = b.throttled()
	st.Log.DiskFull = b.DiskFull()
	st.GroupCount = len(b.groups.List())
	st.HalfOpen, st.HalfParked = b.transactions.Counts()
	timers := b.timers.Stats()
	st.Delayed, st.Lateness = timers.Pending, timers.Lateness
	half := b.transactions.ByTopic()
	var timing map[record.TopicID]int64
	if st.Serves {
		timing, _ = b.timers.ByTopic() // an index that cannot be read ends the broker, and says so there
	}
	for _, tp := range b.topics.List() {
		n := c.topic(tp.ID)
		st.Topics = append(st.Topics, TopicStats{TopicStatus: b.topicStatus(tp), MessagesIn: n.messages, BytesIn: n.bytes, Committed: n.committed, RolledBack: n.rolledBack,
			Half: half[tp.ID], Delayed: n.delayed, Fired: n.fired, Timing: timing[tp.ID]})
	}
	for _, s := range b.inflight.Subs() {
		g, ok := b.groups.ByID(s.Key().Group)
		tp, there := b.topics.ByID(s.Key().Topic)
		if ok && there {
			gs := GroupStats{Group: g.Name, Topic: tp.Name, DeadLetters: c.deadOf(s.Key()), Paused: g.Paused}
			var queues []GroupQueueStatus
			queues, gs.MessagesOut = b.subStatus(s)
			for _, q := range queues {
				gs.Lag += int64(q.Max - q.Cursor)
				gs.InFlight += q.InFlight
				gs.Ready += q.Ready
				earlier := func(to *int64, offset record.QueueOffset) {
					if at := b.storedAt(tp.ID, q, offset); at > 0 && (*to == 0 || at < *to) {
						*to = at
					}
				}
				earlier(&gs.Oldest, q.Cursor)
				earlier(&gs.Unsettled, q.Oldest)
			}
			st.Groups = append(st.Groups, gs)
		}
	}
	st.Connections = alike(b.sessions.List())
	st.Clients = 0
	for _, c := range st.Connections {
		st.Clients += c.Count
	}
	return st
}

// storedAt is when the first message at an offset of a queue, or behind it, was stored,
// 0 when there is none.
func (b *Broker) storedAt(id record.TopicID, q GroupQueueStatus, offset record.QueueOffset) int64 {
	if offset >= q.Max || q.Queue >= record.FirstLiteQueue {
		return 0
	}
	key := record.Key(id, q.Queue)
	low, _, _ := b.index.Bounds(key)
	e, ok, err := b.entryAt(key, max(low, offset))
	if err != nil || !ok {
		return 0 // whoever receives it is told
	}
	return e.StoreTime
}

// alike counts clients, in a fixed order.
func alike(clients []session.Client) []Connections {
	count := map[Connections]int{}
	for _, c := range clients {
		count[Connections{Role: c.Role, Group: c.Group, Language: c.Language, Version: c.Version}]++
	}
	all := make([]Connections, 0, len(count))
	for c, n := range count {
		c.Count = n
		all = append(all, c)
	}
	slices.SortFunc(all, func(x, y Connections) int {
		return cmp.Or(cmp.Compare(x.Role, y.Role), cmp.Compare(x.Group.Namespace, y.Group.Namespace), cmp.Compare(x.Group.Name, y.Group.Name),
			cmp.Compare(x.Language, y.Language), cmp.Compare(x.Version, y.Version))
	})
	return all
}
