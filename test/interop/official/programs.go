// Package official runs the programs in ../clients, each of which drives the official RocketMQ client of a language, and records what they say.
package official

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Patience bounds every wait for something that should happen soon.
const Patience = 60 * time.Second

// Languages are those that there is a program for.
var Languages = []string{"go", "java", "python", "node"}

// Programs are ready to run.
type Programs struct {
	dir, work string
	started   atomic.Int32
	closing   sync.WaitGroup // told to stop; a graceful stop waits for the last long poll
}

// Prepare builds the programs in the folder dir that have to be built, after ../setup.sh has installed the clients. What they read and write is in the folder work.
func Prepare(dir, work string) (*Programs, error) {
	p := &Programs{dir: dir, work: work}
	cmd := exec.Command("go", "build", "-o", p.goProgram(), ".")
	cmd.Dir = filepath.Join(dir, "go")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build the Go client: %w\n%s", err, out)
	}
	return p, nil
}

func (p *Programs) goProgram() string { return filepath.Join(p.work, "goclient") }

// Wait returns when all programs have ended.
func (p *Programs) Wait() { p.closing.Wait() }

func (p *Programs) command(language, spec string) *exec.Cmd {
	in := func(file string) string { return filepath.Join(p.dir, file) }
	switch language {
	case "go":
		return exec.Command(p.goProgram(), spec)
	case "java":
		return exec.Command("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.home="+p.work, "-cp", in("java/target/classes")+":"+in("java/target/lib/*"),
			"interop.Client", spec)
	case "python":
		return exec.Command(in("python/.venv/bin/python"), in("python/client.py"), spec)
	case "node":
		return exec.Command("node", in("node/client.js"), spec)
	}
	panic(language)
}

// Start runs a program until the test ends or Stop. The client is given this endpoint.
func (p *Programs) Start(t *testing.T, endpoint, language string, roles ...Role) *Client {
	t.Helper()
	name := filepath.Join(p.work, fmt.Sprintf("%03d-%s", p.started.Add(1), language))
	data, err := json.MarshalIndent(map[string]any{"endpoint": endpoint, "roles": roles}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name+".json", data, 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Client{Language: language, ended: make(chan struct{}), changed: make(chan struct{})}
	cmd := p.command(language, name+".json")
	// Only the place of the clients' log files is changed.
	cmd.Env = append(os.Environ(), "HOME="+p.work, "rocketmq.client.logRoot="+p.work)
	cmd.Stderr = &locked{c}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	record, err := os.Create(name + ".events")
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the %s client (run setup.sh first?): %v", language, err)
	}
	c.input = in
	go func() {
		defer close(c.ended)
		c.read(io.TeeReader(out, record))
		cmd.Wait()
		record.Close()
	}()
	t.Cleanup(func() {
		c.Stop()
		if t.Failed() {
			t.Log(c.story())
		}
		p.closing.Go(func() {
			select {
			case <-c.ended:
			case <-time.After(Patience):
				cmd.Process.Kill()
				<-c.ended
			}
		})
	})
	return c
}

type locked struct{ c *Client }

func (l *locked) Write(p []byte) (int, error) {
	l.c.mu.Lock()
	defer l.c.mu.Unlock()
	return l.c.noise.Write(p)
}
