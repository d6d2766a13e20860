package main

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const deploy = "../../deploy/"

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

func TestBoardsAndAlertsNameMetricsThatExist(t *testing.T) {
	s := serve(t, t.TempDir(), "--node", "n1", "--bootstrap", "--peer", "127.0.0.1:0")
	s.run(t, "topic", "create", "t", "--queues", "1", "--type", "mixed")
	s.run(t, "send", "t", "x", "--count", "2")
	s.run(t, "send", "t", "later", "--delay", "1h")
	s.run(t, "receive", "t", "--group", "g")
	s.run(t, "group", "pause", "g")
	s.sendHalf(t, "t", "m-1", "undecided")
	r, err := http.Get(s.web + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	var exported []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z_0-9]+)[ {]`).FindAllStringSubmatch(string(raw), -1) {
		exported = append(exported, m[1])
	}
	named := regexp.MustCompile(`\b(?:gantry|rocketmq|process|go)_[a-z0-9_]+`)
	for _, file := range []string{"grafana/gantry.json", "prometheus/alerts.yaml"} {
		names := named.FindAllString(read(t, deploy+file), -1)
		if len(names) < 8 {
			t.Fatalf("%s names %d metrics", file, len(names))
		}
		for _, name := range names {
			if !slices.Contains(exported, name) {
				t.Errorf("%s: no broker exports %s", file, name)
			}
		}
	}
}

func TestBoardAndAlertsAreWellFormed(t *testing.T) {
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal([]byte(read(t, deploy+"grafana/gantry.json")), &board); err != nil {
		t.Fatal(err)
	}
	if len(board.Panels) < 10 {
		t.Errorf("%d panels", len(board.Panels))
	}
	for _, p := range board.Panels {
		if p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			if strings.Count(target.Expr, "(") != strings.Count(target.Expr, ")") || strings.Count(target.Expr, "{") != strings.Count(target.Expr, "}") {
				t.Errorf("panel %q: %s", p.Title, target.Expr)
			}
		}
	}
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.UnmarshalWithOptions([]byte(read(t, deploy+"prometheus/alerts.yaml")), &alerts); err != nil {
		t.Fatal(err)
	}
	for _, r := range alerts.Groups[0].Rules {
		if r.Alert == "" || r.Expr == "" || r.Annotations["summary"] == "" {
			t.Errorf("rule %+v says nothing", r)
		}
	}
}

// Who is woken by an alert finds what to do.
func TestEachAlertHasARunbook(t *testing.T) {
	book := read(t, "../../docs/operations.md")
	alerts := regexp.MustCompile(`(?m)- alert: (\w+)`).FindAllStringSubmatch(read(t, deploy+"prometheus/alerts.yaml"), -1)
	if len(alerts) == 0 {
		t.Fatal("no alerts")
	}
	for _, a := range alerts {
		if !strings.Contains(book, "\n### "+a[1]+"\n") {
			t.Errorf("docs/operations.md says nothing about %s", a[1])
		}
	}
}

// promtool runs the tests of the rules (make alerts); that each rule has one is seen here.
func TestEachAlertHasATest(t *testing.T) {
	tests := read(t, deploy+"prometheus/alerts_test.yml")
	for _, a := range regexp.MustCompile(`(?m)- alert: (\w+)`).FindAllStringSubmatch(read(t, deploy+"prometheus/alerts.yaml"), -1) {
		if !strings.Contains(tests, "alertname: "+a[1]+"\n") {
			t.Errorf("%s has no test", a[1])
		}
	}
}

// Each node of the compose file is taken by the broker, on ports of its own.
func TestComposedNodesAreTaken(t *testing.T) {
	var file struct {
		Services map[string]struct{ Environment map[string]string }
	}
	if err := yaml.Unmarshal([]byte(read(t, deploy+"compose/compose.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	taken := map[string]string{}
	for name, service := range file.Services {
		t.Run(name, func(t *testing.T) {
			for k, v := range service.Environment {
				t.Setenv(k, v)
			}
			got := settings(t)
			if got["node"].Value != name {
				t.Errorf("it is node %q", got["node"].Value)
			}
			for _, port := range []string{"listen", "http", "peer"} {
				if other := taken[got[port].Value]; other != "" {
					t.Errorf("%s has %s, too", other, got[port].Value)
				}
				taken[got[port].Value] = name
			}
		})
	}
	if len(taken) != 9 {
		t.Errorf("%d ports of three nodes", len(taken))
	}
}

// Those of the other compose file are on a network, so each has the same ports.
func TestComposedNodesOnANetworkAreTaken(t *testing.T) {
	var file struct {
		Services map[string]struct{ Environment map[string]string }
	}
	if err := yaml.Unmarshal([]byte(read(t, deploy+"compose/compose.mtls.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Services) != 3 {
		t.Fatalf("%d nodes", len(file.Services))
	}
	advertised := map[string]bool{}
	for name, service := range file.Services {
		t.Run(name, func(t *testing.T) {
			for k, v := range service.Environment {
				t.Setenv(k, v)
			}
			got := settings(t)
			if got["node"].Value != name || got["certs"].Value != "/certs" || got["peer-advertise"].Value != name+":8083" {
				t.Errorf("its settings are %+v", got)
			}
			advertised[got["advertise"].Value] = true
		})
	}
	if len(advertised) != 3 {
		t.Errorf("clients find them at %v", advertised)
	}
}

// Nobody gives a container's health check a user, nor where another port is.
func TestTheImageChecksItsHealth(t *testing.T) {
	check := regexp.MustCompile(`(?m)^HEALTHCHECK .*CMD (\[.*\])$`).FindStringSubmatch(read(t, deploy+"Dockerfile"))
	if check == nil {
		t.Fatal("the image has no health check")
	}
	var args []string
	if err := json.Unmarshal([]byte(check[1]), &args); err != nil || args[0] != "/gantry" {
		t.Fatal(check[1], err)
	}
	for _, flags := range [][]string{nil, {"--auth"}, {"--node", "n1", "--bootstrap", "--peer", "127.0.0.1:0"}} {
		s := serve(t, t.TempDir()+"/data", flags...)
		t.Setenv(serverEnv, s.server)
		ok(t, args[1:]...)
		s.stop()
		if code, _, errOut := cli(t, args[1:]...); code != exitFailed {
			t.Errorf("%v: of a broker that is gone: exit %d: %s", flags, code, errOut)
		}
	}
}

// What is shipped to start a broker must be taken by the broker.
func TestShippedSettingsAreTaken(t *testing.T) {
	ok(t, "config", "show", "--config", deploy+"gantry.yaml")

	unit := read(t, deploy+"systemd/gantry.service")
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/gantry serve (.*)$`).FindStringSubmatch(unit)
	if start == nil {
		t.Fatal("the unit starts nothing")
	}
	args := strings.Fields(strings.ReplaceAll(start[1], "/etc/gantry/", deploy))
	ok(t, append([]string{"config", "show"}, args...)...)
	if !strings.Contains(unit, "StateDirectory=gantry") || settings(t, args...)["data"].Value != "/var/lib/gantry" {
		t.Error("the unit's directory is not the one in gantry.yaml")
	}

	dockerfile := read(t, deploy+"Dockerfile")
	set := regexp.MustCompile(`(GANTRY_SERVE_[A-Z_]+)=(\S+)`).FindAllStringSubmatch(dockerfile, -1)
	if len(set) < 4 {
		t.Fatalf("the image sets %v", set)
	}
	for _, kv := range set {
		t.Setenv(kv[1], kv[2])
	}
	if got := settings(t); got["data"].Value != "/data" || got["listen"].From != "environment GANTRY_SERVE_LISTEN" {
		t.Errorf("in the image: %+v", got)
	}
}
