package main

import (
	"fmt"

	"github.com/gantry-mq/gantry/test/bench/text"
)

// aim is a ratio, or a limit, that this project set itself before it measured.
type aim struct {
	what   string
	gantry func(*row) bool
	peer   func(*row) bool // nil: m itself is limited
	m      metric
	want   float64
	atMost bool
}

const (
	kib  = 1024
	hecB = 100
)

func of(system, shape string, size int, durability string) func(*row) bool {
	return func(r *row) bool {
		return r.System == system && r.Shape == shape && r.Size == size && r.Durability == durability
	}
}

func ofClient(keep func(*row) bool, client string) func(*row) bool {
	return func(r *row) bool { return keep(r) && r.Client == client }
}

// aims in the order of the page.
func aims() []aim {
	var all []aim
	add := func(a aim) { all = append(all, a) }
	for _, d := range []string{async, sync_} {
		for _, t := range []struct {
			size int
			want float64
		}{{kib, 3}, {hecB, 2}} {
			add(aim{what: fmt.Sprintf("publish in batches, %s, %s", bytesOf(t.size), fsync(d)), m: rate, want: t.want,
				gantry: of("gantry", shapePublish, t.size, d), peer: of("kafka", shapePublish, t.size, d)})
		}
		add(aim{what: "publish in batches, 1 KiB, " + fsync(d), m: cpu, want: 0.5, atMost: true,
			gantry: of("gantry", shapePublish, kib, d), peer: of("kafka", shapePublish, kib, d)})
	}
	for _, size := range []int{kib, hecB} {
		add(aim{what: "consume, " + bytesOf(size) + ": Gantry with a tag filter against Kafka without", m: rate, want: 2,
			gantry: ofClient(of("gantry", shapeConsume, size, async), clientTag), peer: of("kafka", shapeConsume, size, async)})
	}
	add(aim{what: "consume, 1 KiB: Gantry with an SQL filter against itself without", m: rate, want: 0.7,
		gantry: ofClient(of("gantry", shapeConsume, kib, async), clientSQL), peer: ofClient(of("gantry", shapeConsume, kib, async), clientStreams)})
	for _, d := range []string{async, sync_} {
		add(aim{what: "official protocol, 1 message a call, 1 KiB, " + fsync(d), m: rate, want: 2,
			gantry: ofClient(of("gantry", shapeSingle, kib, d), clientOne), peer: ofClient(of("rocketmq", shapeSingle, kib, d), clientOne)})
		add(aim{what: "official protocol, 1 message a call, 1 KiB, " + fsync(d), m: cpu, want: 1.0 / 3, atMost: true,
			gantry: ofClient(of("gantry", shapeSingle, kib, d), clientOne), peer: ofClient(of("rocketmq", shapeSingle, kib, d), clientOne)})
		add(aim{what: "official protocol, 32 messages a call, 1 KiB, " + fsync(d), m: rate, want: 2.5,
			gantry: ofClient(of("gantry", shapePublish, kib, d), clientBatch), peer: ofClient(of("rocketmq", shapePublish, kib, d), clientBatch)})
		add(aim{what: "official protocol, receive and acknowledge each, 1 KiB, " + fsync(d), m: rate, want: 4,
			gantry: of("gantry", shapeAckEach, kib, d), peer: of("rocketmq", shapeAckEach, kib, d)})
		add(aim{what: "official protocol, receive and acknowledge 32 a call, 1 KiB, " + fsync(d), m: rate, want: 4,
			gantry: ofClient(of("gantry", shapeConsume, kib, d), clientReceive), peer: ofClient(of("rocketmq", shapeConsume, kib, d), clientReceive)})
	}
	add(aim{what: "send at 5,000/s: Gantry with fsync against Kafka without", m: sendP99, want: 1, atMost: true,
		gantry: of("gantry", shapeSend, kib, sync_), peer: of("kafka", shapeSend, kib, async)})
	add(aim{what: "publish in batches, 1 KiB: Gantry with fsync against itself without", m: rate, want: 0.8,
		gantry: of("gantry", shapePublish, kib, sync_), peer: of("gantry", shapePublish, kib, async)})
	add(aim{what: "publish in batches, 1 KiB: Gantry to many queues against itself to 16", m: rate, want: 0.8,
		gantry: ofClient(of("gantry", shapeMany, kib, async), clientStreams), peer: ofClient(of("gantry", shapePublish, kib, async), clientStreams)})
	add(aim{what: "idle", m: rss, want: 64, atMost: true, gantry: of("gantry", shapeIdle, 0, async)})
	add(aim{what: shapeMany, m: rss, want: 400, atMost: true, gantry: of("gantry", shapeMany, kib, async)})
	return all
}

// line is the aim's row of the table; nil when it was not measured.
func (a aim) line(rows []*row) []string {
	mine := best(filter(rows, a.gantry), a.m)
	if mine == nil {
		return nil
	}
	word := "at least"
	if a.atMost {
		word = "at most"
	}
	if a.peer == nil {
		got := mine.values(a.m)
		return []string{a.what, a.m.name, mine.Client, "", text.Spread(got), word + " " + text.Number(a.want), a.verdict(text.Median(got))}
	}
	theirs := best(filter(rows, a.peer), a.m)
	if theirs == nil {
		return nil
	}
	got := ratios(mine, theirs, a.m)
	if len(got) == 0 {
		return nil
	}
	return []string{a.what, a.m.name, mine.Client, theirs.who(), times(got), word + " " + text.Number(a.want) + "x", a.verdict(text.Median(got))}
}

func (a aim) verdict(got float64) string {
	if a.atMost && got <= a.want || !a.atMost && got >= a.want {
		return "yes"
	}
	return "**no**"
}

// who names whose row it is, and by which client.
func (r *row) who() string {
	if r.Client == "" {
		return names[r.System]
	}
	return names[r.System] + ": " + r.Client
}
