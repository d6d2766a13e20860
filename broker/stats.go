package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/gantry-mq/gantry/commitlog"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/consumequeue"
)

// Stats is the broker at one moment. Counters count from the start of the
// process.
type Stats struct {
	Uptime      time.Duration
	Sends       uint64 // messages stored
	Duplicates  uint64 // messages sent again and answered with the first result
	Deliveries  uint64 // messages handed out, each attempt counted
	Acks        uint64
	DeadLetters uint64
	Waiting     int // parked receives and pulls
	Clients     int
	Delayed     int64 // messages that are not due yet
	HalfOpen    int   // half messages that wait for their producer's decision
	HalfParked  int   // and for an operator's
	Applied     record.Position
	Checkpoints uint64
	// CheckpointTime is how long the last checkpoint took to write.
	CheckpointTime time.Duration
	Log            commitlog.Stats
	Index          consumequeue.Stats
	Topics         []TopicStats
	Groups         []GroupStats
	GroupCount     int // also those that consume nothing
	Admission      Admission
}

// TopicStats is one topic.
type TopicStats struct {
	TopicStatus
	MessagesIn uint64
	BytesIn    uint64 // bodies
}

// GroupStats is one group's consumption of one topic.
type GroupStats struct {
	Group, Topic record.Resource
	MessagesOut  uint64
	Lag          int64 // never handed out
	InFlight     int
	Ready        int
}

// counters are what Stats counts by itself.
type counters struct {
	sends, deliveries, acks, deadLetters atomic.Uint64
	duplicates                           atomic.Uint64
	checkpoints                          atomic.Uint64
	checkpointNanos                      atomic.Int64

	mu     sync.Mutex
	topics map[record.TopicID]*topicCounter
}

type topicCounter struct{ messages, bytes uint64 }

func (c *counters) stored(id record.TopicID, messages, bytes int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.topics[id]
	if t == nil {
		if c.topics == nil {
			c.topics = map[record.TopicID]*topicCounter{}
		}
		t = &topicCounter{}
		c.topics[id] = t
	}
	t.messages += uint64(messages)
	t.bytes += uint64(bytes)
}

func (c *counters) dropTopic(id record.TopicID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.topics, id)
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
		Uptime: time.Since(b.opened), Sends: c.sends.Load(), Duplicates: c.duplicates.Load(), Deliveries: c.deliveries.Load(),
		Acks: c.acks.Load(), DeadLetters: c.deadLetters.Load(),
		Waiting: b.hub.Waiting(), Clients: len(b.sessions.List()), Applied: b.dispatcher.Applied(),
		Checkpoints: c.checkpoints.Load(), CheckpointTime: time.Duration(c.checkpointNanos.Load()),
		Log: b.wal.Stats(), Index: b.index.Stats(),
	}
	st.Admission = b.admissionStats()
	st.GroupCount = len(b.groups.List())
	st.HalfOpen, st.HalfParked = b.transactions.Counts()
	st.Delayed = b.timers.Stats().Pending
	for _, tp := range b.topics.List() {
		n := c.topic(tp.ID)
		st.Topics = append(st.Topics, TopicStats{TopicStatus: b.topicStatus(tp), MessagesIn: n.messages, BytesIn: n.bytes})
	}
	for _, s := range b.inflight.Subs() {
		g, ok := b.groups.ByID(s.Key().Group)
		tp, there := b.topics.ByID(s.Key().Topic)
		if ok && there {
			gs := GroupStats{Group: g.Name, Topic: tp.Name}
			var queues []GroupQueueStatus
			queues, gs.MessagesOut = b.subStatus(s)
			for _, q := range queues {
				gs.Lag += int64(q.Max - q.Cursor)
				gs.InFlight += q.InFlight
				gs.Ready += q.Ready
			}
			st.Groups = append(st.Groups, gs)
		}
	}
	return st
}
