package api

import (
	"errors"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker/topic"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// leaderOnce is a cluster that this server may lead no more without knowing it.
type leaderOnce struct {
	Cluster
	deposed atomic.Bool
}

func (l *leaderOnce) Verify() error {
	if l.deposed.Load() {
		return errors.New("another leads")
	}
	return nil
}

func TestStateIsToldOnlyByWhoStillLeads(t *testing.T) {
	cluster := &leaderOnce{}
	f := start(t, Options{Cluster: cluster})
	f.topic("t", topic.Normal, 1)
	queue := &v2.MessageQueue{Topic: &v2.Resource{Name: "t"}}
	groups := gantryv1.NewGroupOpsClient(f.dial())
	ask := func() (errs []error, codes []v2.Code) {
		ctx := as("c")
		_, err := f.admin.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: "t"})
		errs = append(errs, err)
		_, err = f.admin.ListGroups(ctx, &gantryv1.ListGroupsRequest{})
		errs = append(errs, err)
		_, err = groups.Update(ctx, &gantryv1.UpdateGroupRequest{Name: "g"}) // which changes nothing
		errs = append(errs, err)
		got, err := f.GetOffset(ctx, &v2.GetOffsetRequest{Group: &v2.Resource{Name: "g"}, MessageQueue: queue})
		if err != nil {
			t.Fatal(err)
		}
		asked, err := f.QueryOffset(ctx, &v2.QueryOffsetRequest{MessageQueue: queue, QueryOffsetPolicy: v2.QueryOffsetPolicy_END})
		if err != nil {
			t.Fatal(err)
		}
		return errs, []v2.Code{got.GetStatus().GetCode(), asked.GetStatus().GetCode()}
	}
	if r, err := f.UpdateOffset(as("c"), &v2.UpdateOffsetRequest{Group: &v2.Resource{Name: "g"}, MessageQueue: queue, Offset: 7}); err != nil || r.GetStatus().GetCode() != v2.Code_OK {
		t.Fatal(r, err)
	}
	errs, answers := ask()
	for _, err := range errs {
		if err != nil {
			t.Errorf("the leader answers %v", err)
		}
	}
	for _, code := range answers {
		if code != v2.Code_OK {
			t.Errorf("the leader answers %v", code)
		}
	}
	cluster.deposed.Store(true)
	errs, answers = ask()
	for _, err := range errs {
		if status.Code(err) != codes.Unavailable {
			t.Errorf("who was deposed answers %v", err)
		}
	}
	for _, code := range answers {
		if code != v2.Code_HA_NOT_AVAILABLE {
			t.Errorf("who was deposed answers %v", code)
		}
	}
}
