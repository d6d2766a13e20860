package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files")

// made is a run of three repetitions with numbers that no machine gave: Gantry
// is ahead at some work and behind at other.
func made() *results {
	r := &results{
		Measured: "2026-01-02 03:04",
		Machine:  machine{CPU: "Example <CPU> & co", CPUs: 2, Memory: 24064, Kernel: "6.1", FS: "0xef53", Sync: []float64{200, 210, 400}},
		Versions: map[string]string{"gantry": "abc", "kafka": "4.0.0", "rocketmq": "5.0.0", "java": "a JVM", "go": "go1", "franz-go": "v1"},
		Length:   4, Queues: 10_000, Rated: 25_000,
		Commands: &commands{Lines: []string{"gantry serve --data $DIR/data", "java kafka.Kafka $DIR/server.properties"}},
	}
	add := func(system, client, shape string, size int, durability string, of func(rep float64) sample) {
		for rep := range 3 {
			s := of(1 + float64(rep)/10)
			s.System, s.Client, s.Shape, s.Size, s.Durability, s.Rep = system, client, shape, size, durability, rep
			r.Samples = append(r.Samples, s)
		}
	}
	flat := func(rate, cpu float64, refused int64) func(float64) sample {
		return func(x float64) sample {
			return sample{outcome: outcome{Messages: int64(4 * rate), Rate: rate * x, Refused: refused}, CPU: cpu, RSS: 100 * x, Anon: 50}
		}
	}
	late := func(p99 float64, through bool) func(float64) sample {
		return func(x float64) sample {
			p := &percentiles{P50: p99 / 3, P99: p99 * x, P999: p99 * 2, Max: p99 * 4}
			s := sample{outcome: outcome{Messages: 25_000, Send: p}, CPU: 30}
			if through {
				s.EndToEnd = p
			}
			return s
		}
	}
	add("kafka", "", shapeIdle, 0, async, func(x float64) sample { return sample{RSS: 390 * x, Anon: 380, Ready: 4000} })
	add("gantry", "", shapeIdle, 0, async, func(x float64) sample { return sample{RSS: 17 * x, Anon: 3, Ready: 40} })
	for _, d := range []string{async, sync_} {
		add("gantry", clientBatch, shapePublish, kib, d, flat(400_000, 2, 0))
		add("kafka", "franz-go", shapePublish, kib, d, flat(100_000, 5, 0))
		add("kafka", "its performance tools", shapePublish, kib, d, flat(120_000, 6, 0))
		add("rocketmq", clientBatch, shapePublish, kib, d, flat(79_000, 18, 12))
		add("gantry", clientBatch, shapePublish, hecB, d, flat(500_000, 1, 0))
		add("kafka", "franz-go", shapePublish, hecB, d, flat(800_000, 0.5, 0))
		add("gantry", "gRPC", shapeSend, kib, d, late(900, false))
		add("kafka", "franz-go", shapeSend, kib, d, late(1200, false))
	}
	add("gantry", "gRPC", shapeThrough, kib, async, late(700, true))
	add("rocketmq", "gRPC", shapeThrough, kib, async, late(2000, true))
	return r
}

func TestPageIsAsAgreed(t *testing.T) { golden(t, "page.md", page(made())) }

func TestPlotsAreAsAgreed(t *testing.T) {
	drawn := plots(made())
	for _, name := range []string{"publish", "send", "through", "idle"} {
		if _, ok := drawn[plotFile(name)]; !ok {
			t.Errorf("no plot %s", name)
		}
	}
	if len(drawn) != 4 {
		t.Errorf("%d plots of 4 kinds of work", len(drawn))
	}
	golden(t, "publish.svg", drawn[plotFile("publish")])
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (go test ./bench/peers -update writes it):\n%s", file, got)
	}
}

func TestResultsComeBackFromJSON(t *testing.T) {
	file := filepath.Join(t.TempDir(), "results.json")
	r := made()
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	again, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	if page(again) != page(r) {
		t.Error("the page of results that were written and read is another")
	}
}

func TestExtendingKeepsOldRepetitionsApart(t *testing.T) {
	next := made()
	next.Samples = nil
	if err := next.follow(made()); err != nil {
		t.Fatal(err)
	}
	if got := next.reps(anything); got != 3 || len(next.Samples) == 0 {
		t.Errorf("%d repetitions, %d samples after following 3", got, len(next.Samples))
	}
	other := made()
	other.Versions["kafka"] = "5.0.0"
	if err := other.follow(made()); err == nil || !strings.Contains(err.Error(), "kafka") {
		t.Errorf("results of another Kafka were extended: %v", err)
	}
	other = made()
	other.Length = 1
	if err := other.follow(made()); err == nil {
		t.Error("results of longer phases were extended")
	}
}

func TestRatiosCompareWithinARepetition(t *testing.T) {
	at := func(rep int, rate float64) sample { return sample{Rep: rep, outcome: outcome{Rate: rate}} }
	fast := &row{samples: []sample{at(0, 100), at(1, 10), at(2, 7)}}
	slow := &row{samples: []sample{at(1, 5), at(0, 50)}}
	if got := ratios(fast, slow, rate); len(got) != 2 || got[0] != 2 || got[1] != 2 {
		t.Errorf("ratios %v, want 2 and 2: the machine was ten times slower in the second repetition", got)
	}
}

func TestCommandsAreKeptOnceWithoutPaths(t *testing.T) {
	var c commands
	for range 2 {
		c.add(map[string]string{"/a": "$A", "/a/b": "$B"}, "java", "-cp", "/a/b/lib", "Main", "/a/x")
	}
	if len(c.Lines) != 1 || c.Lines[0] != "java -cp $B/lib Main $A/x" {
		t.Errorf("%q", c.Lines)
	}
}

func TestFailedPhasesAreNamedOnThePage(t *testing.T) {
	r := &results{Commands: &commands{}, Failures: []string{"RocketMQ, gRPC, end to end: not every message came"}}
	if !strings.Contains(page(r), "- RocketMQ, gRPC, end to end: not every message came\n") {
		t.Error(page(r))
	}
}
