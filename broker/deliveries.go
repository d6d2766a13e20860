package broker

import (
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/inflight"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// MessageDelivery is how far a group is with a message that it has not settled.
type MessageDelivery struct {
	Group   record.Resource
	State   DeliveryState
	Attempt int32  // deliveries it had
	Client  string // that has it, or had it last
	Until   int64  // Unix ms: when it may be handed out again
	// History is its deliveries, the oldest first, of many the newest. Only where
	// one message is asked for.
	History []inflight.Attempt
}

// DeliveryState says where an outstanding message is.
type DeliveryState int

const (
	DeliveryLeased  DeliveryState = iota // with its client
	DeliveryWaiting                      // for its next attempt; or its client asked for more time
	DeliveryReady                        // to be handed out again
	DeliveryAside                        // not handed out yet: behind another of its message group, or replayed
)

func (s DeliveryState) String() string {
	return [...]string{"leased", "waiting", "ready", "put aside"}[s]
}

// consumption is one group's consumption of a topic.
type consumption struct {
	*inflight.Sub
	group group.Group
}

// subsOf returns who consumes a topic, by the id of the group.
func (b *Broker) subsOf(tp topic.Topic) (subs []consumption) {
	for _, s := range b.inflight.Subs() {
		if g, ok := b.groups.ByID(s.Key().Group); ok && s.Key().Topic == tp.ID {
			subs = append(subs, consumption{s, g})
		}
	}
	return subs
}

// deliveries fills in which groups have a message of tp in their hands, where it
// is and where it was redriven to.
func (b *Broker) deliveries(f *FoundMessage, tp topic.Topic, subs []consumption, history bool) {
	f.Deliveries = nil
	for _, s := range subs {
		if f.Offset != record.NoOffset {
			b.deliver(f, s, f.Queue, f.Offset, history)
		}
		for _, p := range f.Places {
			if !p.Dead && p.Topic == tp.Name {
				b.deliver(f, s, p.Queue, p.Offset, history)
			}
		}
	}
}

func (b *Broker) deliver(f *FoundMessage, s consumption, queue uint32, offset record.QueueOffset, history bool) {
	attempts := s.Attempts(queue, offset)
	aside := len(attempts) == 0
	if aside && !s.IsAside(queue, offset) {
		return
	}
	d := MessageDelivery{Group: s.group.Name, State: DeliveryAside}
	if !aside {
		last := attempts[len(attempts)-1]
		d.Attempt, d.Client, d.Until = last.Number, last.Owner, last.Ended
		switch {
		case last.Ended <= b.now():
			d.State = DeliveryReady
		case last.End == inflight.EndNone:
			d.State = DeliveryLeased
		default:
			d.State = DeliveryWaiting
		}
		if f.State == MessageQueued {
			f.State = MessageRetrying
		}
	}
	if history {
		d.History = b.attemptsNow(attempts)
	}
	f.Deliveries = append(f.Deliveries, d)
}
