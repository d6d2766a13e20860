package main

import (
	"reflect"
	"testing"
)

func TestGoBenchmarksAreReadByCaseAndUnit(t *testing.T) {
	names, values := parseBenchmarks(`goos: linux
BenchmarkOther/plain-2   1   3 ns/op
BenchmarkFeatures/tag_filter-2   1   151.1 log-B/msg   6.79 receive-us/msg   0 B/op
BenchmarkFeatures/a-b-2          1   7 log-B/msg
BenchmarkFeatures/tag_filter-2   1   150 log-B/msg     6 receive-us/msg   0 B/op
PASS
`, "BenchmarkFeatures/")
	if want := []string{"tag filter", "a-b"}; !reflect.DeepEqual(names, want) {
		t.Errorf("%q, want %q", names, want)
	}
	if got, want := values["tag filter"]["log-B/msg"], []float64{151.1, 150}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
