// Package metrics names everything a broker exports to Prometheus. It is the
// only package that does, so this file is the list to review.
//
// Names that begin with rocketmq_ are RocketMQ 5's own, with its labels, used
// where ours means the same, so that boards made for it work. All others begin
// with gantry_.
//
// # Concurrency
//
// A [Collector] may be used concurrently. It starts no goroutine: numbers are
// taken from the broker's Stats when somebody asks for them.
package metrics

import (
	"cmp"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantry-mq/gantry/broker"
)

// A scrape has at most this many values of a label set, whatever clients
// create; what is beyond them is one value, named Other.
const (
	maxTopics = 1000 // the oldest ones
	maxGroups = 2000 // (group, topic) pairs, first in order of name
)

// Other stands for all topics or groups beyond the limit. No name can be equal
// to it: a tilde is not allowed in names.
const Other = "~other"

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	// Per topic.
	messagesIn = desc("rocketmq_messages_in_total", "Messages stored.", "topic")
	bodyBytes  = desc("gantry_body_bytes_in_total", "Bytes of the bodies of messages stored.", "topic")

	// Per group and topic. As in RocketMQ, lag = ready + in flight.
	messagesOut = desc("rocketmq_messages_out_total", "Messages handed out, every attempt counted.", "topic", "consumer_group")
	lag         = desc("rocketmq_consumer_lag_messages", "Messages not acknowledged.", "topic", "consumer_group")
	ready       = desc("rocketmq_consumer_ready_messages", "Messages not handed out, or handed out in vain and waiting for another attempt.", "topic", "consumer_group")
	inFlight    = desc("rocketmq_consumer_inflight_messages", "Messages leased to a consumer.", "topic", "consumer_group")

	// The broker.
	topics         = desc("rocketmq_topic_number", "Topics.")
	sends          = desc("gantry_sends_total", "Messages stored for producers.")
	duplicates     = desc("gantry_duplicates_total", "Messages sent again within their topic's deduplication window, and not stored.")
	deliveries     = desc("gantry_deliveries_total", "Messages handed out, every attempt counted.")
	acks           = desc("gantry_acks_total", "Messages acknowledged.")
	deadLetters    = desc("gantry_dead_letters_total", "Messages given up on.")
	halfMessages   = desc("gantry_half_messages", "Transactional messages that nobody has decided on.", "state")
	delayed        = desc("gantry_delayed_messages", "Messages that are not due yet.")
	waiting        = desc("gantry_waiting_receives", "Receives and pulls that wait for a message.")
	clients        = desc("gantry_clients", "Clients that are alive.")
	checkpoints    = desc("gantry_checkpoints_total", "Checkpoints written.")
	checkpointTime = desc("gantry_checkpoint_seconds", "Time the last checkpoint took to write.")

	// Sends that are under way, and those that were refused.
	sendsHeld    = desc("gantry_sends_in_flight", "Sends and batches that are under way.")
	sendBytes    = desc("gantry_sends_in_flight_bytes", "What they hold in memory, about.")
	sendLimit    = desc("gantry_sends_in_flight_limit_bytes", "The bound of that, beyond which sends are refused.")
	sendsRefused = desc("gantry_sends_refused_total", "Sends that were refused, by what there was not enough of.", "resource")

	// Storage.
	storageSize    = desc("rocketmq_storage_size", "Bytes on disk of the log and its indexes.", "storage_type", "storage_medium")
	dispatchBehind = desc("rocketmq_storage_dispatch_behind_bytes", "Bytes of committed log that are not applied.", "storage_type", "storage_medium")
	logSegments    = desc("gantry_log_segments", "Files of the log.")
	logFirst       = desc("gantry_log_first_position", "Position of the oldest frame.")
	logWritten     = desc("gantry_log_written_position", "Position up to which the log is written.")
	logCommitted   = desc("gantry_log_committed_position", "Position up to which the log is committed.")
	logBatches     = desc("gantry_log_batches_total", "Appends. Divided by groups: how many share a write.")
	logFrames      = desc("gantry_log_frames_total", "Frames written.")
	logGroups      = desc("gantry_log_groups_total", "Writes to the log, each of one or more frames.")
	logBytes       = desc("gantry_log_bytes_total", "Bytes written to the log.")
	logSync        = desc("gantry_log_sync_seconds", "Time of fdatasync.")
	logSyncMax     = desc("gantry_log_sync_seconds_max", "The longest fdatasync since the start.")
	logQueued      = desc("gantry_log_queued_bytes", "Bytes of appends that wait to be written.")
	logMapped      = desc("gantry_log_mapped_bytes", "Bytes of the log that are mapped.")
	logViews       = desc("gantry_log_views", "Slices of the log that are in use, by responses being sent.")
	logDiskFull    = desc("gantry_log_disk_full", "1 while appends are refused because the disk is full.")
	logFailed      = desc("gantry_log_failed", "1 when a write or sync failed and the log takes no more.")
	indexQueues    = desc("gantry_index_queues", "Queues.")
	indexArenas    = desc("gantry_index_arenas", "Files of the consume queue index.")
	indexMapped    = desc("gantry_index_mapped_arenas", "Files of the consume queue index that are mapped.")
	indexPages     = desc("gantry_index_pages", "Pages of the consume queue index.", "state")
)

// Collector exports a broker's Stats.
type Collector struct {
	stats func() broker.Stats
}

// NewCollector returns a collector that calls stats once for each scrape.
func NewCollector(stats func() broker.Stats) *Collector { return &Collector{stats} }

// Describe announces nothing, which makes the collector unchecked: the set of
// series depends on topics and groups.
func (c *Collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := c.stats()
	counter := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}

	for _, t := range foldTopics(s.Topics) {
		counter(messagesIn, float64(t.messages), t.topic)
		counter(bodyBytes, float64(t.bytes), t.topic)
	}
	for _, g := range foldGroups(s.Groups) {
		counter(messagesOut, float64(g.out), g.topic, g.group)
		gauge(lag, float64(g.fresh+g.retry+g.inFlight), g.topic, g.group)
		gauge(ready, float64(g.fresh+g.retry), g.topic, g.group)
		gauge(inFlight, float64(g.inFlight), g.topic, g.group)
	}

	gauge(topics, float64(len(s.Topics)))
	counter(sends, float64(s.Sends))
	counter(duplicates, float64(s.Duplicates))
	counter(deliveries, float64(s.Deliveries))
	counter(acks, float64(s.Acks))
	counter(deadLetters, float64(s.DeadLetters))
	gauge(halfMessages, float64(s.HalfOpen), "open")
	gauge(halfMessages, float64(s.HalfParked), "parked")
	gauge(delayed, float64(s.Delayed))
	gauge(waiting, float64(s.Waiting))
	gauge(clients, float64(s.Clients))
	counter(checkpoints, float64(s.Checkpoints))
	gauge(checkpointTime, s.CheckpointTime.Seconds())

	gauge(sendsHeld, float64(s.Admission.Sends))
	gauge(sendBytes, float64(s.Admission.Bytes))
	gauge(sendLimit, float64(s.Admission.Limit))
	for r, n := range s.Admission.Refused {
		counter(sendsRefused, float64(n), broker.Resource(r).String())
	}

	l, x := &s.Log, &s.Index
	gauge(storageSize, float64(l.DiskBytes+int64(x.Arenas)*x.ArenaSize), "local", "disk")
	// Applied was read before Committed or after it: never report less than 0.
	gauge(dispatchBehind, max(0, float64(l.Committed)-float64(s.Applied)), "local", "disk")
	gauge(logSegments, float64(l.Segments))
	gauge(logFirst, float64(l.First))
	gauge(logWritten, float64(l.Written))
	gauge(logCommitted, float64(l.Committed))
	counter(logBatches, float64(l.Batches))
	counter(logFrames, float64(l.Frames))
	counter(logGroups, float64(l.Groups))
	counter(logBytes, float64(l.Bytes))
	out <- prometheus.MustNewConstSummary(logSync, uint64(l.Syncs), l.SyncTime.Seconds(), nil)
	gauge(logSyncMax, l.SyncMax.Seconds())
	gauge(logQueued, float64(l.QueueBytes))
	gauge(logMapped, float64(l.MappedBytes))
	gauge(logViews, float64(l.Views))
	gauge(logDiskFull, bit(l.DiskFull))
	gauge(logFailed, bit(l.Err != nil))
	gauge(indexQueues, float64(x.Queues))
	gauge(indexArenas, float64(x.Arenas))
	gauge(indexMapped, float64(x.Mapped))
	gauge(indexPages, float64(x.LivePages), "live")
	gauge(indexPages, float64(x.FreePages), "free")
	gauge(indexPages, float64(x.ParkedPages), "parked")
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

type topicSeries struct {
	topic           string
	messages, bytes uint64
}

// foldTopics keeps the oldest topics apart, so that which they are does not
// change as more are made, and adds up the rest.
func foldTopics(all []broker.TopicStats) []topicSeries {
	all = slices.SortedFunc(slices.Values(all), func(a, b broker.TopicStats) int { return cmp.Compare(a.ID, b.ID) })
	var series []topicSeries
	for i, t := range all {
		one := topicSeries{t.Name.String(), t.MessagesIn, t.BytesIn}
		switch {
		case i < maxTopics:
			series = append(series, one)
		case i == maxTopics:
			one.topic = Other
			series = append(series, one)
		default:
			rest := &series[maxTopics]
			rest.messages += one.messages
			rest.bytes += one.bytes
		}
	}
	return series
}

type groupSeries struct {
	group, topic           string
	out                    uint64
	fresh, retry, inFlight int64
}

func foldGroups(all []broker.GroupStats) []groupSeries {
	series := make([]groupSeries, 0, len(all))
	for _, g := range all {
		series = append(series, groupSeries{g.Group.String(), g.Topic.String(), g.MessagesOut, g.Lag, int64(g.Ready), int64(g.InFlight)})
	}
	slices.SortFunc(series, func(a, b groupSeries) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.topic, b.topic))
	})
	if len(series) <= maxGroups {
		return series
	}
	rest := groupSeries{group: Other, topic: Other}
	for _, g := range series[maxGroups:] {
		rest.out += g.out
		rest.fresh += g.fresh
		rest.retry += g.retry
		rest.inFlight += g.inFlight
	}
	return append(series[:maxGroups:maxGroups], rest)
}
