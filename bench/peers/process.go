package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gantry-mq/gantry/test/bench/meter"
)

// process is one that this program started; what it prints goes to a file.
type process struct {
	cmd   *exec.Cmd
	log   string
	ended chan struct{} // closed when err is set
	err   error
}

// launch starts argv in dir. The process ends with this program, however that
// ends.
func launch(dir, name string, env []string, argv ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, name+".log"), ended: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p.cmd = command(dir, env, argv...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	return p, p.start()
}

func command(dir string, env []string, argv ...string) *exec.Cmd {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (p *process) start() error {
	if err := p.cmd.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return nil
}

// stop asks the process to end, as an operator would, and kills it if that takes
// longer than a minute.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(time.Minute):
		p.cmd.Process.Kill()
		<-p.ended
	}
}

// stopAll stops all at once: one of a cluster may wait for the others.
func stopAll(all []*process) {
	var stopped sync.WaitGroup
	for _, p := range all {
		stopped.Go(p.stop)
	}
	stopped.Wait()
}

// tail is the end of what the process printed.
func (p *process) tail() string { return tail(p.log) }

func tail(file string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		f.Seek(max(0, size-4000), io.SeekStart)
	}
	b, _ := io.ReadAll(f)
	return string(b)
}

// await calls ready until it succeeds, the process ends, or five minutes have
// passed: a JVM on two busy cores takes its time.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %v\n%s", p.cmd.Path, p.err, p.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w\n%s", p.cmd.Path, err, p.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// runTool runs argv to its end and returns what it printed on standard output.
func runTool(ctx context.Context, dir string, env []string, argv ...string) (string, error) {
	cmd := command(dir, env, argv...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	if err := cmd.Wait(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s%s", strings.Join(argv, " "), errors.Join(err, ctx.Err()), stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

// usage is what some processes have used and hold together.
type usage struct {
	cpu       time.Duration
	rss, anon int64
	written   int64 // bytes, to the disk
}

func usageOf(processes []*process) (usage, error) {
	var u usage
	for _, p := range processes {
		pid := p.cmd.Process.Pid
		cpu, err1 := meter.CPU(pid)
		rss, anon, err2 := meter.Memory(pid)
		written, err3 := meter.Written(pid)
		if err := errors.Join(err1, err2, err3); err != nil {
			return usage{}, err
		}
		u = usage{u.cpu + cpu, u.rss + rss, u.anon + anon, u.written + written}
	}
	return u, nil
}
