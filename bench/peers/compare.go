package main

import (
	"cmp"
	"slices"

	"github.com/gantry-mq/gantry/test/bench/text"
)

// row is one kind of work against one system: its samples, one a repetition.
type row struct {
	System, Client, Shape, Durability string
	Size                              int
	samples                           []sample
}

// rows are the results of all repetitions, in the order in which they were first
// measured.
func (r *results) rows() []*row {
	var all []*row
	for _, s := range r.Samples {
		i := slices.IndexFunc(all, func(x *row) bool {
			return x.System == s.System && x.Client == s.Client && x.Shape == s.Shape && x.Durability == s.Durability && x.Size == s.Size
		})
		if i < 0 {
			i = len(all)
			all = append(all, &row{System: s.System, Client: s.Client, Shape: s.Shape, Durability: s.Durability, Size: s.Size})
		}
		all[i].samples = append(all[i].samples, s)
	}
	return all
}

// metric is one number of a sample, 0 where it has no meaning.
type metric struct {
	name     string // with its unit
	whatItIs string // without
	of       func(sample) float64
	lessWins bool
}

var (
	rate = metric{name: "messages/s", of: func(s sample) float64 { return s.Rate }, whatItIs: "messages/s"}
	cpu  = metric{name: "server CPU, us/message", of: func(s sample) float64 { return s.CPU }, lessWins: true, whatItIs: "server CPU per message"}
	rss  = metric{name: "RSS, MiB", of: func(s sample) float64 { return s.RSS }, lessWins: true, whatItIs: "RSS"}
	anon = metric{name: "of it not file pages, MiB", of: func(s sample) float64 { return s.Anon }, lessWins: true, whatItIs: "memory without file pages"}

	ready = metric{name: "start to ready, ms", of: func(s sample) float64 { return s.Ready }, lessWins: true, whatItIs: "start"}

	written = metric{name: "written, bytes/byte/node", of: func(s sample) float64 { return s.Written }, lessWins: true, whatItIs: "bytes written"}

	regained = metric{name: "until it has all again, s/GB", of: func(s sample) float64 { return s.Regained }, lessWins: true, whatItIs: "time to have all again"}

	longest = metric{name: "longest send, ms", of: func(s sample) float64 {
		if s.Send == nil {
			return 0
		}
		return s.Send.Max / 1e3
	}, lessWins: true, whatItIs: "longest send"}

	sendP50 = percentile("send p50, us", func(s sample) *percentiles { return s.Send }, func(p percentiles) float64 { return p.P50 })
	sendP99 = percentile("send p99, us", func(s sample) *percentiles { return s.Send }, func(p percentiles) float64 { return p.P99 })
	send999 = percentile("send p99.9, us", func(s sample) *percentiles { return s.Send }, func(p percentiles) float64 { return p.P999 })
	thruP50 = percentile("end to end p50, us", func(s sample) *percentiles { return s.EndToEnd }, func(p percentiles) float64 { return p.P50 })
	thruP99 = percentile("end to end p99, us", func(s sample) *percentiles { return s.EndToEnd }, func(p percentiles) float64 { return p.P99 })
	thru999 = percentile("end to end p99.9, us", func(s sample) *percentiles { return s.EndToEnd }, func(p percentiles) float64 { return p.P999 })
)

func percentile(name string, of func(sample) *percentiles, pick func(percentiles) float64) metric {
	return metric{name: name, lessWins: true, whatItIs: name[:len(name)-len(", us")], of: func(s sample) float64 {
		if p := of(s); p != nil {
			return pick(*p)
		}
		return 0
	}}
}

// values of m in all repetitions.
func (r *row) values(m metric) []float64 {
	var v []float64
	for _, s := range r.samples {
		v = append(v, m.of(s))
	}
	return v
}

func (r *row) median(m metric) float64 { return text.Median(r.values(m)) }

// best of rows by the median of m; nil when there is none.
func best(rows []*row, m metric) *row {
	if len(rows) == 0 {
		return nil
	}
	return slices.MaxFunc(rows, func(a, b *row) int {
		if m.lessWins {
			return cmp.Compare(b.median(m), a.median(m))
		}
		return cmp.Compare(a.median(m), b.median(m))
	})
}

// ratios of a to b, one a repetition: what ran in turns is compared with its
// neighbour, so that the weather of the machine falls out.
func ratios(a, b *row, m metric) []float64 {
	var v []float64
	for _, x := range a.samples {
		for _, y := range b.samples {
			if x.Rep == y.Rep && m.of(y) > 0 && m.of(x) > 0 {
				v = append(v, m.of(x)/m.of(y))
			}
		}
	}
	return v
}

func filter(rows []*row, keep func(*row) bool) []*row {
	return slices.DeleteFunc(slices.Clone(rows), func(r *row) bool { return !keep(r) })
}
