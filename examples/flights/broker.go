package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"
)

// A broker is a gantry server that this program runs itself.
type broker struct {
	path, data, listen, http string
	cmd                      *exec.Cmd
}

// start runs `gantry serve` and returns once it answers.
func (b *broker) start() error {
	log, err := os.OpenFile(filepath.Join(b.data, "serve.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	b.cmd = exec.Command(b.path, "serve", "--data", filepath.Join(b.data, "broker"), "--listen", b.listen, "--http", b.http)
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if conn, err := net.Dial("tcp", b.listen); err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("gantry does not listen on %s; see %s", b.listen, log.Name())
}

// kill ends the server with SIGKILL.
func (b *broker) kill() {
	b.cmd.Process.Kill()
	b.cmd.Wait()
}

// An outage is the times at which the broker was killed.
type outage struct {
	mu    sync.Mutex
	kills []time.Time
}

func (o *outage) begin() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kills = append(o.kills, time.Now())
}

// since says whether the broker was killed after t.
func (o *outage) since(t time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range o.kills {
		if k.After(t) {
			return true
		}
	}
	return false
}

// killWhen kills the broker and starts it again, once condition holds.
func (b *broker) killWhen(ctx context.Context, o *outage, condition func() bool) error {
	for !condition() {
		if pause(ctx, 10*time.Millisecond); ctx.Err() != nil {
			return nil
		}
	}
	o.begin()
	b.kill()
	begun := time.Now()
	err := b.start()
	fmt.Printf("killed with SIGKILL; listening again %v later\n", time.Since(begun).Round(time.Millisecond))
	return err
}

// freeAddress picks a port that is free now, below those of outgoing connections, which
// could take it while the broker is down.
func freeAddress() (string, error) {
	for range 100 {
		addr := fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(10_000))
		if l, err := net.Listen("tcp", addr); err == nil {
			return addr, l.Close()
		}
	}
	return "", errors.New("no free port was found")
}
