package history

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/gantry-mq/gantry/proto/gantryv1"
	"github.com/gantry-mq/gantry/proto/rocketmqv2"
	"github.com/gantry-mq/gantry/test/history/linear"
)

const (
	offsetsTopic = "offsets"
	// generation is for how long clients are at the same few objects. The longer, the
	// more each of them sees, and the longer it takes to judge.
	generation = 6 * time.Second
	// judgeLimit is how long one object may take to be judged: a second is usual.
	judgeLimit = 2 * time.Minute
)

// Topics, groups and offsets, by clients of each of three nodes, of which any may die,
// stop or be cut off: all of it as if there were one copy. There is a round for every
// four of the test of everything, and of half the time: these clients need no more.
func TestTablesAreLinearizableWhenNodesFail(t *testing.T) {
	binary := build(t)
	for i := range (*clusterRounds + 3) / 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Logf("-seed %d", *seed)
			r := rand.New(rand.NewPCG(*seed+uint64(i), 2))
			c := newCluster(t, binary)
			_, err := gantryv1.NewManagementClient(c.dial(t)).CreateTopic(t.Context(), &gantryv1.CreateTopicRequest{Name: offsetsTopic, Queues: 2})
			must(t, err)
			h := &linear.History{}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var clients sync.WaitGroup
			began, all := time.Now(), faults{}
			for n := range 2 * len(c.nodes) {
				o := operator{
					Client: h.Client(), Rand: rand.New(rand.NewPCG(*seed+uint64(i), uint64(10+n))), began: began, n: int64(n),
				}
				o.connect(c.nodes[n/2].dial(t))
				clients.Go(func() { o.run(ctx) })
			}
			for time.Since(began) < *clusterTime/2 {
				f := c.pick(r)
				t.Logf("%8v %s", time.Since(began).Round(time.Millisecond), f.name)
				f.do(c, r)
				all[f.name]++
				c.await(c.settled)
			}
			time.Sleep(time.Second)
			cancel()
			clients.Wait()
			c.stopAll()
			dir, err := os.MkdirTemp("", "gantry-history-") // it stays, with what was wrong
			must(t, err)
			report, err := h.Check(dir, judgeLimit)
			must(t, err)
			t.Logf("%v\n%v", all, report)
			if len(report.Files) == 0 {
				must(t, os.Remove(dir))
			} else {
				t.Errorf("no one copy could be like %v, undecided are %v: see %v", report.Wrong, report.Undecided, report.Files)
			}
			if a := report.Answers; a[linear.Done] == 0 || a[linear.Exists] == 0 || a[linear.Missing] == 0 {
				t.Errorf("nothing was tested: %v", report)
			}
		})
	}
}

// operator asks one node, or whoever that passes it on to, to change and to show
// topics, groups and offsets. It belongs to one goroutine.
type operator struct {
	*linear.Client
	*rand.Rand
	began time.Time
	n     int64 // makes its values different from those of others
	made  int64

	tables gantryv1.ManagementClient
	topics gantryv1.TopicOpsClient
	groups gantryv1.GroupOpsClient
	pull   rocketmqv2.MessagingServiceClient
}

func (o *operator) connect(conn *grpc.ClientConn) {
	o.tables, o.topics, o.groups = gantryv1.NewManagementClient(conn), gantryv1.NewTopicOpsClient(conn), gantryv1.NewGroupOpsClient(conn)
	o.pull = rocketmqv2.NewMessagingServiceClient(conn)
}

func (o *operator) run(ctx context.Context) {
	ctx = metadata.AppendToOutgoingContext(ctx, "x-mq-client-id", fmt.Sprint("operator-", o.n), "x-mq-language", "GO", "x-mq-client-version", "5.1.4", "x-mq-protocol", "v2")
	for ctx.Err() == nil {
		what := []func(context.Context, string, linear.Ask){o.topic, o.group, o.offset}[o.IntN(3)]
		// A call that waits for a node that is stopped is one of those that show what it
		// does when it goes on; a new one is begun often, to know of what happened since.
		call, cancel := context.WithTimeout(ctx, time.Duration(200+o.IntN(2000))*time.Millisecond)
		what(call, fmt.Sprintf("%d-%d", time.Since(o.began)/generation, o.IntN(2)), o.ask())
		cancel()
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(o.IntN(20)) * time.Millisecond):
		}
	}
}

func (o *operator) ask() linear.Ask {
	o.made++
	a := linear.Ask{A: o.made*100 + o.n, B: int64(1 + o.IntN(8)), Verb: linear.Read}
	switch o.IntN(12) {
	case 0, 1:
		a.Verb = linear.Create
	case 2, 3:
		a.Verb = linear.SetA
	case 4, 5:
		a.Verb = linear.SetB
	case 6:
		if o.IntN(3) == 0 {
			a.Verb = linear.Delete
		}
	}
	return a
}

// topic: A is what may be kept of it, in bytes, B its queues.
func (o *operator) topic(ctx context.Context, name string, a linear.Ask) {
	name = "topic-" + name
	a.Object, a.Grows = name, true
	o.Do(a, func() linear.Answer {
		var t *gantryv1.Topic
		var err error
		queues := uint32(a.B)
		switch a.Verb {
		case linear.Create:
			var r *gantryv1.CreateTopicResponse
			r, err = o.tables.CreateTopic(ctx, &gantryv1.CreateTopicRequest{Name: name, RetentionSize: a.A, Queues: queues})
			t = r.GetTopic()
		case linear.Read:
			var r *gantryv1.DescribeTopicResponse
			r, err = o.tables.DescribeTopic(ctx, &gantryv1.DescribeTopicRequest{Name: name})
			t = r.GetTopic()
		case linear.SetA, linear.SetB:
			req := &gantryv1.UpdateTopicRequest{Name: name, RetentionSize: &a.A}
			if a.Verb == linear.SetB {
				req.RetentionSize, req.Queues = nil, &queues
			}
			var r *gantryv1.UpdateTopicResponse
			r, err = o.topics.Update(ctx, req)
			t = r.GetTopic()
		case linear.Delete:
			_, err = o.tables.DeleteTopic(ctx, &gantryv1.DeleteTopicRequest{Name: name})
		}
		return linear.Answer{Kind: kindOf(err), A: t.GetRetentionSize(), B: int64(t.GetQueues())}
	})
}

// group: A is how often it tries, B whether it is paused.
func (o *operator) group(ctx context.Context, name string, a linear.Ask) {
	name = "group-" + name
	a.Object, a.A, a.B = name, 1+(o.made*6+o.n)%1000, a.B%2
	if a.Verb == linear.Create {
		a.B = 0
	}
	o.Do(a, func() linear.Answer {
		var g *gantryv1.Group
		var err error
		attempts, paused := int32(a.A), a.B == 1
		switch a.Verb {
		case linear.Create:
			var r *gantryv1.CreateGroupResponse
			r, err = o.tables.CreateGroup(ctx, &gantryv1.CreateGroupRequest{Name: name, MaxAttempts: attempts})
			g = r.GetGroup()
		case linear.Read:
			var r *gantryv1.DescribeGroupResponse
			r, err = o.tables.DescribeGroup(ctx, &gantryv1.DescribeGroupRequest{Name: name})
			g = r.GetGroup()
		case linear.SetA, linear.SetB:
			req := &gantryv1.UpdateGroupRequest{Name: name, MaxAttempts: &attempts}
			if a.Verb == linear.SetB {
				req.MaxAttempts, req.Paused = nil, &paused
			}
			var r *gantryv1.UpdateGroupResponse
			r, err = o.groups.Update(ctx, req)
			g = r.GetGroup()
		case linear.Delete:
			_, err = o.tables.DeleteGroup(ctx, &gantryv1.DeleteGroupRequest{Name: name})
		}
		answer := linear.Answer{Kind: kindOf(err), A: int64(g.GetMaxAttempts())}
		if g.GetPaused() {
			answer.B = 1
		}
		return answer
	})
}

// offset: A is that of a group in a queue.
func (o *operator) offset(ctx context.Context, name string, a linear.Ask) {
	name = "reader-" + name
	a.Object = name
	if a.Verb != linear.Read {
		a.Verb = linear.Put
	}
	group, queue := &rocketmqv2.Resource{Name: name}, &rocketmqv2.MessageQueue{Topic: &rocketmqv2.Resource{Name: offsetsTopic}, Id: 1}
	o.Do(a, func() linear.Answer {
		var offset int64
		var err error
		var st *rocketmqv2.Status
		if a.Verb == linear.Put {
			var r *rocketmqv2.UpdateOffsetResponse
			r, err = o.pull.UpdateOffset(ctx, &rocketmqv2.UpdateOffsetRequest{Group: group, MessageQueue: queue, Offset: a.A})
			st = r.GetStatus()
		} else {
			var r *rocketmqv2.GetOffsetResponse
			r, err = o.pull.GetOffset(ctx, &rocketmqv2.GetOffsetRequest{Group: group, MessageQueue: queue})
			st, offset = r.GetStatus(), r.GetOffset()
		}
		switch {
		case err != nil:
			return linear.Answer{Kind: linear.Unknown}
		case st.GetCode() == rocketmqv2.Code_OK:
			return linear.Answer{Kind: linear.Done, A: offset}
		case st.GetCode() == rocketmqv2.Code_OFFSET_NOT_FOUND, st.GetCode() == rocketmqv2.Code_CONSUMER_GROUP_NOT_FOUND:
			return linear.Answer{Kind: linear.Missing}
		}
		return linear.Answer{Kind: linear.Unknown}
	})
}

// kindOf is what the status of an operator's call means. Whatever tells nothing for
// sure is unknown.
func kindOf(err error) linear.Kind {
	switch status.Code(err) {
	case codes.OK:
		return linear.Done
	case codes.AlreadyExists:
		return linear.Exists
	case codes.NotFound:
		return linear.Missing
	case codes.InvalidArgument:
		return linear.Refused
	}
	return linear.Unknown
}
