package api

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

func (o *observe) Why(ctx context.Context, req *gantryv1.WhyRequest) (*gantryv1.WhyResponse, error) {
	found, err := o.broker.Why(ctx, record.Resource{Namespace: req.GetNamespace(), Name: req.GetTopic()}, req.GetMessageId())
	if err != nil {
		return nil, rpcError(o.log, err)
	}
	resp := &gantryv1.WhyResponse{Time: timestamppb.Now()}
	for i := range found {
		e := &found[i]
		w := &gantryv1.MessageWhy{
			Topic: e.Topic.Name, Namespace: e.Topic.Namespace, Message: wireFound(&e.Message), HeldBack: heldBack(&e.Message),
		}
		for j := range e.Groups {
			w.Groups = append(w.Groups, wireStanding(&e.Groups[j]))
		}
		resp.Messages = append(resp.Messages, w)
	}
	return resp, nil
}

// heldBack says in words why no group can have a message, "" when they can.
func heldBack(f *broker.FoundMessage) string {
	switch f.State {
	case broker.MessageHalf:
		return "its transaction is undecided: its producer is asked about it; `gantry txn` decides by hand"
	case broker.MessageParked:
		return "its transaction is undecided and producers are not asked any more: it waits for `gantry txn commit` or `rollback`"
	case broker.MessageRolledBack:
		return "its transaction was rolled back: it is never delivered"
	case broker.MessageDelayed:
		return "it is delayed and due at " + stampMilli(f.Due)
	case broker.MessageRecalled:
		return "it was recalled before it was due: it is never delivered"
	case broker.MessageDeleted:
		return "an operator deleted it: it is never delivered again"
	case broker.MessageGone:
		return "its queue begins behind it: retention or a purge has taken it"
	}
	return ""
}

func stampMilli(ms int64) string { return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z") }

// standings numbers the broker's places as the wire does.
var standings = map[broker.Place]gantryv1.GroupStanding{
	broker.GroupBehind:   gantryv1.GroupStanding_GROUP_BEHIND,
	broker.GroupLeased:   gantryv1.GroupStanding_GROUP_HAS_IT,
	broker.GroupWaiting:  gantryv1.GroupStanding_GROUP_WAITS,
	broker.GroupReady:    gantryv1.GroupStanding_GROUP_READY,
	broker.GroupBlocked:  gantryv1.GroupStanding_GROUP_BLOCKED,
	broker.GroupDead:     gantryv1.GroupStanding_GROUP_DEAD,
	broker.GroupFiltered: gantryv1.GroupStanding_GROUP_FILTERED,
	broker.GroupDone:     gantryv1.GroupStanding_GROUP_DONE,
}

func wireStanding(s *broker.Standing) *gantryv1.GroupWhy {
	w := &gantryv1.GroupWhy{
		Group: s.Group.Name, Namespace: s.Group.Namespace, Standing: standings[s.Place], Text: standingText(s),
		Ahead: s.Ahead, Client: s.Client, Attempt: s.Attempt, Clients: int32(s.Clients),
	}
	if s.Place == broker.GroupLeased || s.Place == broker.GroupWaiting {
		w.Next = wireTime(s.Until)
	}
	return w
}

func standingText(s *broker.Standing) string {
	nobody := ""
	if s.Clients == 0 {
		nobody = ", and no consumer is connected"
	}
	if s.Paused {
		nobody += "; the group is paused, `gantry group resume` ends that"
	}
	switch s.Place {
	case broker.GroupLeased:
		return fmt.Sprintf("client %s has it, attempt %d; unless it is settled it comes again at %s", s.Client, s.Attempt, stampMilli(s.Until))
	case broker.GroupWaiting:
		return fmt.Sprintf("it waits for attempt %d until %s; client %s had it last%s", s.Attempt+1, stampMilli(s.Until), s.Client, nobody)
	case broker.GroupReady:
		return fmt.Sprintf("it is handed out again to the next consumer that asks, as attempt %d%s", s.Attempt+1, nobody)
	case broker.GroupBlocked:
		return "another message of its message group is not settled: `gantry group blocked` shows which" + nobody
	case broker.GroupDead:
		return "it is among the dead letters: " + s.Reason
	case broker.GroupFiltered:
		return fmt.Sprintf("the filter %q does not take it", s.Filter)
	case broker.GroupDone:
		return "the group is done with it: acknowledged, or passed over"
	}
	if s.Ahead == 0 {
		return "it is the next one of its queue" + nobody
	}
	noun := "messages of its queue come"
	if s.Ahead == 1 {
		noun = "message of its queue comes"
	}
	return fmt.Sprintf("%d %s first%s", s.Ahead, noun, nobody)
}
