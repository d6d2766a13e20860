package api

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// threeShards are the shards of a cluster of two nodes, as the server of one sees them.
type threeShards struct {
	own     int
	topics  [3]map[record.Resource]topic.Topic
	settled atomic.Int32
}

func (s *threeShards) Own() (int, int)        { return s.own, 3 }
func (s *threeShards) Name(i int) string      { return []string{"gantry", "gantry-1", "gantry-2"}[i] }
func (s *threeShards) Settle(context.Context) { s.settled.Add(1) }

func (s *threeShards) Route(i int) []string {
	return [][]string{{"10.0.0.1:8081", "10.0.0.2:8081"}, {"10.0.0.2:8091", "10.0.0.1:8091"}, {"10.0.0.1:8101", "10.0.0.2:8101"}}[i]
}

func (s *threeShards) Topic(i int, name record.Resource) (topic.Topic, bool) {
	tp, ok := s.topics[i][name]
	return tp, ok
}

func (s *threeShards) Recall(_ context.Context, _ record.Resource, handle string) (string, error) {
	return "message of " + handle, nil
}

// ofThree is the server of one of them, and a cluster that it leads.
func ofThree(t *testing.T, own int) (*fixture, *threeShards) {
	s := &threeShards{own: own}
	return start(t, Options{Cluster: &ledHere{}, Shards: s}), s
}

type ledHere struct{ Cluster }

func (*ledHere) Route() []string              { return []string{"10.0.0.1:8081", "10.0.0.2:8081"} }
func (*ledHere) Verify() error                { return nil }
func (*ledHere) Nodes(context.Context) []Node { return nil }

// brokersOf is a route in short: of each broker its name and addresses, once.
func brokersOf(queues []*v2.MessageQueue) (all []string) {
	for _, q := range queues {
		b := q.GetBroker().GetName()
		for _, a := range q.GetBroker().GetEndpoints().GetAddresses() {
			b += fmt.Sprintf(" %s:%d", a.GetHost(), a.GetPort())
		}
		if !slices.Contains(all, b) {
			all = append(all, b)
		}
	}
	return all
}

func TestARouteHasTheQueuesOfAllShards(t *testing.T) {
	for own := range 3 {
		f, _ := ofThree(t, own)
		f.topic("t", topic.Normal, 2)
		to := func(ports ...int32) *v2.Endpoints {
			e := endpoint(v2.AddressScheme_IPv4, slices.Repeat([]string{"192.168.1.1"}, len(ports))...)
			for i, p := range ports {
				e.Addresses[i].Port = p
			}
			return e
		}
		for _, c := range []struct {
			name, language string
			asked          *v2.Endpoints
			want           []string
		}{
			{"nodes are told, leaders first", "GO", to(8081), []string{"gantry 10.0.0.1:8081 10.0.0.2:8081", "gantry-1 10.0.0.2:8091 10.0.0.1:8091", "gantry-2 10.0.0.1:8101 10.0.0.2:8101"}},
			{"its own list", "JAVA", to(8081, 8081), []string{"gantry 192.168.1.1:8081 192.168.1.1:8081", "gantry-1 192.168.1.1:8091 192.168.1.1:8091", "gantry-2 192.168.1.1:8101 192.168.1.1:8101"}},
			{"its one address", "HTTP", to(8081), []string{"gantry 192.168.1.1:8081", "gantry-1 192.168.1.1:8091", "gantry-2 192.168.1.1:8101"}},
			{"one of another shard", "HTTP", to(8091), []string{"gantry 192.168.1.1:8081", "gantry-1 192.168.1.1:8091", "gantry-2 192.168.1.1:8101"}},
			{"a port that no node has is of who was asked", "HTTP", to(31000), []string{
				fmt.Sprint("gantry 192.168.1.1:", 31000-10*own), fmt.Sprint("gantry-1 192.168.1.1:", 31010-10*own), fmt.Sprint("gantry-2 192.168.1.1:", 31020-10*own)}},
		} {
			ctx := metadata.AppendToOutgoingContext(t.Context(), headerClientID, "c", headerLanguage, c.language)
			for range 2 {
				r, err := f.QueryRoute(ctx, &v2.QueryRouteRequest{Topic: &v2.Resource{Name: "t"}, Endpoints: c.asked})
				if err != nil || len(r.GetMessageQueues()) != 6 || !slices.Equal(brokersOf(r.GetMessageQueues()), c.want) {
					t.Fatalf("shard %d, %s: %v, %v; want %q", own, c.name, r, err, c.want)
				}
			}
			a, err := f.QueryAssignment(ctx, &v2.QueryAssignmentRequest{Topic: &v2.Resource{Name: "t"}, Group: &v2.Resource{Name: "g"}, Endpoints: c.asked})
			var queues []*v2.MessageQueue
			for _, as := range a.GetAssignments() {
				queues = append(queues, as.GetMessageQueue())
			}
			if err != nil || len(queues) != 3 || !slices.Equal(brokersOf(queues), c.want) {
				t.Fatalf("shard %d, %s: %v, %v; want %q", own, c.name, a, err, c.want)
			}
		}
	}
}

func TestDeadLettersAndLiteTopicsAreWhereTheyAre(t *testing.T) {
	f, s := ofThree(t, 1)
	ask := func(name string) []string {
		t.Helper()
		r, err := f.QueryRoute(as("c"), &v2.QueryRouteRequest{Topic: &v2.Resource{Name: name}, Endpoints: endpoint(v2.AddressScheme_IPv4, "h")})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, b := range brokersOf(r.GetMessageQueues()) {
			names = append(names, strings.Fields(b)[0])
		}
		return names
	}
	if got := ask("%DLQ%g"); got != nil {
		t.Errorf("dead letters of nobody: %q", got)
	}
	dlq := record.Resource{Name: "%DLQ%g"}
	s.topics[2] = map[record.Resource]topic.Topic{dlq: {Name: dlq, Type: topic.Normal, Queues: 1}}
	if got := ask("%DLQ%g"); !slices.Equal(got, []string{"gantry-2"}) {
		t.Errorf("dead letters of shard 2: %q", got)
	}
	f.topic(dlq.Name, topic.Normal, 1)
	if got := ask("%DLQ%g"); !slices.Equal(got, []string{"gantry-1", "gantry-2"}) {
		t.Errorf("dead letters of shards 1 and 2: %q", got)
	}
	lite, plain := record.Resource{Name: "lite"}, record.Resource{Name: "new"}
	s.topics[0] = map[record.Resource]topic.Topic{lite: {Name: lite, Type: topic.Lite, Queues: 1}, plain: {Name: plain, Type: topic.Normal, Queues: 1}}
	if got := ask("lite"); !slices.Equal(got, []string{"gantry"}) {
		t.Errorf("a topic of lite topics: %q", got)
	}
	if got := ask("new"); len(got) != 3 { // it comes in a moment
		t.Errorf("a topic that is in shard 0 already: %q", got)
	}
}

func TestTablesAreChangedAtShard0Alone(t *testing.T) {
	f, s := ofThree(t, 0)
	if _, err := f.admin.CreateTopic(as("c"), &gantryv1.CreateTopicRequest{Name: "t"}); err != nil || s.settled.Load() != 1 {
		t.Errorf("at shard 0: %v, and it has waited for the others %d times", err, s.settled.Load())
	}
	if _, err := f.admin.ListTopics(as("c"), &gantryv1.ListTopicsRequest{}); err != nil || s.settled.Load() != 1 {
		t.Errorf("a question: %v, and it has waited for the others", err)
	}
	f, s = ofThree(t, 2)
	f.topic("%DLQ%g", topic.Normal, 1)
	for what, err := range map[string]error{
		"topic": second(f.admin.CreateTopic(as("c"), &gantryv1.CreateTopicRequest{Name: "t"})),
		"group": second(f.admin.DeleteGroup(as("c"), &gantryv1.DeleteGroupRequest{Name: "g"})),
		"user":  second(gantryv1.NewAccessClient(f.dial()).DeleteUser(as("c"), &gantryv1.DeleteUserRequest{Name: "u"})),
		"quota": second(gantryv1.NewQuotasClient(f.dial()).Set(as("c"), &gantryv1.SetQuotaRequest{})),
	} {
		if status.Code(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "shard 0, at 10.0.0.1:8081") {
			t.Errorf("%s at shard 2: %v", what, err)
		}
	}
	if _, err := f.admin.DeleteTopic(as("c"), &gantryv1.DeleteTopicRequest{Name: "%DLQ%g"}); err != nil {
		t.Errorf("its own dead letters: %v", err)
	}
	r, err := f.RecallMessage(as("c"), &v2.RecallMessageRequest{Topic: &v2.Resource{Name: "t"}, RecallHandle: "h"})
	if err != nil || r.GetMessageId() != "message of h" {
		t.Errorf("a recall: %v, %v", r, err)
	}
	info, err := f.admin.ServerInfo(as("c"), &gantryv1.ServerInfoRequest{})
	if err != nil || info.GetShard() != 2 || info.GetShards() != 3 {
		t.Errorf("%v, %v", info, err)
	}
}

func second[T any](_ T, err error) error { return err }
