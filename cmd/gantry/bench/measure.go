package bench

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Result is what was measured of one phase.
type Result struct {
	Phase      string  `json:"phase"`
	Size       int     `json:"size_bytes"`
	Messages   int64   `json:"messages"`
	Seconds    float64 `json:"seconds"`
	PerSecond  float64 `json:"messages_per_second"`
	MiBPerSec  float64 `json:"mib_per_second"`
	TargetRate int     `json:"target_rate,omitempty"`
	Errors     int64   `json:"errors"`

	// Of the server, 0 when it is not on this machine.
	ServerCPUMicros float64 `json:"server_cpu_us_per_message"`
	ServerRSS       int64   `json:"server_rss_bytes"`
	ServerAnon      int64   `json:"server_anon_bytes"`
	ClientCPUMicros float64 `json:"client_cpu_us_per_message"`

	Latency  *Latency `json:"latency,omitempty"`
	Timeline []Point  `json:"timeline"`
}

// Latency is in milliseconds.
type Latency struct {
	Samples int64   `json:"samples"`
	Mean    float64 `json:"mean_ms"`
	P50     float64 `json:"p50_ms"`
	P90     float64 `json:"p90_ms"`
	P99     float64 `json:"p99_ms"`
	P999    float64 `json:"p999_ms"`
	Max     float64 `json:"max_ms"`
}

// Point is one interval of a phase.
type Point struct {
	Second    float64 `json:"second"` // since the phase began, at the interval's end
	PerSecond float64 `json:"messages_per_second"`
	P50       float64 `json:"p50_ms"`
	P99       float64 `json:"p99_ms"`
}

// histograms hold 1 us to 10 minutes with three digits.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, int64(10*time.Minute/time.Microsecond), 3)
}

// meter counts a phase.
type meter struct {
	messages atomic.Int64
	errors   atomic.Int64

	mu       sync.Mutex
	interval *hdrhistogram.Histogram // since the last point
	total    *hdrhistogram.Histogram
	timeline []Point
}

// observe notes one latency.
func (m *meter) observe(d time.Duration) {
	us := max(d.Microseconds(), 1)
	m.mu.Lock()
	m.interval.RecordValue(us) // beyond ten minutes: the phase has failed anyway
	m.mu.Unlock()
}

// point ends an interval.
func (m *meter) point(since time.Duration, length time.Duration, n int64) Point {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := Point{Second: since.Seconds(), PerSecond: float64(n) / length.Seconds()}
	if m.interval.TotalCount() > 0 {
		p.P50, p.P99 = ms(m.interval.ValueAtQuantile(50)), ms(m.interval.ValueAtQuantile(99))
		m.total.Merge(m.interval)
		m.interval.Reset()
	}
	m.timeline = append(m.timeline, p)
	return p
}

func ms(us int64) float64 { return float64(us) / 1000 }

const pointEvery = 500 * time.Millisecond

// phase runs work and appends what was measured. work counts in m.
func (b *bench) phase(ctx context.Context, name string, work func(context.Context, *meter) error) error {
	m := &meter{interval: newHistogram(), total: newHistogram()}
	self := &process{os.Getpid()}
	serverCPU, selfCPU, begun := b.server.cpu(), self.cpu(), time.Now()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		b.follow(name, m, begun, stop)
	}()
	err := work(ctx, m)
	took := time.Since(begun)
	serverCPU, selfCPU = b.server.cpu()-serverCPU, self.cpu()-selfCPU
	close(stop)
	<-stopped
	n := m.messages.Load()
	r := Result{
		Phase: name, Size: b.Size, Messages: n, Seconds: took.Seconds(), PerSecond: float64(n) / took.Seconds(),
		MiBPerSec: float64(n) * float64(b.Size) / took.Seconds() / (1 << 20), TargetRate: b.Rate, Errors: m.errors.Load(),
		Timeline: m.timeline,
	}
	if n > 0 {
		r.ServerCPUMicros = float64(serverCPU.Microseconds()) / float64(n)
		r.ClientCPUMicros = float64(selfCPU.Microseconds()) / float64(n)
	}
	r.ServerRSS, r.ServerAnon = b.server.memory()
	if h := m.total; h.TotalCount() > 0 {
		r.Latency = &Latency{
			Samples: h.TotalCount(), Mean: h.Mean() / 1000, P50: ms(h.ValueAtQuantile(50)), P90: ms(h.ValueAtQuantile(90)),
			P99: ms(h.ValueAtQuantile(99)), P999: ms(h.ValueAtQuantile(99.9)), Max: ms(h.Max()),
		}
	}
	b.results = append(b.results, r)
	return err
}

// follow makes the timeline and the progress line.
func (b *bench) follow(name string, m *meter, begun time.Time, stop <-chan struct{}) {
	ticker := time.NewTicker(pointEvery)
	defer ticker.Stop()
	last, seen := begun, int64(0)
	for running := true; running; {
		select {
		case <-ticker.C:
		case <-stop:
			running = false
		}
		now, n := time.Now(), m.messages.Load()
		if length := now.Sub(last); length > pointEvery/10 {
			p := m.point(now.Sub(begun), length, n-seen)
			fmt.Fprintf(b.Progress, "\r%-14s %6.1f s  %12d messages  %10.0f/s  p50 %.2f ms  p99 %.2f ms  errors %d ", name, p.Second, n, p.PerSecond, p.P50, p.P99, m.errors.Load())
		}
		last, seen = now, n
	}
	fmt.Fprintf(b.Progress, "\n")
}
