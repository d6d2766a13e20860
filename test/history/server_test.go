package history

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	"github.com/gantry-mq/gantry/internal/freeaddr"
)

// startLimit is when a start counts as failed: generous, machines are shared.
const startLimit = 60 * time.Second

// build makes the server's binary.
func build(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "gantry")
	args := []string{"build", "-overlay", overlay(t), "-o", out}
	if *serverRace {
		args = append(args, "-race")
	}
	if text, err := exec.Command("go", append(args, "github.com/gantry-mq/gantry/cmd/gantry")...).CombinedOutput(); err != nil {
		t.Fatalf("build gantry: %v\n%s", err, text)
	}
	return out
}

// server is one data directory with a process on it, mostly. It belongs to one
// goroutine.
type server struct {
	binary, dir, addr, durability string
	args                          []string // of serve, besides

	cmd    *exec.Cmd     // nil = not running
	ready  chan error    // says once that the process serves, or that it never will
	ended  chan struct{} // the process has closed its output
	stderr *os.File
}

// newServer takes a free port, which all its processes listen on.
func newServer(t *testing.T, binary, durability string) *server {
	t.Helper()
	s := &server{binary: binary, dir: t.TempDir(), addr: freeaddr.Of(t, 1, 1)[0], durability: durability}
	var err error
	if s.stderr, err = os.Create(filepath.Join(t.TempDir(), "stderr")); err != nil {
		t.Fatal(err)
	}
	must(t, s.setClock(0))
	t.Cleanup(func() {
		s.kill()
		s.stderr.Close()
		if t.Failed() {
			t.Logf("the end of the server's log:\n%s", s.logTail())
		}
	})
	return s
}

func (s *server) data() string { return filepath.Join(s.dir, "data") }

// start begins a process and does not wait for it.
func (s *server) start() error {
	s.cmd = exec.Command(s.binary, "serve", "--data", s.data(), "--listen", s.addr, "--http", "127.0.0.1:0",
		"--durability", s.durability, "--segment-size", "4MiB", "--scrub-rate", "64MiB")
	s.cmd.Args = append(s.cmd.Args, s.args...)
	s.cmd.Env = append(os.Environ(), "GANTRY_TEST_CLOCK="+s.clockFile())
	s.cmd.Stderr = s.stderr
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // a test that times out runs no cleanup
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	s.ready, s.ended = make(chan error, 1), make(chan struct{})
	go func() {
		defer close(s.ended)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "ready in ") {
				s.ready <- nil
				io.Copy(io.Discard, out)
				return
			}
		}
		s.ready <- errors.New("the server ended before it was ready")
	}()
	return nil
}

// await waits until the process that was started serves.
func (s *server) await() error {
	select {
	case err := <-s.ready:
		return err
	case <-time.After(startLimit):
		return fmt.Errorf("the server is not ready after %v", startLimit)
	}
}

// kill ends the process, if there is one, without a warning. It is an error when
// the process had ended by itself.
func (s *server) kill() error {
	if s.cmd == nil {
		return nil
	}
	s.cmd.Process.Kill()
	err := s.wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the server ended before it was killed: %w", err)
}

func (s *server) wait() error {
	<-s.ended
	err := s.cmd.Wait()
	s.cmd = nil
	return err
}

// stop ends the process as an operator would, and wants that to go well.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	process := s.cmd.Process
	killer := time.AfterFunc(startLimit, func() { process.Kill() })
	defer killer.Stop()
	if err := s.wait(); err != nil {
		return fmt.Errorf("after SIGTERM: %w", err)
	}
	return nil
}

// check runs the operator's check of the log on the stopped server's directory.
func (s *server) check() error {
	if out, err := exec.Command(s.binary, "log", "check", s.data()).CombinedOutput(); err != nil {
		return fmt.Errorf("gantry log check: %w\n%s", err, out)
	}
	return nil
}

var (
	trouble = regexp.MustCompile(`level=ERROR|panic:|fatal error:|DATA RACE`)
	// expected is what faults have a server say as an error.
	expected = regexp.MustCompile(`msg="(this node was removed from the cluster|this node is damaged|this node is damaged, and for now it goes on as it is|damage was found|this node repairs itself at its next start|disk space is short, refusing messages|disk space is short: there is no room for an index, and nothing is answered until there is|no message will be taken: the disk is too small for the reserve, or full|commit log: no space for the next segment, refusing messages)"|error="replica: the disk hangs"|consumequeue: corrupt entry`)
)

// complaints returns what the server's processes logged that must not happen,
// however they were killed.
func (s *server) complaints() []string {
	text, err := os.ReadFile(s.stderr.Name())
	if err != nil {
		return []string{err.Error()}
	}
	var found []string
	for line := range bytes.Lines(text) {
		if trouble.Match(line) && !expected.Match(line) {
			found = append(found, string(line))
		}
	}
	return found
}

func (s *server) logTail() string {
	text, _ := os.ReadFile(s.stderr.Name())
	return string(text[max(0, len(text)-8000):])
}

// dial makes a connection that finds the server again quickly.
func (s *server) servers() []string { return []string{s.addr} }

func (s *server) dial(t *testing.T) *grpc.ClientConn { return dial(t, s.addr) }

// dial makes one to the first of some servers that is there.
func dial(t *testing.T, addrs ...string) *grpc.ClientConn {
	t.Helper()
	var all resolver.State
	for _, a := range addrs {
		all.Endpoints = append(all.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	r := manual.NewBuilderWithScheme("servers")
	r.InitialState(all)
	conn, err := grpc.NewClient("servers:///all", grpc.WithResolvers(r),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.5, Jitter: 0.5, MaxDelay: 100 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
