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
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/broker/quota"
	"github.com/gantry-mq/gantry/broker/session"
	"github.com/gantry-mq/gantry/internal/tally"
)

// A scrape has at most this many values of a label set, whatever clients
// create; what is beyond them is one value, named Other.
const (
	maxTopics = 1000 // the oldest ones
	maxGroups = 2000 // (group, topic) pairs, first in order of name
	maxAlike  = 500  // kinds of clients: what they say of themselves is theirs to choose
)

// Other stands for all topics or groups beyond the limit. No name can be equal
// to it: a tilde is not allowed in names.
const Other = "~other"

// claimed is what a client says of itself: nothing of that is equal to Other either.
func claimed(text string) string {
	if strings.HasPrefix(text, "~") {
		return "~" + text
	}
	return text
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	// Per topic.
	messagesIn = desc("rocketmq_messages_in_total", "Messages stored.", "topic")
	committed  = desc("rocketmq_commit_messages_total", "Transactions that were committed.", "topic")
	rolledBack = desc("rocketmq_rollback_messages_total", "Transactions that were rolled back.", "topic")
	half       = desc("rocketmq_half_messages", "Transactional messages that nobody has decided on.", "topic")
	timersIn   = desc("rocketmq_timer_enqueue_total", "Delayed messages stored.", "topic")
	timersOut  = desc("rocketmq_timer_dequeue_total", "Delayed messages whose time came.", "topic")
	timing     = desc("rocketmq_timing_messages", "Delayed messages that are not due yet.", "topic")
	bodyBytes  = desc("gantry_body_bytes_in_total", "Bytes of the bodies of messages stored.", "topic")

	// Per group and topic. As in RocketMQ, lag = ready + in flight.
	messagesOut = desc("rocketmq_messages_out_total", "Messages handed out, every attempt counted.", "topic", "consumer_group")
	lag         = desc("rocketmq_consumer_lag_messages", "Messages not acknowledged.", "topic", "consumer_group")
	ready       = desc("rocketmq_consumer_ready_messages", "Messages not handed out, or handed out in vain and waiting for another attempt.", "topic", "consumer_group")
	sentToDLQ   = desc("rocketmq_send_to_dlq_messages_total", "Messages given up on.", "topic", "consumer_group")
	queueing    = desc("rocketmq_consumer_queueing_latency", "Milliseconds for which the oldest message that was never handed out has been there.", "topic", "consumer_group")
	lagLatency  = desc("rocketmq_consumer_lag_latency", "Milliseconds for which the oldest message that is not acknowledged has been there.", "topic", "consumer_group")
	paused      = desc("gantry_group_paused", "1 for a group that is paused.", "topic", "consumer_group")
	inFlight    = desc("rocketmq_consumer_inflight_messages", "Messages leased to a consumer.", "topic", "consumer_group")

	// The broker.
	topics         = desc("rocketmq_topic_number", "Topics.")
	groups         = desc("rocketmq_consumer_group_number", "Consumer groups.")
	permission     = desc("rocketmq_broker_permission", "6 to read and write, 4 while appends are refused because the disk is full, 0 when the log has failed.")
	producers      = desc("rocketmq_producer_connections", "Producers that are alive.", "language", "version", "protocol_type")
	consumers      = desc("rocketmq_consumer_connections", "Consumers that are alive.", "consumer_group", "language", "version", "consume_mode", "protocol_type")
	sends          = desc("gantry_sends_total", "Messages stored for producers.")
	duplicates     = desc("gantry_duplicates_total", "Messages sent again within their topic's deduplication window, and not stored.")
	deliveries     = desc("gantry_deliveries_total", "Messages handed out, every attempt counted.")
	acks           = desc("gantry_acks_total", "Messages acknowledged.")
	unpacked       = desc("gantry_bodies_decompressed_total", "Bodies decompressed for clients of apache.rocketmq.v2 and for operators.")
	unreadable     = desc("gantry_bodies_unreadable_total", "Bodies that should have been, and of which nothing could be made within 4 MiB.")
	deadLetters    = desc("gantry_dead_letters_total", "Messages given up on.")
	halfMessages   = desc("gantry_half_messages", "Transactional messages that nobody has decided on.", "state")
	delayed        = desc("gantry_delayed_messages", "Messages that are not due yet.")
	lateness       = desc("gantry_timer_lateness_seconds", "How long after their time delayed messages began to go into their queue, which a write and sync follow.")
	leases         = desc("gantry_leases", "Messages leased to consumers.")
	waiting        = desc("gantry_waiting_receives", "Receives and pulls that wait for a message.")
	clients        = desc("gantry_clients", "Clients that are alive.")
	damages        = desc("gantry_damage_found_total", "Damage that was found in the log or an index while the broker runs.")
	scrubbed       = desc("gantry_log_scrubbed_bytes_total", "Bytes of the log that were verified though nobody read them.")
	verified       = desc("gantry_log_verified_timestamp_seconds", "All of the log was written or verified after this time; 0: not since the start.")
	checkpoints    = desc("gantry_checkpoints_total", "Checkpoints written.")
	checkpointTime = desc("gantry_checkpoint_seconds", "Time the last checkpoint took to write.")

	// Sends that are under way, and those that were refused.
	sendsHeld    = desc("gantry_sends_in_flight", "Sends and batches that are under way.")
	sendBytes    = desc("gantry_sends_in_flight_bytes", "What they hold in memory, about.")
	sendLimit    = desc("gantry_sends_in_flight_limit_bytes", "The bound of that, beyond which sends are refused.")
	heldBack     = desc("gantry_held_back_seconds_total", "Time for which connections that send were not read, because enough sends were under way: one each second for each connection that waits all the time.")
	throttled    = desc("gantry_quota_throttled_total", "Times that a send was refused, or a receive held back, by what the quota is of and its limit.", "quota", "limit")
	sendsRefused = desc("gantry_sends_refused_total", "Sends that were refused, by what there was not enough of.", "resource")

	// Storage.
	storageSize    = desc("rocketmq_storage_size", "Bytes on disk of the log and its indexes.", "storage_type", "storage_medium")
	dispatchBehind = desc("rocketmq_storage_dispatch_behind_bytes", "Bytes of committed log that are not applied.", "storage_type", "storage_medium")
	flushBehind    = desc("rocketmq_storage_flush_behind_bytes", "Bytes of the log that are written and not synced.", "storage_type", "storage_medium")
	reserveTime    = desc("rocketmq_storage_message_reserve_time", "Milliseconds since the oldest frame of the log was written.", "storage_type", "storage_medium")
	logSegments    = desc("gantry_log_segments", "Files of the log.")
	logFirst       = desc("gantry_log_first_position", "Position of the oldest frame.")
	logWritten     = desc("gantry_log_written_position", "Position up to which the log is written.")
	logCommitted   = desc("gantry_log_committed_position", "Position up to which the log is committed.")
	logBatches     = desc("gantry_log_batches_total", "Appends. Divided by groups: how many share a write.")
	logFrames      = desc("gantry_log_frames_total", "Frames written.")
	logGroups      = desc("gantry_log_groups_total", "Writes to the log, each of one or more frames.")
	logBytes       = desc("gantry_log_bytes_total", "Bytes written to the log.")
	logSync        = desc("gantry_log_sync_seconds", "Time of fdatasync.")
	logShared      = desc("gantry_log_group_batches", "Appends that shared a write.")
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
	s, now := c.stats(), time.Now().UnixMilli()
	counter, gauge := sending(out)
	if s.Serves { // of several nodes one tells what all of them know, or sums would be wrong
		collectServed(out, &s, now)
	}
	counter(damages, float64(s.Damages))
	counter(scrubbed, float64(s.Log.Scrubbed))
	gauge(verified, float64(s.Log.Verified)/1e3)
	counter(checkpoints, float64(s.Checkpoints))
	gauge(checkpointTime, s.CheckpointTime.Seconds())

	l, x := &s.Log, &s.Index
	gauge(storageSize, float64(l.DiskBytes+int64(x.Arenas)*x.ArenaSize), "local", "disk")
	// Applied was read before Committed or after it: never report less than 0.
	gauge(dispatchBehind, max(0, float64(l.Committed)-float64(s.Applied)), "local", "disk")
	gauge(flushBehind, max(0, float64(l.Written)-float64(l.Durable)), "local", "disk")
	gauge(reserveTime, since(now, l.Oldest), "local", "disk")
	gauge(logSegments, float64(l.Segments))
	gauge(logFirst, float64(l.First))
	gauge(logWritten, float64(l.Written))
	gauge(logCommitted, float64(l.Committed))
	counter(logBatches, float64(l.Batches))
	counter(logFrames, float64(l.Frames))
	counter(logGroups, float64(l.Groups))
	counter(logBytes, float64(l.Bytes))
	histogram(out, logSync, &l.SyncLasted, 6, 22, 1, 1e6)
	histogram(out, logShared, &l.Shared, 0, 10, 1, 1)
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

// sending returns what makes metrics of numbers.
func sending(out chan<- prometheus.Metric) (counter, gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	as := func(kind prometheus.ValueType) func(*prometheus.Desc, float64, ...string) {
		return func(d *prometheus.Desc, v float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(d, kind, v, labels...)
		}
	}
	return as(prometheus.CounterValue), as(prometheus.GaugeValue)
}

// collectServed is what there is of topics, groups, messages and clients.
func collectServed(out chan<- prometheus.Metric, s *broker.Stats, now int64) {
	counter, gauge := sending(out)
	for _, t := range foldTopics(s.Topics) {
		counter(messagesIn, float64(t.messages), t.topic)
		counter(bodyBytes, float64(t.bytes), t.topic)
		if t.half > 0 || t.committed+t.rolledBack > 0 {
			gauge(half, float64(t.half), t.topic)
		}
		if t.timing > 0 || t.delayed+t.fired > 0 {
			gauge(timing, float64(t.timing), t.topic)
		}
		if t.delayed+t.fired > 0 {
			counter(timersIn, float64(t.delayed), t.topic)
			counter(timersOut, float64(t.fired), t.topic)
		}
		if t.committed+t.rolledBack > 0 {
			counter(committed, float64(t.committed), t.topic)
			counter(rolledBack, float64(t.rolledBack), t.topic)
		}
	}
	leased := int64(0)
	for _, g := range foldGroups(s.Groups) {
		counter(messagesOut, float64(g.out), g.topic, g.group)
		gauge(lag, float64(g.fresh+g.retry+g.inFlight), g.topic, g.group)
		gauge(ready, float64(g.fresh+g.retry), g.topic, g.group)
		gauge(inFlight, float64(g.inFlight), g.topic, g.group)
		counter(sentToDLQ, float64(g.dead), g.topic, g.group)
		gauge(queueing, since(now, g.oldest), g.topic, g.group)
		gauge(lagLatency, since(now, g.unsettled), g.topic, g.group)
		if g.paused {
			gauge(paused, 1, g.topic, g.group)
		}
		leased += g.inFlight
	}
	for _, a := range foldConnections(s.Connections) {
		if a.group == "" {
			gauge(producers, float64(a.count), a.language, a.version, protocol)
		} else {
			gauge(consumers, float64(a.count), a.group, a.language, a.version, a.mode, protocol)
		}
	}

	gauge(topics, float64(len(s.Topics)))
	gauge(groups, float64(s.GroupCount))
	gauge(permission, allowed(s))
	counter(sends, float64(s.Sends))
	counter(duplicates, float64(s.Duplicates))
	counter(deliveries, float64(s.Deliveries))
	counter(acks, float64(s.Acks))
	counter(unpacked, float64(s.Unpacked))
	counter(unreadable, float64(s.Unreadable))
	counter(deadLetters, float64(s.DeadLetters))
	gauge(halfMessages, float64(s.HalfOpen), "open")
	gauge(halfMessages, float64(s.HalfParked), "parked")
	gauge(delayed, float64(s.Delayed))
	gauge(leases, float64(leased))
	histogram(out, lateness, &s.Lateness, 0, 22, 2, 1e3)
	gauge(waiting, float64(s.Waiting))
	gauge(clients, float64(s.Clients))

	gauge(sendsHeld, float64(s.Admission.Sends))
	gauge(sendBytes, float64(s.Admission.Bytes))
	gauge(sendLimit, float64(s.Admission.Limit))
	counter(heldBack, s.Admission.HeldBack.Seconds())
	for r, n := range s.Admission.Refused {
		counter(sendsRefused, float64(n), broker.Resource(r).String())
	}
	for _, q := range s.Throttled {
		counter(throttled, float64(q.Count), q.Kind.String(), quota.Names[q.Limit])
	}
}

// since is how many milliseconds ago at was, Unix ms; 0 when there was none.
func since(now, at int64) float64 {
	if at == 0 {
		return 0
	}
	return float64(max(0, now-at))
}

// histogram exports the buckets of values below 2^first to 2^last, every so many of
// them. unit is how many of what was counted are one of what is exported.
func histogram(out chan<- prometheus.Metric, d *prometheus.Desc, c *tally.Counts, first, last, every int, unit float64, labels ...string) {
	buckets := make(map[float64]uint64, (last-first)/every+1)
	for i := first; i <= last; i += every {
		buckets[float64(uint64(1)<<i)/unit] = c.Below(i)
	}
	out <- prometheus.MustNewConstHistogram(d, c.Count, float64(c.Sum)/unit, buckets, labels...)
}

// allowed is RocketMQ's permission: 4 to read, 2 to write.
func allowed(s *broker.Stats) float64 {
	switch {
	case s.Log.Err != nil:
		return 0
	case s.Log.DiskFull:
		return 4
	}
	return 6
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

type topicSeries struct {
	topic                                                  string
	messages, bytes, committed, rolledBack, delayed, fired uint64
	half                                                   int
	timing                                                 int64
}

// foldTopics keeps the oldest topics apart, so that which they are does not
// change as more are made, and adds up the rest.
func foldTopics(all []broker.TopicStats) []topicSeries {
	all = slices.SortedFunc(slices.Values(all), func(a, b broker.TopicStats) int { return cmp.Compare(a.ID, b.ID) })
	var series []topicSeries
	for i, t := range all {
		one := topicSeries{t.Name.Label(), t.MessagesIn, t.BytesIn, t.Committed, t.RolledBack, t.Delayed, t.Fired, t.Half, t.Timing}
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
			rest.committed += one.committed
			rest.rolledBack += one.rolledBack
			rest.delayed += one.delayed
			rest.fired += one.fired
			rest.half += one.half
			rest.timing += one.timing
		}
	}
	return series
}

type groupSeries struct {
	group, topic           string
	out, dead              uint64
	fresh, retry, inFlight int64
	oldest, unsettled      int64 // Unix ms, 0 = none
	paused                 bool
}

func foldGroups(all []broker.GroupStats) []groupSeries {
	series := make([]groupSeries, 0, len(all))
	for _, g := range all {
		series = append(series, groupSeries{g.Group.Label(), g.Topic.Label(), g.MessagesOut, g.DeadLetters, g.Lag, int64(g.Ready), int64(g.InFlight), g.Oldest, g.Unsettled, g.Paused})
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
		rest.dead += g.dead
		rest.oldest, rest.unsettled = earlier(rest.oldest, g.oldest), earlier(rest.unsettled, g.unsettled)
	}
	return append(series[:maxGroups:maxGroups], rest)
}

// earlier is the earlier of two times, 0 = none.
func earlier(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// protocol is what all clients speak.
const protocol = "grpc"

type connectionSeries struct {
	group, language, version, mode string // group and mode "" of producers
	count                          int
}

// foldConnections tells the most frequent kinds of clients apart.
func foldConnections(all []broker.Connections) []connectionSeries {
	type kind struct{ group, language, version, mode string }
	count := map[kind]int{}
	for _, c := range all {
		k := kind{c.Group.Label(), claimed(c.Language), claimed(c.Version), "push"}
		switch c.Role {
		case session.Producer:
			k.group, k.mode = "", ""
		case session.SimpleConsumer, session.PullConsumer, session.LiteSimpleConsumer:
			k.mode = "pull"
		}
		count[k] += c.Count
	}
	series := make([]connectionSeries, 0, len(count))
	for k, n := range count {
		series = append(series, connectionSeries{k.group, k.language, k.version, k.mode, n})
	}
	slices.SortFunc(series, func(a, b connectionSeries) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.group, b.group), cmp.Compare(a.language, b.language),
			cmp.Compare(a.version, b.version), cmp.Compare(a.mode, b.mode))
	})
	if len(series) <= maxAlike {
		return series
	}
	consumers, producers := connectionSeries{Other, Other, Other, Other, 0}, connectionSeries{"", Other, Other, "", 0}
	for _, c := range series[maxAlike:] {
		if c.group == "" {
			producers.count += c.count
		} else {
			consumers.count += c.count
		}
	}
	return append(series[:maxAlike:maxAlike], consumers, producers)
}
