package archtest

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

func TestImportsObeyTheTable(t *testing.T) {
	type pkg struct {
		ImportPath                         string
		CgoFiles                           []string
		Imports, TestImports, XTestImports []string
	}
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,CgoFiles,Imports,TestImports,XTestImports", module+"/...")
	cmd.Stderr = t.Output()
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; seen++ {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, f := range p.CgoFiles {
			t.Errorf("%s/%s uses cgo: the module builds without it", from, f)
		}
		for _, i := range p.Imports {
			if err := check(from, i, false); err != nil {
				t.Errorf("%s imports %s: %v", from, i, err)
			}
		}
		for _, i := range append(p.TestImports, p.XTestImports...) {
			if err := check(from, i, true); err != nil {
				t.Errorf("tests of %s import %s: %v", from, i, err)
			}
		}
	}
	if seen == 0 {
		t.Fatal("go list named no package")
	}
}

func TestEachRuleFires(t *testing.T) {
	own := func(p string) string { return module + "/" + p }
	for _, c := range []struct {
		name, from, imported string
		fromTest             bool
		broken               string // part of the rule; "" = allowed
	}{
		{"standard library", "commitlog", "net/http", false, ""},
		{"parent to child", "commitlog", own("commitlog/record"), false, ""},
		{"broker to child", "broker", own("broker/inflight"), false, ""},
		{"child to storage", "broker/inflight", own("commitlog"), false, ""},
		{"cmd to anything", "cmd/gantry", own("commitlog"), false, ""},
		{"metrics to broker", "broker/metrics", own("broker"), false, ""},
		{"api to record", "api", own("commitlog/record"), false, ""},
		{"api to its child", "api", own("api/admin"), false, ""},
		{"helper in a test", "broker", own("internal/brokertest"), true, ""},
		{"helper imports broker", "internal/brokertest", own("broker"), false, ""},
		{"cgo", "filter", "C", false, "CGO"},
		{"sibling", "broker/inflight", own("broker/topic"), false, "siblings"},
		{"child to parent", "broker/inflight", own("broker"), false, "child never"},
		{"storage to broker", "commitlog", own("broker"), false, "point down"},
		{"storage to storage", "consumequeue", own("commitlog"), false, "only commitlog, broker"},
		{"record to the log", "commitlog/record", own("commitlog"), false, "child never"},
		{"broker to api", "broker", own("api"), false, "point down"},
		{"api to the log", "api", own("commitlog"), false, "does not touch the log"},
		{"grpc in storage", "commitlog", "google.golang.org/grpc/codes", false, "never heard of gRPC"},
		{"protobuf in broker", "broker/session", "google.golang.org/protobuf/proto", false, "never heard of protobuf"},
		{"wire types in broker", "broker", own("proto/rocketmqv2"), false, "stop at api"},
		{"wire types in a broker test", "broker", own("proto/rocketmqv2"), true, "stop at api"},
		{"system calls outside mmapfile", "commitlog", "golang.org/x/sys/unix", false, "in one package"},
		{"mmap outside mmapfile", "consumequeue", "github.com/edsrzf/mmap-go", false, "counted view"},
		{"prometheus in broker", "broker", "github.com/prometheus/client_golang/prometheus", false, "exported names"},
		{"spans in broker", "broker", "go.opentelemetry.io/otel/trace", false, "cmd's business"},
		{"raft below the replica", "broker/replica/peer", "github.com/hashicorp/raft", false, ""},
		{"raft in broker", "broker", "github.com/hashicorp/raft", false, "replicated"},
		{"unknown dependency", "broker", "example.com/leftpad", false, "not among"},
		{"helper in shipped code", "broker", own("internal/brokertest"), false, "tests only"},
		{"package without a layer", "surprise", own("filter"), false, "no layer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := check(c.from, c.imported, c.fromTest)
			switch {
			case c.broken == "" && err != nil:
				t.Fatalf("%s -> %s refused: %v", c.from, c.imported, err)
			case c.broken != "" && (err == nil || !strings.Contains(err.Error(), c.broken)):
				t.Fatalf("%s -> %s: %v, want a rule about %q", c.from, c.imported, err, c.broken)
			}
		})
	}
}
