package api

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/internal/logging"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

// admin is apache.rocketmq.v2.Admin, the contract's own way to manage a broker, for
// consoles that speak it. What it cannot say is in gantry.v1.
//
// The reference serves none of it, so what a call means is read from the contract's
// comments and from the remoting commands of the same name (wire-contract 9). Failures
// are in the response's status, as those of MessagingService are; callers need no
// client id. There is one deployment here, so deployment_name is not looked at.
type admin struct {
	v2.UnsafeAdminServer // an RPC without a method must not compile

	broker    *broker.Broker
	log       *slog.Logger
	messaging *messaging
	observe   *observe
	levels    *logging.Levels
}

// ChangeLogLevel sets every component to a level. There is none below debug.
func (a *admin) ChangeLogLevel(_ context.Context, req *v2.ChangeLogLevelRequest) (*v2.ChangeLogLevelResponse, error) {
	level, ok := map[v2.ChangeLogLevelRequest_Level]slog.Level{
		v2.ChangeLogLevelRequest_TRACE: slog.LevelDebug,
		v2.ChangeLogLevelRequest_DEBUG: slog.LevelDebug,
		v2.ChangeLogLevelRequest_INFO:  slog.LevelInfo,
		v2.ChangeLogLevelRequest_WARN:  slog.LevelWarn,
		v2.ChangeLogLevelRequest_ERROR: slog.LevelError,
	}[req.GetLevel()]
	switch {
	case !ok:
		return &v2.ChangeLogLevelResponse{Remark: "this level is unknown: nothing was changed"}, nil
	case a.levels == nil:
		return &v2.ChangeLogLevelResponse{Remark: "this server's log has no levels that can be changed"}, nil
	}
	a.levels.Set(logging.All, level) // all is always there
	return &v2.ChangeLogLevelResponse{Remark: "the log level is " + level.String()}, nil
}

// topicTypes numbers the types of topics as the wire does. A mixed topic has none: it
// takes several.
var topicTypes = map[topic.Type]v2.MessageType{
	topic.Normal: v2.MessageType_NORMAL, topic.FIFO: v2.MessageType_FIFO, topic.Delay: v2.MessageType_DELAY,
	topic.Transaction: v2.MessageType_TRANSACTION, topic.Lite: v2.MessageType_LITE, topic.Priority: v2.MessageType_PRIORITY,
}

func (a *admin) DescribeTopicStatus(_ context.Context, req *v2.DescribeTopicStatusRequest) (*v2.DescribeTopicStatusResponse, error) {
	t, err := a.broker.Route(resource(req.GetTopic()))
	if err != nil {
		return &v2.DescribeTopicStatusResponse{Status: statusFor(a.log, err)}, nil
	}
	tags := map[string]string{"type": t.Type.String(), "queues": strconv.Itoa(int(t.Queues))}
	for name, d := range map[string]time.Duration{"retention-age": t.RetainAge, "dedup-window": t.DedupWindow, "lite-ttl": t.LiteTTL} {
		if d > 0 {
			tags[name] = d.String()
		}
	}
	if t.RetainSize > 0 {
		tags["retention-size"] = strconv.FormatInt(t.RetainSize, 10)
	}
	return &v2.DescribeTopicStatusResponse{
		Status: statusOK, TopicMessageType: topicTypes[t.Type], CreateTimestamp: timestamppb.New(time.UnixMilli(t.Created)), Tags: tags,
	}, nil
}

// GetTopicRoute answers in the JSON of the remoting protocol, for consoles that know
// it. A broker's address is what a route would tell this caller.
func (a *admin) GetTopicRoute(ctx context.Context, req *v2.GetTopicRouteRequest) (*v2.GetTopicRouteResponse, error) {
	t, brokers, err := a.messaging.holders(ctx, nil, resource(req.GetTopic()))
	if err != nil {
		return &v2.GetTopicRouteResponse{Status: statusFor(a.log, err)}, nil
	}
	const readAndWrite = 6
	var queues, at []any
	for _, b := range brokers {
		first := b.GetEndpoints().GetAddresses()[0]
		queues = append(queues, map[string]any{
			"brokerName": b.GetName(), "readQueueNums": t.Queues, "writeQueueNums": t.Queues, "perm": readAndWrite, "topicSysFlag": 0,
		})
		at = append(at, map[string]any{
			"cluster": b.GetName(), "brokerName": b.GetName(),
			"brokerAddrs": map[string]string{strconv.Itoa(int(b.GetId())): net.JoinHostPort(first.GetHost(), strconv.Itoa(int(first.GetPort())))},
		})
	}
	text, err := json.Marshal(map[string]any{"queueDatas": queues, "brokerDatas": at, "filterServerTable": map[string]any{}})
	if err != nil {
		return &v2.GetTopicRouteResponse{Status: statusFor(a.log, err)}, nil
	}
	return &v2.GetTopicRouteResponse{Status: statusOK, TopicRouteData: string(text)}, nil
}

// GetProxyRuntimeStats is about this process, the rates over the last two samples of
// the history. Connections are those with a command stream.
func (a *admin) GetProxyRuntimeStats(context.Context, *v2.GetProxyRuntimeStatsRequest) (*v2.GetProxyRuntimeStatsResponse, error) {
	resp := &v2.GetProxyRuntimeStatsResponse{Status: statusOK, ProxyName: a.broker.Name(), Version: a.observe.management.options.Version}
	for _, c := range a.broker.Sessions().List() {
		if c.Streaming {
			resp.Connections++
		}
		if c.Role == session.Producer {
			resp.Producers++
		} else {
			resp.Consumers++
		}
	}
	if s := a.observe.history.since(time.Time{}); len(s) > 1 {
		before, last := s[len(s)-2], s[len(s)-1]
		took := last.Time.AsTime().Sub(before.Time.AsTime()).Seconds()
		resp.InTps = float64(last.Traffic.MessagesIn-before.Traffic.MessagesIn) / took
		resp.OutTps = float64(last.Traffic.MessagesOut-before.Traffic.MessagesOut) / took
	}
	return resp, nil
}

func (a *admin) PrintThreadStackTrace(ctx context.Context, req *v2.PrintThreadStackTraceRequest) (*v2.PrintThreadStackTraceResponse, error) {
	answer, err := a.messaging.ask(ctx, req.GetClientId(), resource(req.GetGroup()), nil,
		func(nonce string) session.Command { return session.PrintStack{Nonce: nonce} })
	if err != nil {
		return &v2.PrintThreadStackTraceResponse{Status: statusFor(a.log, err)}, nil
	}
	return &v2.PrintThreadStackTraceResponse{Status: answered(answer), ThreadStackTrace: answer.GetThreadStackTrace().ThreadStackTrace}, nil
}

// answered is the status that a client gave with its answer: OK when it gave none.
func answered(cmd *v2.TelemetryCommand) *v2.Status {
	if cmd.GetStatus() == nil {
		return statusOK
	}
	return cmd.GetStatus()
}
