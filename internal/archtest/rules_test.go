package archtest

import (
	"fmt"
	"path"
	"strings"
)

const module = "github.com/gantry-mq/gantry"

// layers gives every package of the module its height. An import may only point
// to a lower layer, or from a parent to its own child on the same one. A folder
// without an entry has the layer of the nearest folder above it that has one;
// a package with no such folder is an error, so that a new one is placed on
// purpose.
var layers = map[string]int{
	"internal":         0,
	"commitlog/record": 0,
	"proto":            0,
	"scheduler/wheel":  0,

	"commitlog":         1,
	"internal/compress": 1, // bodies of records
	"filter":            1,
	"proto/stream":      1, // beside the generated messages, over them
	"consumequeue":      1,

	"scheduler": 2, // its timers are entries of a consume queue
	"broker/":   2, // the children of broker
	"broker":    3,

	"broker/metrics": 4, // reads broker's Stats from outside, like any other client of it
	"api":            4,
	"client":         4,

	"client/oteltrace": 5, // uses client from outside, like any other program
	"cmd/gantry/bench": 5, // so does this; gantry bench runs it, and test/bench

	"test/interop/official": 5, // programs that test/interop and test/history run

	"cmd":      6,
	"test":     6,
	"examples": 6,
}

// helpers are imported by tests only, and may themselves import anything below
// the layer of the tests that use them.
var helpers = []string{"internal/brokertest", "internal/freeaddr", "internal/mmapfile/crashtest", "internal/crashtest"}

// onlyIn says who may import what, where layers alone would allow more. The
// owner "" is nobody. Paths end at a folder: "broker" includes broker/inflight.
var onlyIn = []struct {
	target string
	owners []string
	why    string
}{
	{"golang.org/x/sys", []string{"internal/mmapfile", "internal/tcp"}, "system calls for files and mappings live in one package, those for connections in another"},
	{"github.com/edsrzf/mmap-go", []string{"internal/mmapfile"}, "a mapped byte leaves its package only in a counted view"},
	{"google.golang.org/grpc", []string{"proto", "api", "client", "cmd", "test", "examples", "internal/brokertest"}, "storage and broker have never heard of gRPC"},
	{"google.golang.org/protobuf", []string{"proto", "api", "client", "cmd", "test", "examples"}, "storage and broker have never heard of protobuf"},
	{"google.golang.org/genproto", []string{"proto", "api", "client", "cmd", "test", "examples"}, "storage and broker have never heard of protobuf"},
	{"golang.org/x/net", []string{"api", "test"}, "HTTP/2 is the wire's business"},
	{"github.com/prometheus", []string{"broker/metrics", "cmd"}, "exported names live in one package; everything else has Stats"},
	{"github.com/spf13", []string{"cmd"}, "flags are read in cmd"},
	{"github.com/goccy/go-yaml", []string{"cmd"}, "and so is the file that may be in their place"},
	{"go.opentelemetry.io", []string{"cmd", "client/oteltrace"}, "the broker and the client tell a function of the steps of a message; who makes spans of them is cmd's business, or a program's that wants them"},
	{"github.com/hashicorp", []string{"broker/replica"}, "raft, and what its interfaces name, end where the log is replicated"},
	{"github.com/klauspost/compress", []string{"internal/compress"}, "bodies are compressed and decompressed in one place, within its bounds"},
	{"github.com/pierrec/lz4", []string{"internal/compress"}, "and so are these"},
	{"github.com/HdrHistogram", []string{"cmd/gantry/bench"}, "latencies are measured by the benchmark"},
	{"github.com/anishathalye/porcupine", []string{"test/history/linear"}, "what clients saw is judged by tests alone"},

	{module + "/proto", []string{"proto", "api", "client", "cmd", "test", "examples", "internal/brokertest"}, "wire types stop at api"},
	{module + "/commitlog", []string{"commitlog", "broker", "cmd", "test"}, "api converts to records and calls broker, it does not touch the log"},
	{module + "/commitlog/record", []string{"commitlog", "consumequeue", "filter", "scheduler", "broker", "api", "client", "cmd", "test", "internal", "proto/stream"}, "records are the vocabulary of these layers"},
}

// inside reports whether package pkg is folder dir or below it.
func inside(pkg, dir string) bool {
	return pkg == dir || strings.HasPrefix(pkg, dir+"/")
}

// standard reports whether an import path belongs to the standard library: only
// its first element has no dot.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

func layerOf(pkg string) (int, bool) {
	for dir := pkg; dir != "."; dir = path.Dir(dir) {
		if dir != pkg {
			if l, ok := layers[dir+"/"]; ok {
				return l, true
			}
		}
		if l, ok := layers[dir]; ok {
			return l, true
		}
	}
	return 0, false
}

func isHelper(pkg string) bool {
	for _, h := range helpers {
		if inside(pkg, h) {
			return true
		}
	}
	return false
}

// check returns the rule that is broken when package from, a folder of the
// module, imports the path imported; nil when none is. fromTest says that only
// from's tests import it.
func check(from, imported string, fromTest bool) error {
	if imported == "C" {
		return fmt.Errorf("the module builds without CGO")
	}
	if standard(imported) {
		return nil
	}
	if err := checkOwners(from, imported); err != nil {
		return err
	}
	to, ours := strings.CutPrefix(imported, module+"/")
	if !ours || to == from {
		return nil
	}
	if isHelper(to) {
		if fromTest || isHelper(from) {
			return nil
		}
		return fmt.Errorf("%s is a helper for tests only", to)
	}
	if isHelper(from) || inside(to, from) {
		return nil // helpers sit beside tests; a parent may import its own child
	}
	fromLayer, ok := layerOf(from)
	if !ok {
		return fmt.Errorf("%s has no layer: give it one in internal/archtest", from)
	}
	toLayer, ok := layerOf(to)
	if !ok {
		return fmt.Errorf("%s has no layer: give it one in internal/archtest", to)
	}
	switch {
	case toLayer < fromLayer:
		return nil
	case inside(from, to) && !fromTest:
		return fmt.Errorf("a child never imports its parent: pass it the one or two functions it needs")
	case inside(from, "broker/"+childOf(from)) && inside(to, "broker/"+childOf(to)) && from != "broker" && to != "broker":
		return fmt.Errorf("siblings under broker/ never import each other: broker joins them")
	default:
		return fmt.Errorf("imports point down: layer %d may not import layer %d", fromLayer, toLayer)
	}
}

// childOf returns the name of the child of broker that pkg is in, "" for none.
func childOf(pkg string) string {
	rest, ok := strings.CutPrefix(pkg, "broker/")
	if !ok {
		return ""
	}
	name, _, _ := strings.Cut(rest, "/")
	return name
}

// checkOwners applies the most specific entry of onlyIn. A third-party path
// without an entry is refused: a dependency is a decision, taken in onlyIn.
func checkOwners(from, imported string) error {
	best := -1
	for i, r := range onlyIn {
		if inside(imported, r.target) && (best < 0 || len(r.target) > len(onlyIn[best].target)) {
			best = i
		}
	}
	if best < 0 {
		if inside(imported, module) {
			return nil
		}
		return fmt.Errorf("%s is not among the dependencies that internal/archtest allows", imported)
	}
	for _, o := range onlyIn[best].owners {
		if inside(from, o) {
			return nil
		}
	}
	return fmt.Errorf("only %s may import %s: %s", strings.Join(onlyIn[best].owners, ", "), onlyIn[best].target, onlyIn[best].why)
}
