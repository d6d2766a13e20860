package bench

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker"
	"github.com/gantry-mq/gantry/internal/brokertest"
)

// TestEveryShapeCountsEveryMessage runs each shape, small, against a real broker.
func TestEveryShapeCountsEveryMessage(t *testing.T) {
	s := brokertest.Start(t, broker.Options{})
	cases := map[string]struct {
		options  Options
		phases   []string
		messages []int64
	}{
		"publish":      {Options{Count: 5000}, []string{"publish"}, []int64{5000}},
		"topics":       {Options{Count: 3000, Topics: 50, Queues: 1, Producers: 2}, []string{"topics"}, []int64{3000}},
		"transactions": {Options{Count: 100}, []string{"transactions"}, []int64{100}},
		"consume":      {Options{Count: 5000, Consumers: 3, Filter: "tag", Match: 0.25}, []string{"consume-tag"}, []int64{1250}},
		"filter":       {Options{Count: 2000, Match: 0.5}, []string{"consume", "consume-tag", "consume-sql"}, []int64{2000, 1000, 1000}},
		"receive":      {Options{Count: 3000, Consumers: 2}, []string{"receive"}, []int64{3000}},
		"end-to-end":   {Options{Count: 2000, Rate: 20000}, []string{"end-to-end"}, []int64{2000}},
		"fanout":       {Options{Count: 500, Groups: 3}, []string{"fanout"}, []int64{1500}},
		"delay":        {Options{Count: 500}, []string{"delay"}, []int64{500}},
		"backlog":      {Options{Count: 2000, Rate: 1000}, []string{"backlog"}, []int64{2000}},
	}
	for _, name := range ShapeNames() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			c := cases[name]
			c.options.Server, c.options.Shape, c.options.Size = s.Addr, name, 100
			results, err := Run(ctx, c.options)
			if err != nil {
				t.Fatal(err)
			}
			if len(results) != len(c.phases) {
				t.Fatalf("%d phases, want %d", len(results), len(c.phases))
			}
			for i, r := range results {
				// Deliveries that are under way when the last one is counted may be counted
				// too: at most what was sent meanwhile.
				if r.Phase != c.phases[i] || r.Messages < c.messages[i] || name != "backlog" && r.Messages != c.messages[i] || r.Errors != 0 {
					t.Errorf("%s: %d messages, %d errors, want %s: %d", r.Phase, r.Messages, r.Errors, c.phases[i], c.messages[i])
				}
				if r.ServerCPUMicros < 0 || r.ServerRSS <= 0 {
					t.Errorf("%s: the server's process was not found", r.Phase)
				}
			}
		})
	}
}

func TestWrongOptionsAreRefused(t *testing.T) {
	for _, o := range []Options{{Shape: "nothing"}, {Shape: "publish", Match: 2}, {Shape: "publish", Filter: "regexp"}} {
		if _, err := Run(context.Background(), o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

func TestAPlotIsWellFormedWhateverWasMeasured(t *testing.T) {
	for name, r := range map[string]Result{
		"nothing":    {Phase: "publish"},
		"no latency": {Phase: "consume <&>", Timeline: []Point{{Second: 0.5, PerSecond: 10}, {Second: 1, PerSecond: 2e6}}},
		"latency":    {Phase: "publish", Latency: &Latency{Samples: 3}, Timeline: []Point{{Second: 0.5, PerSecond: 1e4, P50: 0.2, P99: 7}, {Second: 1, PerSecond: 1e4}}},
	} {
		var b bytes.Buffer
		if err := WriteSVG(&b, r); err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b.Bytes(), []byte("NaN")) || bytes.Contains(b.Bytes(), []byte("Inf")) {
			t.Errorf("%s: a coordinate is no number", name)
		}
		for d := xml.NewDecoder(&b); ; {
			if _, err := d.Token(); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
}
