package api

import (
	"context"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/host"
	gantryv1 "github.com/gantry-mq/gantry/proto/gantryv1"
)

// observe is gantry.v1.Observe.
type observe struct {
	gantryv1.UnsafeObserveServer // an RPC without a method must not compile

	broker     *broker.Broker
	log        *slog.Logger
	management *management
	history    history
}

func (o *observe) Overview(ctx context.Context, _ *gantryv1.OverviewRequest) (*gantryv1.OverviewResponse, error) {
	info, err := o.management.ServerInfo(ctx, nil)
	if err != nil {
		return nil, err
	}
	st := o.broker.Stats()
	resp := &gantryv1.OverviewResponse{
		Server: info, Time: timestamppb.Now(), Traffic: wireTraffic(&st), Process: wireProcess(st.Uptime),
		Log: &gantryv1.LogStatus{
			First: uint64(st.Log.First), Written: uint64(st.Log.Written), Committed: uint64(st.Log.Committed), Applied: uint64(st.Applied),
			Segments: int32(st.Log.Segments), DiskBytes: st.Log.DiskBytes, Bytes: st.Log.Bytes,
			Syncs: st.Log.Syncs, SyncTime: durationpb.New(st.Log.SyncTime), SyncMax: durationpb.New(st.Log.SyncMax),
			QueuedBytes: st.Log.QueueBytes, DiskFull: st.Log.DiskFull, Checkpoints: st.Checkpoints,
		},
		Index: &gantryv1.IndexStatus{Queues: int32(st.Index.Queues), DiskBytes: int64(st.Index.Arenas) * st.Index.ArenaSize},
		Disk:  &gantryv1.DiskStatus{},
	}
	resp.Log.Damage = st.Damage
	if st.Log.Err != nil {
		resp.Log.Failure = st.Log.Err.Error()
	}
	if err := o.broker.Ready(); err != nil {
		resp.NotReady = err.Error()
	}
	if dir := o.management.options.DataDir; dir != "" {
		if resp.Disk.Total, resp.Disk.Free, err = host.Disk(dir); err != nil {
			o.log.Warn("the disk of the data directory cannot be asked", "error", err)
		}
		resp.Disk.Kind = host.Kind(dir)
		if info, err := os.Stat(dir); err == nil {
			resp.Disk.Mode = uint32(info.Mode().Perm())
		}
	}
	return resp, nil
}

func wireProcess(uptime time.Duration) *gantryv1.ProcessStatus {
	heap := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(heap)
	p := &gantryv1.ProcessStatus{
		Pid: int32(os.Getpid()), Uptime: durationpb.New(uptime), Cpu: durationpb.New(host.CPU()), Resident: host.Resident(),
		Heap: int64(heap[0].Value.Uint64()), Goroutines: int32(runtime.NumGoroutine()),
		ClockUnsynchronized: host.ClockUnsynchronized(),
	}
	open, limit := host.OpenFiles()
	p.OpenFiles, p.OpenFilesLimit = int32(open), limit
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		p.MemoryLimit = limit
	}
	return p
}

func wireTraffic(st *broker.Stats) *gantryv1.Traffic {
	t := &gantryv1.Traffic{
		MessagesIn: st.Sends, MessagesOut: st.Deliveries, Acknowledged: st.Acks, DeadLetters: st.DeadLetters, Duplicates: st.Duplicates,
		Topics: int32(len(st.Topics)), Clients: int32(st.Clients), Waiting: int32(st.Waiting),
		Delayed: st.Delayed, HalfOpen: int32(st.HalfOpen), HalfParked: int32(st.HalfParked),
	}
	for _, tp := range st.Topics {
		t.BytesIn += tp.BytesIn
	}
	for _, g := range st.Groups {
		t.Lag += g.Lag + int64(g.Ready)
		t.InFlight += int64(g.InFlight)
	}
	t.Groups = int32(st.GroupCount)
	return t
}

func wireSample(at time.Time, st *broker.Stats) *gantryv1.Sample {
	return &gantryv1.Sample{
		Time: timestamppb.New(at), Traffic: wireTraffic(st), LogBytes: st.Log.Bytes, Syncs: st.Log.Syncs,
		SyncTime: durationpb.New(st.Log.SyncTime), DiskBytes: st.Log.DiskBytes + int64(st.Index.Arenas)*st.Index.ArenaSize,
	}
}

func (o *observe) History(_ context.Context, req *gantryv1.HistoryRequest) (*gantryv1.HistoryResponse, error) {
	return &gantryv1.HistoryResponse{Samples: o.history.since(req.GetAfter().AsTime())}, nil
}

func (o *observe) Topics(ctx context.Context, req *gantryv1.TopicsRequest) (*gantryv1.TopicsResponse, error) {
	sizes, err := o.broker.TopicBytes()
	if err != nil {
		return nil, rpcError(o.log, err)
	}
	topics := o.broker.Stats().Topics
	slices.SortFunc(topics, func(a, b broker.TopicStats) int { return compare(a.Name, b.Name) })
	resp := &gantryv1.TopicsResponse{Time: timestamppb.Now()}
	for _, t := range topics {
		if req.Namespace != nil && *req.Namespace != t.Name.Namespace || !mayList(ctx, access.Topic, t.Name) {
			continue
		}
		w := &gantryv1.TopicTraffic{
			Topic: wireTopic(t.Topic), Bytes: sizes[t.ID].Bytes, BytesEstimated: sizes[t.ID].Estimated, MessagesIn: t.MessagesIn, BytesIn: t.BytesIn,
		}
		for _, q := range t.Queues {
			w.Messages += int64(q.Max - q.Min)
		}
		resp.Topics = append(resp.Topics, w)
	}
	return resp, nil
}

func (o *observe) Groups(ctx context.Context, req *gantryv1.GroupsRequest) (*gantryv1.GroupsResponse, error) {
	of := map[record.Resource][]*gantryv1.GroupTopicTraffic{}
	stats := o.broker.Stats().Groups
	slices.SortFunc(stats, func(a, b broker.GroupStats) int { return compare(a.Topic, b.Topic) })
	for _, s := range stats {
		of[s.Group] = append(of[s.Group], &gantryv1.GroupTopicTraffic{
			Topic: s.Topic.Name, Namespace: s.Topic.Namespace,
			Lag: s.Lag + int64(s.Ready), InFlight: int64(s.InFlight), Ready: int64(s.Ready), MessagesOut: s.MessagesOut,
		})
	}
	members := map[record.Resource]int32{}
	for _, c := range o.broker.Sessions().List() {
		if c.Role != session.Producer {
			members[c.Group]++
		}
	}
	groups := o.broker.Groups()
	slices.SortFunc(groups, func(a, b group.Group) int { return compare(a.Name, b.Name) })
	resp := &gantryv1.GroupsResponse{Time: timestamppb.Now()}
	for _, g := range groups {
		if (req.Namespace == nil || *req.Namespace == g.Name.Namespace) && mayList(ctx, access.Group, g.Name) {
			resp.Groups = append(resp.Groups, &gantryv1.GroupTraffic{Group: wireGroup(g), Topics: of[g.Name], Clients: members[g.Name]})
		}
	}
	return resp, nil
}

func (o *observe) Clients(_ context.Context, req *gantryv1.ClientsRequest) (*gantryv1.ClientsResponse, error) {
	resp := &gantryv1.ClientsResponse{Time: timestamppb.Now()}
	for _, c := range o.broker.Connected() {
		if req.GetGroup() == "" || c.Group == groupOf(req) {
			resp.Clients = append(resp.Clients, wireConnected(&c))
		}
	}
	return resp, nil
}

// clientRoles numbers the broker's roles as the wire does.
var clientRoles = map[session.Role]gantryv1.ClientRole{
	session.Producer:           gantryv1.ClientRole_CLIENT_PRODUCER,
	session.PushConsumer:       gantryv1.ClientRole_CLIENT_PUSH_CONSUMER,
	session.SimpleConsumer:     gantryv1.ClientRole_CLIENT_SIMPLE_CONSUMER,
	session.PullConsumer:       gantryv1.ClientRole_CLIENT_PULL_CONSUMER,
	session.LitePushConsumer:   gantryv1.ClientRole_CLIENT_LITE_PUSH_CONSUMER,
	session.LiteSimpleConsumer: gantryv1.ClientRole_CLIENT_LITE_SIMPLE_CONSUMER,
}

func wireConnected(c *broker.ConnectedClient) *gantryv1.ConnectedClient {
	w := &gantryv1.ConnectedClient{
		Client: wireClient(&c.Client), Role: clientRoles[c.Role], Group: c.Group.Name, Namespace: c.Group.Namespace,
		InFlight: int64(c.InFlight), Connected: timestamppb.New(c.Connected), Streaming: c.Streaming,
	}
	for _, t := range c.Publishing {
		w.Publishing = append(w.Publishing, &gantryv1.ClientTopic{Name: t.Name, Namespace: t.Namespace})
	}
	for _, s := range c.Subscriptions {
		w.Subscriptions = append(w.Subscriptions, &gantryv1.ClientSubscription{
			Topic: s.Topic.Name, Namespace: s.Topic.Namespace, Filter: s.Filter, Sql: s.SQL,
			InFlight: int64(c.ByTopic[s.Topic]), Lag: c.Lag[s.Topic],
		})
	}
	if r := c.Refused; !r.Time.IsZero() {
		w.LastError = &gantryv1.ClientError{Time: timestamppb.New(r.Time), Method: r.Method, Code: r.Code, Message: r.Text}
	}
	return w
}

func wireClient(c *session.Client) *gantryv1.Client {
	return &gantryv1.Client{
		Id: c.ID, Language: c.Language, Version: c.Version, Host: c.Host, RemoteAddress: c.Remote, LastSeen: timestamppb.New(c.LastSeen),
	}
}
