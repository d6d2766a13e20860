package metrics

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/broker/topic"
	"github.com/gantry-mq/gantry/commitlog/record"
	"github.com/gantry-mq/gantry/internal/tally"
)

func topicStats(id int, name string, messages uint64) broker.TopicStats {
	return broker.TopicStats{
		TopicStatus: broker.TopicStatus{Topic: topic.Topic{ID: record.TopicID(id), Name: record.Resource{Name: name}}},
		MessagesIn:  messages,
	}
}

func TestCountsAreWhatRocketMQCallsThem(t *testing.T) {
	c := NewCollector(func() broker.Stats {
		orders := topicStats(1, "orders", 12)
		orders.Timing = 7
		return broker.Stats{
			Serves: true,
			Topics: []broker.TopicStats{orders},
			Groups: []broker.GroupStats{{
				Group: record.Resource{Name: "billing"}, Topic: record.Resource{Namespace: "eu", Name: "orders"},
				MessagesOut: 9, Lag: 5, Ready: 2, InFlight: 3,
			}},
		}
	})
	got := gather(t, c)
	for series, want := range map[string]float64{
		"rocketmq_messages_in_total topic=orders":                                    12,
		"rocketmq_timing_messages topic=orders":                                      7,
		"rocketmq_messages_out_total consumer_group=billing topic=eu%orders":         9,
		"rocketmq_consumer_lag_messages consumer_group=billing topic=eu%orders":      10,
		"rocketmq_consumer_ready_messages consumer_group=billing topic=eu%orders":    7,
		"rocketmq_consumer_inflight_messages consumer_group=billing topic=eu%orders": 3,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
}

// gather scrapes c once. A series is named "metric label=value ...".
func gather(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetName() + "=" + l.GetValue()
			}
			series[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetSummary().GetSampleSum()
		}
	}
	return series
}

func TestHistogramsAndAgesAreInTheUnitsOfTheirNames(t *testing.T) {
	var late tally.Histogram
	late.Add(3, 2)    // ms
	late.Add(3000, 1) // of a timer that was 3 s late
	calls := tally.NewCalls()
	calls.Add("/s/M", "/s/Stream")
	calls.Done("/s/M", 3*time.Second)
	calls.Done("/s/M", time.Second)
	calls.Refused("/s/M", 7)
	calls.Ended("/s/Stream")
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCallCollector(calls, func(code int32) string { return fmt.Sprint("code-", code) }), NewNodeCollector(func() Node {
		return Node{Term: 2, Last: 30, Committed: 20, Contact: time.Second}
	}), NewCollector(func() broker.Stats {
		return broker.Stats{Serves: true, Lateness: late.Read(), Groups: []broker.GroupStats{{
			Group: record.Resource{Name: "g"}, Topic: record.Resource{Name: "t"}, Paused: true, Unsettled: time.Now().Add(-time.Hour).UnixMilli(),
		}}}
	}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if h := m.GetHistogram(); h != nil {
				got[name+" count"], got[name+" sum"] = float64(h.GetSampleCount()), h.GetSampleSum()
				for _, b := range h.GetBucket() {
					got[fmt.Sprint(name, " ", b.GetUpperBound())] = float64(b.GetCumulativeCount())
				}
			}
		}
	}
	for series, want := range map[string]float64{
		"gantry_timer_lateness_seconds count": 3, "gantry_timer_lateness_seconds sum": 3.006,
		"gantry_timer_lateness_seconds 0.004": 2, "gantry_timer_lateness_seconds 4.096": 3,
		"gantry_grpc_seconds M s count": 2, "gantry_grpc_seconds M s sum": 4, "gantry_grpc_seconds M s 1.048576": 1,
		"gantry_grpc_calls_total OK M s": 1, "gantry_grpc_calls_total code-7 M s": 1, "gantry_grpc_calls_total OK Stream s": 1,
		"gantry_raft_last_index": 30, "gantry_raft_contact_seconds": 1, "gantry_raft_leader": 0, "gantry_group_paused g t": 1,
	} {
		if v, ok := got[series]; !ok || v != want {
			t.Errorf("%s is %v, want %v", series, v, want)
		}
	}
	if v := got["rocketmq_consumer_lag_latency g t"]; v < 3600e3 {
		t.Errorf("the oldest message is %v ms old", v)
	}
}

func TestClientsAreCountedByKindAndKindsAreBounded(t *testing.T) {
	s := broker.Stats{Serves: true, Connections: []broker.Connections{
		{Role: session.Producer, Language: "JAVA", Version: "5", Count: 3},
		{Role: session.Producer, Language: Other, Version: Other, Count: 4}, // it says
		{Role: session.PushConsumer, Group: record.Resource{Name: "g"}, Language: "GO", Version: "5", Count: 2},
		{Role: session.SimpleConsumer, Group: record.Resource{Name: "g"}, Language: "GO", Version: "5", Count: 1},
	}}
	collector := NewCollector(func() broker.Stats { return s })
	got := gather(t, collector)
	for series, want := range map[string]float64{
		"rocketmq_producer_connections language=JAVA protocol_type=grpc version=5":                                  3,
		"rocketmq_producer_connections language=~~other protocol_type=grpc version=~~other":                         4,
		"rocketmq_consumer_connections consume_mode=push consumer_group=g language=GO protocol_type=grpc version=5": 2,
		"rocketmq_consumer_connections consume_mode=pull consumer_group=g language=GO protocol_type=grpc version=5": 1,
	} {
		if got[series] != want {
			t.Errorf("%s is %v, want %v", series, got[series], want)
		}
	}
	for i := range maxAlike {
		s.Connections = append(s.Connections, broker.Connections{Role: session.Producer, Language: "X", Version: fmt.Sprint(i), Count: 1})
	}
	count, total := 0, 0.0
	for name, v := range gather(t, collector) {
		if strings.Contains(name, "_connections ") {
			count++
			total += v
		}
	}
	if count != maxAlike+2 || total != float64(10+maxAlike) {
		t.Errorf("%d series that add up to %v", count, total)
	}
}

func TestSeriesAreBoundedAndTheRestIsAddedUp(t *testing.T) {
	s := broker.Stats{Serves: true}
	for i := range maxTopics + 500 {
		s.Topics = append(s.Topics, topicStats(i+1, fmt.Sprint("t", i), 2))
	}
	for i := range maxGroups + 500 {
		s.Groups = append(s.Groups, broker.GroupStats{
			Group: record.Resource{Name: fmt.Sprint("g", i)}, Topic: record.Resource{Name: "t"}, MessagesOut: 3,
		})
	}
	got := gather(t, NewCollector(func() broker.Stats { return s }))
	for _, want := range []struct {
		name  string
		count int
		total float64
	}{
		{"rocketmq_messages_in_total ", maxTopics + 1, float64(len(s.Topics) * 2)},
		{"rocketmq_messages_out_total ", maxGroups + 1, float64(len(s.Groups) * 3)},
	} {
		count, total := 0, 0.0
		for name, v := range got {
			if strings.HasPrefix(name, want.name) {
				count++
				total += v
			}
		}
		if count != want.count || total != want.total {
			t.Errorf("%s: %d series that add up to %v, want %d and %v", want.name, count, total, want.count, want.total)
		}
	}
}

// Every way of writing a few letters and % as a namespace and a name is a series of its
// own, and the usual ones are labelled as RocketMQ labels them.
func TestLabelsTellNamespacesApart(t *testing.T) {
	s := broker.Stats{Serves: true}
	add := func(r record.Resource) {
		one := topicStats(len(s.Topics)+1, "", uint64(len(s.Topics)+1))
		one.Name = r
		s.Topics = append(s.Topics, one)
		s.Groups = append(s.Groups, broker.GroupStats{Group: r, Topic: r, MessagesOut: one.MessagesIn})
		s.Connections = append(s.Connections, broker.Connections{Role: session.PushConsumer, Group: r, Count: int(one.MessagesIn)})
	}
	for _, r := range []record.Resource{{Name: "orders"}, {Namespace: "a", Name: "orders"}, {Name: "a%orders"}, {Name: "%DLQ%g"}, {Namespace: "a", Name: "%DLQ%g"}} {
		add(r)
	}
	var spell func(text string)
	spell = func(text string) {
		for i := range text {
			add(record.Resource{Namespace: text[:i], Name: text[i:]})
		}
		for _, c := range "x%" {
			if len(text) < 5 {
				spell(text + string(c))
			}
		}
	}
	spell("")
	got := gather(t, NewCollector(func() broker.Stats { return s }))
	for i, want := range []string{"orders", "a%orders", "~a%orders", "%DLQ%g", "a%%DLQ%g"} {
		for _, series := range []string{"rocketmq_messages_in_total topic=" + want, "rocketmq_messages_out_total consumer_group=" + want + " topic=" + want,
			"rocketmq_consumer_connections consume_mode=push consumer_group=" + want + " language= protocol_type=grpc version="} {
			if got[series] != float64(i+1) {
				t.Errorf("%s is %v, want %d", series, got[series], i+1)
			}
		}
	}
	topics := 0
	for name := range got {
		if strings.HasPrefix(name, "rocketmq_messages_in_total ") {
			topics++
		}
	}
	if topics != len(s.Topics) {
		t.Errorf("%d series of %d topics", topics, len(s.Topics))
	}
}

func TestANodeThatFollowsDoesNotRepeatWhatTheLeaderTells(t *testing.T) {
	s := broker.Stats{Topics: []broker.TopicStats{topicStats(1, "t", 2)}}
	for name := range gather(t, NewCollector(func() broker.Stats { return s })) {
		if strings.HasPrefix(name, "rocketmq_messages_in") || name == "rocketmq_topic_number" {
			t.Errorf("it exports %s", name)
		}
	}
}
