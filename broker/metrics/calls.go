package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gantry-mq/gantry/internal/tally"
)

var (
	callTime  = desc("gantry_grpc_seconds", "Time of calls by gRPC and of the dashboard's. Those that wait for messages count their wait; streams that last as long as their client likes are not here.", "service", "method")
	callsDone = desc("gantry_grpc_calls_total", "Calls that have ended, by outcome: a code of the contract, or one of gRPC.", "service", "method", "code")
)

// CallCollector exports calls by method and outcome.
type CallCollector struct {
	calls *tally.Calls
	code  func(int32) string
}

// NewCallCollector returns a collector of calls, whose codes code names.
func NewCallCollector(calls *tally.Calls, code func(int32) string) *CallCollector {
	return &CallCollector{calls, code}
}

// Describe announces nothing: which series there are depends on what is called.
func (c *CallCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *CallCollector) Collect(out chan<- prometheus.Metric) {
	for _, m := range c.calls.Read() {
		if m.Took.Count > 0 {
			histogram(out, callTime, &m.Took, 8, 24, 2, 1e6, m.Service, m.Name) // 256 us to 17 s
		}
		ok := m.Calls
		for code, n := range m.Refused {
			ok -= min(ok, n)
			out <- prometheus.MustNewConstMetric(callsDone, prometheus.CounterValue, float64(n), m.Service, m.Name, c.code(code))
		}
		out <- prometheus.MustNewConstMetric(callsDone, prometheus.CounterValue, float64(ok), m.Service, m.Name, "OK")
	}
}
