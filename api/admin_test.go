package api

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/gantry-mq/gantry/broker/group"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/logging"
	v2 "github.com/gantry-mq/gantry/proto/rocketmqv2"
)

func res(name string) *v2.Resource { return &v2.Resource{Name: name} }

// told fails unless a response has the code.
func told(t *testing.T, resp interface{ GetStatus() *v2.Status }, err error, code v2.Code) {
	t.Helper()
	if err != nil || resp.GetStatus().GetCode() != code {
		t.Fatalf("answer %v, %v; want %v", resp.GetStatus(), err, code)
	}
}

// adminOf is a client without headers, as a console may be.
func adminOf(f *fixture) v2.AdminClient { return v2.NewAdminClient(f.dial()) }

func TestAdminDescribesATopicAndItsRoute(t *testing.T) {
	f := start(t, Options{Version: "v1"})
	a, ctx := adminOf(f), t.Context()
	f.topic("f", topic.FIFO, 3)
	f.topic("m", topic.Mixed, 1)
	d, err := a.DescribeTopicStatus(ctx, &v2.DescribeTopicStatusRequest{Topic: res("f")})
	told(t, d, err, v2.Code_OK)
	if d.TopicMessageType != v2.MessageType_FIFO || d.Tags["queues"] != "3" || time.Since(d.CreateTimestamp.AsTime()) > time.Hour {
		t.Errorf("described %v", d)
	}
	d, err = a.DescribeTopicStatus(ctx, &v2.DescribeTopicStatusRequest{Topic: res("m")})
	told(t, d, err, v2.Code_OK)
	if d.TopicMessageType != v2.MessageType_MESSAGE_TYPE_UNSPECIFIED || d.Tags["type"] != "mixed" {
		t.Errorf("described %v", d)
	}
	d, err = a.DescribeTopicStatus(ctx, &v2.DescribeTopicStatusRequest{Topic: res("absent")})
	told(t, d, err, v2.Code_TOPIC_NOT_FOUND)

	r, err := a.GetTopicRoute(ctx, &v2.GetTopicRouteRequest{Topic: res("f")})
	told(t, r, err, v2.Code_OK)
	var route struct {
		QueueDatas  []struct{ ReadQueueNums, Perm int }
		BrokerDatas []struct{ BrokerAddrs map[string]string }
	}
	if err := json.Unmarshal([]byte(r.TopicRouteData), &route); err != nil {
		t.Fatal(err)
	}
	if len(route.QueueDatas) != 1 || route.QueueDatas[0].ReadQueueNums != 3 || route.QueueDatas[0].Perm != 6 || route.BrokerDatas[0].BrokerAddrs["0"] != f.addr {
		t.Errorf("route %s", r.TopicRouteData)
	}
	r, err = a.GetTopicRoute(ctx, &v2.GetTopicRouteRequest{Topic: res("absent")})
	told(t, r, err, v2.Code_TOPIC_NOT_FOUND)
}

func TestAdminSeesEachClientsSubscriptions(t *testing.T) {
	f := start(t, Options{Version: "v1"})
	a, ctx := adminOf(f), t.Context()
	f.topic("t", topic.Normal, 1)
	settle(t, f.telemetry(as("c1")), consumerSettings("g", "a"))
	settle(t, f.telemetry(as("c2")), consumerSettings("g", "a"))
	settle(t, f.telemetry(as("p1")), producerSettings("t"))
	f.send("t", "m1", "x")
	f.receive(as("gone"), receiving("t", "offline"))

	list := func(req *v2.ListSubscriptionRequest) (lines []string) {
		t.Helper()
		resp, err := a.ListSubscription(ctx, req)
		told(t, resp, err, v2.Code_OK)
		for _, s := range resp.SubscriptionInfo {
			line := s.Group.Name + " " + s.Topic.Name + " " + s.GetExpression().GetExpression()
			if s.Online {
				line += " online"
			}
			if !s.SubscriptionConsistency {
				line += " inconsistent"
			}
			lines = append(lines, line)
		}
		return lines
	}
	check := func(what string, got, want []string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	check("of the topic", list(&v2.ListSubscriptionRequest{Topic: res("t")}), []string{"g t a online", "offline t "})
	check("of the group", list(&v2.ListSubscriptionRequest{Group: res("g")}), []string{"g t a online"})
	settle(t, f.telemetry(as("c3")), consumerSettings("g", "b"))
	check("after another filter", list(&v2.ListSubscriptionRequest{Group: res("g")}), []string{"g t a online inconsistent", "g t b online inconsistent"})
	none, err := a.ListSubscription(ctx, &v2.ListSubscriptionRequest{})
	told(t, none, err, v2.Code_BAD_REQUEST)

	each, err := a.DescribeSubscription(ctx, &v2.DescribeSubscriptionRequest{Group: res("g")})
	told(t, each, err, v2.Code_OK)
	if len(each.ClientSubscriptionInfo) != 3 || each.ClientSubscriptionInfo[2].ClientInfo.ClientId != "c3" ||
		each.ClientSubscriptionInfo[2].SubscriptionInfo.Expression.Expression != "b" {
		t.Errorf("by client: %v", each.ClientSubscriptionInfo)
	}
	conns, err := a.ListConsumerConnection(ctx, &v2.ListConsumerConnectionRequest{Group: res("g"), Topic: res("t")})
	told(t, conns, err, v2.Code_OK)
	if len(conns.ClientInfo) != 3 || conns.ClientInfo[0].EgressIp != "127.0.0.1" || conns.ClientInfo[0].Version != "5.1.4" ||
		conns.ClientInfo[0].Hostname != "host" || conns.ClientInfo[0].MessageModel != v2.MessageModel_CLUSTERING {
		t.Errorf("connections: %v", conns.ClientInfo)
	}
	conns, err = a.ListConsumerConnection(ctx, &v2.ListConsumerConnectionRequest{Group: res("absent")})
	told(t, conns, err, v2.Code_CONSUMER_GROUP_NOT_FOUND)
	info, err := a.GetConsumerRunningInfo(ctx, &v2.GetConsumerRunningInfoRequest{Group: res("g"), ClientId: "c1"})
	told(t, info, err, v2.Code_OK)
	if info.ConsumerRunningInfo.Subscriptions["t"].GetExpression() != "a" || info.ConsumerRunningInfo.Properties["PROP_CLIENT_VERSION"] != "5.1.4" {
		t.Errorf("running info: %v", info)
	}
	info, err = a.GetConsumerRunningInfo(ctx, &v2.GetConsumerRunningInfoRequest{Group: res("g"), ClientId: "p1"})
	told(t, info, err, v2.Code_NOT_FOUND)
	stats, err := a.GetProxyRuntimeStats(ctx, &v2.GetProxyRuntimeStatsRequest{})
	told(t, stats, err, v2.Code_OK)
	if stats.Producers != 1 || stats.Consumers != 3 || stats.Connections != 4 || stats.Version != "v1" {
		t.Errorf("stats: %v", stats)
	}
	gone, err := a.DeleteSubscription(ctx, &v2.DeleteSubscriptionRequest{Topic: res("t"), Group: res("offline")})
	told(t, gone, err, v2.Code_NOT_IMPLEMENTED)
}

func TestAdminMeasuresAGroupAndMovesIt(t *testing.T) {
	f := start(t, Options{})
	a, ctx := adminOf(f), t.Context()
	f.topic("t", topic.Normal, 1)
	f.topic("unused", topic.Normal, 1)
	began := time.Now()
	for _, id := range []string{"m1", "m2", "m3"} {
		f.send("t", id, "x")
	}
	req := receiving("t", "g")
	req.BatchSize = 1
	f.receive(as("c"), req)
	accumulated := func(topics ...*v2.Resource) *v2.DescribeGroupAccumulationResponse {
		t.Helper()
		resp, err := a.DescribeGroupAccumulation(ctx, &v2.DescribeGroupAccumulationRequest{Group: res("g"), Topics: topics})
		told(t, resp, err, v2.Code_OK)
		return resp
	}
	got := accumulated()
	if s := got.Accumulation; s.InflightMessages != 1 || s.ReadyMessages != 2 || s.Accumulation != 3 || s.DeliverDelayTime.AsDuration() < 0 || s.LastConsumeTimestamp < began.UnixMilli() {
		t.Errorf("of the group: %v", s)
	}
	if s := got.TopicAccumulation["t"]; s.GetAccumulation() != 3 {
		t.Errorf("of the topic: %v", s)
	}
	if s := accumulated(res("unused")); s.Accumulation.Accumulation != 0 || s.TopicAccumulation["unused"] == nil {
		t.Errorf("of a topic that is not consumed: %v", s)
	}
	absent, err := a.DescribeGroupAccumulation(ctx, &v2.DescribeGroupAccumulationRequest{Group: res("absent")})
	told(t, absent, err, v2.Code_CONSUMER_GROUP_NOT_FOUND)

	span, err := a.QueryTimeSpan(ctx, &v2.QueryTimeSpanRequest{Group: res("g")})
	told(t, span, err, v2.Code_OK)
	if len(span.QueueTimeSpanList) != 1 {
		t.Fatalf("spans: %v", span)
	}
	if q := span.QueueTimeSpanList[0]; q.MinTimestamp < began.UnixMilli() || q.MaxTimestamp < q.MinTimestamp ||
		q.ConsumeTimestamp < q.MinTimestamp || q.ConsumeTimestamp > q.MaxTimestamp || q.MessageQueue.Topic.Name != "t" {
		t.Errorf("span: %v", q)
	}

	reset, err := a.ResetGroupOffset(ctx, &v2.ResetGroupOffsetRequest{Group: res("g"), Topic: res("t"), ResetTimestamp: timestamppb.New(time.Now().Add(time.Hour))})
	told(t, reset, err, v2.Code_OK)
	if s := accumulated().Accumulation; s.Accumulation != 0 {
		t.Errorf("after a reset to the end: %v", s)
	}
	reset, err = a.ResetGroupOffset(ctx, &v2.ResetGroupOffsetRequest{Group: res("g"), Topic: res("t"), ResetTimestamp: timestamppb.New(began.Add(-time.Minute))})
	told(t, reset, err, v2.Code_OK)
	if s := accumulated().Accumulation; s.ReadyMessages != 3 || s.InflightMessages != 0 {
		t.Errorf("after a reset to the beginning: %v", s)
	}
	reset, err = a.ResetGroupOffset(ctx, &v2.ResetGroupOffsetRequest{Group: res("g"), Topic: res("t")})
	told(t, reset, err, v2.Code_BAD_REQUEST)
}

func TestAdminFindsWholeMessages(t *testing.T) {
	f := start(t, Options{})
	a, ctx := adminOf(f), t.Context()
	f.topic("t", topic.Normal, 2)
	f.topic("l", topic.Lite, 1)
	began := time.Now()
	sent := map[string]string{}
	for _, tag := range []string{"a", "b", "a", "b", "a"} {
		resp, err := a.AdminSendMessage(ctx, &v2.AdminSendMessageRequest{
			Topic: res("t"), Tag: &tag, Key: ptr("order-" + tag), Body: []byte("body " + tag), UserProperties: map[string]string{"k": "v"},
		})
		told(t, resp, err, v2.Code_OK)
		sent[resp.MessageId] = tag
	}
	if len(sent) != 5 {
		t.Fatalf("ids: %v", sent)
	}
	find := func(req *v2.ListMessageRequest) ([]*v2.Message, string) {
		t.Helper()
		if req.Topic == nil {
			req.Topic = res("t")
		}
		if req.MaxMessageNums == 0 {
			req.MaxMessageNums = 10
		}
		resp, err := a.QueryMessage(ctx, req)
		told(t, resp, err, v2.Code_OK)
		return resp.Messages, resp.ScrollId
	}
	for id, tag := range sent {
		got, scroll := find(&v2.ListMessageRequest{SearchKey: &v2.ListMessageRequest_MessageId{MessageId: id}})
		if len(got) != 1 || scroll != "" {
			t.Fatalf("by id %s: %v, %q", id, got, scroll)
		}
		m := got[0]
		if string(m.Body) != "body "+tag || m.UserProperties["k"] != "v" || m.SystemProperties.MessageId != id ||
			m.SystemProperties.GetTag() != tag || m.SystemProperties.GetReceiptHandle() != "" || m.SystemProperties.BodyDigest.GetChecksum() == "" {
			t.Errorf("found %v", m)
		}
	}
	if got, _ := find(&v2.ListMessageRequest{SearchKey: &v2.ListMessageRequest_MessageKey{MessageKey: "order-b"}}); len(got) != 2 {
		t.Errorf("by key: %v", got)
	}
	if got, _ := find(&v2.ListMessageRequest{SearchKey: &v2.ListMessageRequest_Subscription{Subscription: "b || c"}}); !slices.Equal(bodies(got), []string{"body b", "body b"}) {
		t.Errorf("by tag: %v", bodies(got))
	}
	within := &v2.ListMessageRequest{BeginTimestamp: timestamppb.New(began), EndTimestamp: timestamppb.Now()}
	if got, _ := find(within); len(got) != 5 {
		t.Errorf("in the time range: %v", bodies(got))
	}
	if got, _ := find(&v2.ListMessageRequest{EndTimestamp: timestamppb.New(began.Add(-time.Minute))}); len(got) != 0 {
		t.Errorf("before: %v", bodies(got))
	}
	queued := 0
	for q := range int32(2) {
		got, _ := find(&v2.ListMessageRequest{QueueId: &q})
		for _, m := range got {
			if m.SystemProperties.QueueId != q {
				t.Errorf("queue %d: %v", q, m)
			}
		}
		queued += len(got)
	}
	if queued != 5 {
		t.Errorf("%d messages in the queues", queued)
	}
	var scrolled []string
	for scroll, first := "", true; first || scroll != ""; first = false {
		var got []*v2.Message
		req := &v2.ListMessageRequest{MaxMessageNums: 2}
		if scroll != "" {
			req.ScrollId = &scroll
		}
		got, scroll = find(req)
		scrolled = append(scrolled, bodies(got)...)
	}
	var paged []string
	for page := range int32(3) {
		got, _ := find(&v2.ListMessageRequest{PageNum: ptr(page + 1), PageSize: ptr[int32](2)})
		paged = append(paged, bodies(got)...)
	}
	// In the order of their store times, which several may share.
	if each := slices.Sorted(slices.Values(scrolled)); !slices.Equal(scrolled, paged) || !slices.Equal(each, []string{"body a", "body a", "body a", "body b", "body b"}) {
		t.Errorf("scrolled %q, paged %q", scrolled, paged)
	}
	for _, name := range []string{"l1", "l2", "l1"} {
		resp, err := a.AdminSendMessage(ctx, &v2.AdminSendMessageRequest{
			Topic: res("l"), Body: []byte(name), SystemProperties: &v2.SystemProperties{LiteTopic: &name, MessageId: "id of " + name},
		})
		told(t, resp, err, v2.Code_OK)
		if resp.MessageId != "id of "+name {
			t.Errorf("its id is %q", resp.MessageId)
		}
	}
	if got, _ := find(&v2.ListMessageRequest{Topic: res("l"), SearchKey: &v2.ListMessageRequest_LiteTopic{LiteTopic: "l1"}}); !slices.Equal(bodies(got), []string{"l1", "l1"}) {
		t.Errorf("of the lite topic: %v", bodies(got))
	}
	if got, _ := find(&v2.ListMessageRequest{Topic: res("l"), SearchKey: &v2.ListMessageRequest_LiteTopic{LiteTopic: "l3"}}); len(got) != 0 {
		t.Errorf("of no lite topic: %v", bodies(got))
	}
	for _, bad := range []*v2.ListMessageRequest{
		{}, {MaxMessageNums: 5, PageNum: ptr[int32](0)}, {MaxMessageNums: 5, BrokerName: ptr("other")},
		{MaxMessageNums: 5, SearchKey: &v2.ListMessageRequest_Subscription{Subscription: "||"}},
	} {
		bad.Topic = res("t")
		if resp, err := a.QueryMessage(ctx, bad); err != nil || resp.GetStatus().GetCode() == v2.Code_OK {
			t.Errorf("%v: %v, %v", bad, resp, err)
		}
	}
	half, err := a.AdminSendMessage(ctx, &v2.AdminSendMessageRequest{
		Topic: res("t"), Body: []byte("x"), SystemProperties: &v2.SystemProperties{MessageType: v2.MessageType_TRANSACTION},
	})
	told(t, half, err, v2.Code_BAD_REQUEST)
}

// What one answer holds stays below what clients take, and the next goes on behind it.
func TestAdminSplitsLargeMessagesOverAnswers(t *testing.T) {
	f := start(t, Options{})
	a := adminOf(f)
	f.topic("t", topic.Normal, 1)
	for _, id := range []string{"m1", "m2", "m3"} {
		f.send("t", id, strings.Repeat("x", 2<<20))
	}
	var ids []string
	answers := 0
	for scroll := ""; answers == 0 || scroll != ""; answers++ {
		resp, err := a.QueryMessage(t.Context(), &v2.ListMessageRequest{Topic: res("t"), MaxMessageNums: 10, ScrollId: &scroll})
		told(t, resp, err, v2.Code_OK)
		for _, m := range resp.Messages {
			ids = append(ids, m.SystemProperties.MessageId)
		}
		scroll = resp.ScrollId
	}
	if !slices.Equal(ids, []string{"m1", "m2", "m3"}) || answers != 3 {
		t.Errorf("%v in %d answers", ids, answers)
	}
}

func TestAdminAsksAClientThroughItsCommandStream(t *testing.T) {
	f := start(t, Options{})
	a, ctx := adminOf(f), t.Context()
	f.topic("t", topic.Normal, 1)
	f.group(group.Group{Name: record.Resource{Name: "g"}})
	f.send("t", "m1", "the body")
	stream := f.telemetry(as("c1"))
	settle(t, stream, consumerSettings("g", "*"))
	other := f.telemetry(as("c2"))
	settle(t, other, consumerSettings("g", "*"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			cmd, err := stream.Recv()
			if err != nil {
				return
			}
			switch c := cmd.Command.(type) {
			case *v2.TelemetryCommand_PrintThreadStackTraceCommand:
				nonce := c.PrintThreadStackTraceCommand.Nonce
				// Another client's answer is not taken for this one's.
				other.Send(&v2.TelemetryCommand{Command: &v2.TelemetryCommand_ThreadStackTrace{
					ThreadStackTrace: &v2.ThreadStackTrace{Nonce: nonce, ThreadStackTrace: ptr("forged")},
				}})
				stream.Send(&v2.TelemetryCommand{Status: statusOK, Command: &v2.TelemetryCommand_ThreadStackTrace{
					ThreadStackTrace: &v2.ThreadStackTrace{Nonce: nonce, ThreadStackTrace: ptr("main()")},
				}})
			case *v2.TelemetryCommand_VerifyMessageCommand:
				code := v2.Code_FAILED_TO_CONSUME_MESSAGE
				if string(c.VerifyMessageCommand.Message.Body) == "the body" {
					code = v2.Code_OK
				}
				stream.Send(&v2.TelemetryCommand{Status: &v2.Status{Code: code}, Command: &v2.TelemetryCommand_VerifyMessageResult{
					VerifyMessageResult: &v2.VerifyMessageResult{Nonce: c.VerifyMessageCommand.Nonce},
				}})
			}
		}
	}()
	trace, err := a.PrintThreadStackTrace(ctx, &v2.PrintThreadStackTraceRequest{ClientId: "c1", Group: res("g")})
	told(t, trace, err, v2.Code_OK)
	if trace.GetThreadStackTrace() != "main()" {
		t.Errorf("trace %q", trace.GetThreadStackTrace())
	}
	verify := func(client, topic, id string, code v2.Code) {
		t.Helper()
		resp, err := a.VerifyMessage(ctx, &v2.VerifyMessageRequest{ClientId: client, Group: res("g"), Topic: res(topic), MessageId: id})
		told(t, resp, err, code)
	}
	verify("c1", "t", "m1", v2.Code_OK)
	verify("c1", "t", "absent", v2.Code_MESSAGE_NOT_FOUND)
	verify("c1", "absent", "m1", v2.Code_TOPIC_NOT_FOUND)
	verify("absent", "t", "m1", v2.Code_NOT_FOUND)
	trace, err = a.PrintThreadStackTrace(ctx, &v2.PrintThreadStackTraceRequest{ClientId: "c1", Group: res("another")})
	told(t, trace, err, v2.Code_NOT_FOUND)

	// c2 does not answer, and the caller is not patient.
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	// Whose clock ends the call first, the caller's or the server's, is chance: an error or a status.
	trace, err = a.PrintThreadStackTrace(short, &v2.PrintThreadStackTraceRequest{ClientId: "c2"})
	if err == nil && trace.GetStatus().GetCode() != v2.Code_PROXY_TIMEOUT {
		t.Errorf("a client that does not answer did: %v", trace.GetStatus())
	}
	stream.CloseSend()
	<-done
	verify("c1", "t", "m1", v2.Code_NOT_FOUND)
}

func TestAdminChangesTheLogLevel(t *testing.T) {
	var out bytes.Buffer
	levels := logging.New(slog.LevelInfo)
	f := start(t, Options{Levels: levels, Logger: slog.New(levels.Handler(slog.NewTextHandler(&out, nil)))})
	change := func(a v2.AdminClient, level v2.ChangeLogLevelRequest_Level) string {
		t.Helper()
		resp, err := a.ChangeLogLevel(t.Context(), &v2.ChangeLogLevelRequest{Level: level})
		if err != nil {
			t.Fatal(err)
		}
		return resp.Remark
	}
	if remark := change(adminOf(f), v2.ChangeLogLevelRequest_ERROR); levels.List()[0].Level != slog.LevelError || !strings.Contains(remark, "ERROR") {
		t.Errorf("%q, levels %v", remark, levels.List())
	}
	change(adminOf(f), v2.ChangeLogLevelRequest_TRACE)
	if levels.List()[0].Level != slog.LevelDebug {
		t.Errorf("levels %v", levels.List())
	}
	if remark := change(adminOf(f), 99); levels.List()[0].Level != slog.LevelDebug || !strings.Contains(remark, "unknown") {
		t.Errorf("%q, levels %v", remark, levels.List())
	}
	if remark := change(adminOf(start(t, Options{})), v2.ChangeLogLevelRequest_ERROR); !strings.Contains(remark, "no levels") {
		t.Errorf("%q", remark)
	}
}
