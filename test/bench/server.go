package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

// startLimit is when a start counts as failed.
const startLimit = 5 * time.Minute

// server is a running gantry process.
type server struct {
	cmd     *exec.Cmd
	stderr  bytes.Buffer
	clients string // address
	web     string // address

	// From the fork: until /readyz said so, and until a first call succeeded.
	ready, called time.Duration
}

type serverOptions struct {
	dir    string
	args   []string
	env    []string
	prefix []string // a command that runs the binary
}

// start runs the binary on dir and waits until it answers.
func start(ctx context.Context, c config, o serverOptions) (*server, error) {
	s := &server{}
	args := append([]string{"serve", "--data", o.dir, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warn"}, o.args...)
	args = slices.Concat(o.prefix, []string{c.binary}, args)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(os.Environ(), o.env...)
	s.cmd.Stderr = &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	addrs := make(chan error, 1)
	go func() { addrs <- s.readAddrs(out) }()
	select {
	case err = <-addrs:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(startLimit):
		err = fmt.Errorf("no greeting within %v", startLimit)
	}
	if err == nil {
		err = s.await(ctx, begun)
	}
	if err != nil {
		s.kill()
		return nil, fmt.Errorf("%w\n%s", err, s.stderr.String())
	}
	return s, nil
}

// readAddrs takes the addresses from the greeting and discards what follows.
func (s *server) readAddrs(out io.Reader) error {
	lines := bufio.NewScanner(out)
	for s.clients == "" || s.web == "" {
		if !lines.Scan() {
			return fmt.Errorf("the server ended without a greeting")
		}
		name, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), " ")
		switch value = strings.TrimSpace(value); name {
		case "clients":
			s.clients = value
		case "http":
			s.web = strings.TrimSuffix(strings.TrimPrefix(value, "http://"), "/metrics")
		}
	}
	go io.Copy(io.Discard, out) // ends with the process
	return nil
}

func (s *server) await(ctx context.Context, begun time.Time) error {
	ctx, cancel := context.WithDeadline(ctx, begun.Add(startLimit))
	defer cancel()
	for {
		r, err := http.Get("http://" + s.web + "/readyz")
		if err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	s.ready = time.Since(begun)
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := gantryv1.NewManagementClient(conn).ListTopics(ctx, &gantryv1.ListTopicsRequest{}, grpc.WaitForReady(true)); err != nil {
		return err
	}
	s.called = time.Since(begun)
	return nil
}

func (s *server) dial() (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+s.clients,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
}

// stop drains the server, as an operator would, and wants exit code 0.
func (s *server) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	killer := time.AfterFunc(time.Minute, func() { s.cmd.Process.Kill() })
	defer killer.Stop()
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("after SIGTERM: %w\n%s", err, s.stderr.String())
	}
	return nil
}

// kill ends the server without a warning.
func (s *server) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// metric reads one sample without labels.
func (s *server) metric(name string) (float64, error) {
	r, err := http.Get("http://" + s.web + "/metrics")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	for lines.Scan() {
		if v, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			return strconv.ParseFloat(v, 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// profiled writes a CPU profile of the next so many seconds into dir, unless
// that is empty. The function it returns waits for its end.
func (s *server) profiled(dir, name string, length time.Duration) (wait func() error) {
	if dir == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", s.web, max(1, int(length.Seconds())-1))
		r, err := http.Get(url)
		if err != nil {
			done <- err
			return
		}
		defer r.Body.Close()
		raw, err := io.ReadAll(r.Body)
		if err == nil && r.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s: %s", url, r.Status, raw)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, strings.NewReplacer(" ", "-", ",", "").Replace(name)+".pprof"), raw, 0o644)
		}
		done <- err
	}()
	return func() error { return <-done }
}
