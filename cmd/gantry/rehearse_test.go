package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// procedure returns the commands of a section of docs/operations.md, one block after the
// other.
func procedure(t *testing.T, section string) (blocks []string) {
	t.Helper()
	_, text, found := strings.Cut(read(t, "../../docs/operations.md"), "\n## "+section+"\n")
	if !found {
		t.Fatalf("docs/operations.md has no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	for _, m := range regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// machine is one on which the commands of the documents run as they stand but for their
// paths: gantry is this binary, and systemctl starts and stops it.
type machine struct {
	dir, server string
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	h := &machine{dir: t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"bin", "sbin", "data", "backups"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, script := range map[string]string{
		"sbin/gantry": `[ ! -e "$HOST/address" ] || export GANTRY_SERVER=$(cat "$HOST/address"); exec env ` + asMain + `=1 ` + self + ` "$@"`,
		"sbin/systemctl": `case $1 in
start)
  : > "$HOST/greeting" # or the one before would be read, by chance
  env ` + asMain + `=1 ` + self + ` serve --data "$HOST/data" --listen 127.0.0.1:0 --http 127.0.0.1:0 --segment-size 4MiB --log-level error > "$HOST/greeting" 2>> "$HOST/errors" &
  echo $! > "$HOST/pid"
  until grep -q '^ready' "$HOST/greeting"; do kill -0 $! || exit 1; sleep 0.02; done
  awk '$1 == "clients" { print $2 }' "$HOST/greeting" > "$HOST/address" ;;
stop)
  kill "$(cat "$HOST/pid")"
  while kill -0 "$(cat "$HOST/pid")" 2> /dev/null; do sleep 0.02; done
  rm "$HOST/pid" "$HOST/address" ;;
esac`,
	} {
		if err := os.WriteFile(filepath.Join(h.dir, name), []byte("#!/bin/sh\nset -e\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, err := os.Stat(filepath.Join(h.dir, "pid")); err == nil {
			h.run(t, "systemctl stop gantry")
		}
	})
	return h
}

// run runs commands of a document.
func (h *machine) run(t *testing.T, commands string) string {
	t.Helper()
	for from, to := range map[string]string{"/var/lib/gantry": "data", "/var/backups": "backups", "/usr/local/bin": "bin"} {
		commands = strings.ReplaceAll(commands, from, filepath.Join(h.dir, to))
	}
	cmd := exec.Command("bash", "-euc", commands)
	cmd.Dir = h.dir
	cmd.Env = append(os.Environ(), "HOST="+h.dir, "PATH="+filepath.Join(h.dir, "sbin")+":"+os.Getenv("PATH"))
	cmd.WaitDelay = time.Second // a broker that it started has its output
	var errOut strings.Builder
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		errs, _ := os.ReadFile(filepath.Join(h.dir, "errors"))
		t.Fatalf("%s\n%v\n%s%s%s", commands, err, out, errOut.String(), errs)
	}
	return string(out)
}

func TestUpgradeBackupAndRestoreAsDocumented(t *testing.T) {
	blocks := procedure(t, "Back up and restore")
	h := newMachine(t)
	h.run(t, `systemctl start gantry
gantry topic create orders --queues 1
gantry send orders one two three --key k
gantry topic create later --type delay
gantry send later soon --delay 1h
gantry receive orders --group g
printf '#!/bin/sh\n' > gantry`) // the new binary, as far as install sees
	// doctor may find fault with the host that runs the test; that is no failure here.
	h.run(t, strings.Replace(procedure(t, "Upgrade")[0], "gantry doctor", "gantry doctor || true", 1))
	h.run(t, blocks[0])
	h.run(t, "gantry topic delete orders") // by mistake
	h.run(t, blocks[1])
	if out := h.run(t, "gantry receive orders --group g --count 2"); out != "orders/0/1 key=k  two\norders/0/2 key=k  three\n" {
		t.Errorf("after the restore the group is handed\n%s", out)
	}
	if out := h.run(t, "gantry timer list later"); strings.Count(out, "\n") != 2 { // a head and one timer
		t.Errorf("timers\n%s", out)
	}
}

// rehearsal is a cluster for a procedure of the operations.
type rehearsal struct {
	t      *testing.T
	nodes  map[string]*serving
	leader *serving
	peer   string // the leader's
}

// newRehearsal starts three nodes, of which n1 leads.
func newRehearsal(t *testing.T) *rehearsal {
	r := &rehearsal{t: t, nodes: map[string]*serving{}}
	r.start("--node", "n1", "--bootstrap")
	r.leader = r.nodes["n1"]
	r.voters(1)
	r.start("--node", "n2", "--join", r.peer)
	r.start("--node", "n3", "--join", r.peer)
	r.voters(3)
	return r
}

func (r *rehearsal) start(args ...string) {
	r.nodes[args[1]] = serve(r.t, r.t.TempDir(), append(args, "--peer", "127.0.0.1:0")...)
}

// voters waits until there are so many nodes, all of them count, and none is behind.
func (r *rehearsal) voters(want int) {
	r.t.Helper()
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		views := decoded[[]nodeView](r.t, r.leader, "cluster", "status")
		n := 0
		for _, v := range views {
			if v.Role == "leader" || v.Role == "follower" && v.Error == "" && v.Lag == 0 {
				n++
			}
			if v.Role == "leader" {
				r.peer = v.Peer
			}
		}
		if n == want && len(views) == want {
			return
		}
		if time.Now().After(until) {
			r.t.Fatalf("%d nodes that count, want %d: %+v", n, want, views)
		}
	}
}

// follow does what a procedure says, line by line.
func (r *rehearsal) follow(heading string) {
	r.t.Helper()
	for line := range strings.Lines(procedure(r.t, heading)[0]) {
		args := words(strings.TrimSpace(line))[1:]
		if args[0] != "serve" {
			r.leader.run(r.t, args...)
			continue
		}
		args = strings.Fields(strings.Replace(strings.Join(args[1:], " "), "127.0.0.1:8083", r.peer, 1))
		r.start(args[:len(args)-2]...) // --data is the test's
	}
}

func TestReplaceANodeAsDocumented(t *testing.T) {
	r := newRehearsal(t)
	r.leader.run(t, "topic", "create", "orders", "--queues", "1")
	r.leader.run(t, "send", "orders", "before")
	r.nodes["n3"].stop() // its disk is lost
	r.follow("Replace a node")
	r.voters(3)
	r.leader.run(t, "send", "orders", "after")
	r.leader.run(t, "cluster", "digest")
	if out := r.leader.run(t, "receive", "orders", "--group", "g", "--count", "2"); out != "orders/0/0  before\norders/0/1  after\n" {
		t.Error(out)
	}
}

func TestAddNodesAsDocumented(t *testing.T) {
	r := newRehearsal(t)
	r.leader.run(t, "topic", "create", "orders", "--queues", "1")
	r.leader.run(t, "send", "orders", "before")
	r.follow("Add nodes")
	r.voters(5)
	r.leader.run(t, "cluster", "digest")
	if code, _, errOut := cli(t, "cluster", "promote", "n9", "--server", r.leader.server); code != exitFailed || !strings.Contains(errOut, "n9") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	r.start("--node", "n6", "--join", r.peer, "--learner")
	for until := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if v := decoded[[]nodeView](t, r.leader, "cluster", "status"); v[len(v)-1].Name == "n6" && v[len(v)-1].Role == "learner" {
			break
		} else if time.Now().After(until) {
			t.Fatalf("n6 is no learner: %+v", v)
		}
	}
	if code, out, errOut := cli(t, "cluster", "add", "n6", "--wait", "1s", "--server", r.leader.server); code != exitFailed || out != "n6 has joined, and does not count yet\n" {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}
