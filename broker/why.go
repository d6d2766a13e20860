package broker

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
)

// Explanation is a message with what stands between it and each group of its
// topic.
type Explanation struct {
	Topic   record.Resource
	Message FoundMessage // with the deliveries' history
	Groups  []Standing   // by name; groups that have begun with the topic
}

// Standing is how a group stands to a message.
type Standing struct {
	Group   record.Resource
	Place   Place
	Ahead   int64  // GroupBehind: messages that come first; GroupBlocked: 0
	Client  string // that has it, or had it last
	Attempt int32  // deliveries it had
	Until   int64  // Unix ms: when it may be handed out again
	Reason  string // of a dead letter
	Filter  string // that does not take it
	Clients int    // connected consumers
	Paused  bool   // the group is handed nothing
}

// Place says where a message is for one group.
type Place int

const (
	GroupBehind   Place = iota // it has not come to it
	GroupLeased                // a client has it
	GroupWaiting               // until Until
	GroupReady                 // to be handed out again
	GroupBlocked               // behind another of its message group
	GroupDead                  // among its dead letters
	GroupFiltered              // the filter in force does not take it
	GroupDone                  // acknowledged, passed by a filter of before, or skipped by a reset
)

// Why explains where the messages with an id are, the newest of each topic: of one
// topic, or of all when its name is zero. MessageNotFound when there is none.
func (b *Broker) Why(ctx context.Context, topicName record.Resource, id string) ([]Explanation, error) {
	topics := b.topics.List()
	if topicName != (record.Resource{}) {
		tp, err := b.Route(topicName)
		if err != nil {
			return nil, err
		}
		topics = []topic.Topic{tp}
	}
	if id == "" {
		return nil, Errorf(BadRequest, "the message id is empty")
	}
	var out []Explanation
	for _, tp := range topics {
		page, _, err := b.FindMessages(ctx, MessageQuery{Topic: tp.Name, ID: id, Limit: 1})
		if ReasonOf(err) == TopicNotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			e, err := b.explain(tp, f)
			if err != nil && !errors.Is(err, errTrimmed) {
				return nil, err
			}
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		return nil, Errorf(MessageNotFound, "no topic has a message with the id %q: it was not stored here, or retention has taken it", clip(id))
	}
	slices.SortFunc(out, func(x, y Explanation) int {
		return cmp.Or(cmp.Compare(x.Topic.Namespace, y.Topic.Namespace), cmp.Compare(x.Topic.Name, y.Topic.Name))
	})
	return out, nil
}

func (b *Broker) explain(tp topic.Topic, f FoundMessage) (Explanation, error) {
	subs := b.subsOf(tp)
	b.deliveries(&f, tp, subs, true)
	e := Explanation{Topic: tp.Name, Message: f}
	v, m, err := b.viewMessage(f.Position)
	if err != nil {
		return e, err
	}
	defer v.Release()
	queue, offset := f.Queue, f.Offset
	for _, p := range f.Places { // a redrive puts it there again
		if !p.Dead && !p.Settled && p.Topic == tp.Name {
			queue, offset = p.Queue, p.Offset
		}
	}
	for _, s := range subs {
		st := Standing{Group: s.group.Name, Clients: len(b.sessions.ByGroup(s.group.Name)), Paused: s.group.Paused}
		switch {
		case offset == record.NoOffset:
			continue // nobody can have it yet, or any more
		case f.State == MessageDeleted:
			continue
		case st.dead(&f):
		case st.outstanding(&f, s.group.FIFO || queue >= record.FirstLiteQueue):
		case st.filtered(b, s, &m):
		default:
			st.reach(b, s, tp, queue, offset)
		}
		e.Groups = append(e.Groups, st)
	}
	slices.SortFunc(e.Groups, func(x, y Standing) int {
		return cmp.Or(cmp.Compare(x.Group.Namespace, y.Group.Namespace), cmp.Compare(x.Group.Name, y.Group.Name))
	})
	return e, nil
}

// dead fills in that the group has the message among its open dead letters.
func (st *Standing) dead(f *FoundMessage) bool {
	for _, p := range f.Places {
		if p.Dead && !p.Settled && p.Topic == dlqName(st.Group) {
			st.Place, st.Reason = GroupDead, p.Reason
			return true
		}
	}
	return false
}

// outstanding fills in a delivery that is not settled.
func (st *Standing) outstanding(f *FoundMessage, ordered bool) bool {
	for _, d := range f.Deliveries {
		if d.Group != st.Group {
			continue
		}
		st.Client, st.Attempt, st.Until = d.Client, d.Attempt, d.Until
		switch {
		case d.State == DeliveryLeased:
			st.Place = GroupLeased
		case d.State == DeliveryWaiting:
			st.Place = GroupWaiting
		case d.State == DeliveryAside && ordered:
			st.Place = GroupBlocked
		default:
			st.Place = GroupReady
		}
		return true
	}
	return false
}

// filtered fills in that the filter which the group uses does not take it.
func (st *Standing) filtered(b *Broker, s consumption, m *record.Message) bool {
	text, used := b.filters.inForce(s.Key())
	if !used {
		return false
	}
	f, err := b.compiled.get(text.language, text.expr)
	if err != nil || f.Match(m) {
		return false
	}
	st.Place, st.Filter = GroupFiltered, text.String()
	return true
}

// reach fills in whether the group has come to the message.
func (st *Standing) reach(b *Broker, s consumption, tp topic.Topic, queue uint32, offset record.QueueOffset) {
	low, _, _ := b.index.Bounds(record.Key(tp.ID, queue))
	at := low
	queues, _ := s.Status(b.now())
	for _, q := range queues {
		if q.Queue == queue {
			at = max(low, q.Cursor)
		}
	}
	if offset < at {
		st.Place = GroupDone
		return
	}
	st.Place, st.Ahead = GroupBehind, int64(offset-at)
}
