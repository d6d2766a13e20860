package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/api"
	"github.com/gantry-mq/gantry/broker"
)

func newDemo() *cobra.Command {
	var stay bool
	cmd := &cobra.Command{
		Use: "demo", Short: "Take a tour: a shop's orders through a broker in this process",
		Long: `Take a tour of a few seconds. A broker runs in this process, with its data in a
temporary directory, and a small shop uses it over gRPC as any client would: orders in
transactions, a delayed payment timeout that is recalled when the order is paid, SQL
filters, order per customer, and a dead letter that is repaired. Every step checks what
it sees.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&stay, "stay", false, "keep the broker and its messages to look at, until Ctrl-C")
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) (err error) {
		dir, err := os.MkdirTemp("", "gantry-demo-")
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
		d := &demo{out: cmd.OutOrStdout(), styled: isTerminal(cmd.OutOrStdout()), dir: dir, begun: time.Now()}
		ctx, cancel := context.WithTimeout(cmd.Context(), demoPatience)
		defer cancel()
		return d.withBroker(ctx, cmd.ErrOrStderr(), func() error {
			err := d.tour(ctx)
			switch {
			case cmd.Context().Err() != nil:
				return errors.New("interrupted")
			case err != nil:
				return err
			case !stay:
				d.say("To look around in it, keep it: %s demo --stay", invocation())
				return nil
			}
			d.say("\nThe broker stays until Ctrl-C. In another terminal:\n\n  export %s=%s\n  %s message list orders\n", serverEnv, d.server, invocation())
			<-cmd.Context().Done()
			return nil
		})
	})
	return cmd
}

// demoPatience bounds the tour, which takes a tenth of it.
const demoPatience = 2 * time.Minute

// demo tells the tour.
type demo struct {
	styled bool
	dir    string // of the broker's data
	server string
	begun  time.Time

	mu  sync.Mutex
	out io.Writer
}

// withBroker runs f beside a broker.
func (d *demo) withBroker(ctx context.Context, errOut io.Writer, f func() error) error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	d.server = l.Addr().String()
	logger := slog.New(slog.NewTextHandler(errOut, &slog.HandlerOptions{Level: slog.LevelError}))
	b, err := broker.Open(ctx, broker.Options{
		Dir: d.dir, SegmentSize: 4 << 20, AutoCreateGroups: true, TransactionCheckAfter: checkAfter, Logger: logger,
	})
	if err != nil {
		return errors.Join(err, l.Close())
	}
	server := api.New(b, api.Options{Logger: logger, DataDir: d.dir})
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	err = f()
	down, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	return errors.Join(err, server.Shutdown(down), <-served, b.Close())
}

func (d *demo) say(format string, args ...any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, format+"\n", args...)
}

// step begins a part of the tour.
func (d *demo) step(title, text string) {
	if d.styled {
		title = "\x1b[1m" + title + "\x1b[0m"
	}
	d.say("\n%s\n\n%s\n", title, text)
}

// event tells what happened just now.
func (d *demo) event(format string, args ...any) {
	d.say("  %5.2f s  %s", time.Since(d.begun).Seconds(), fmt.Sprintf(format, args...))
}

// command runs a command of gantry's and shows both.
func (d *demo) command(ctx context.Context, args ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintf(d.out, "  $ gantry %s\n", strings.Join(args, " "))
	var out, errOut bytes.Buffer
	if code := execute(ctx, append(args, "--server", d.server), nil, &out, &errOut); code != 0 {
		return fmt.Errorf("gantry %s: exit %d: %s", strings.Join(args, " "), code, errOut.String())
	}
	for line := range strings.Lines(out.String()) {
		fmt.Fprintln(d.out, strings.TrimRight("  "+line, " \n"))
	}
	fmt.Fprintln(d.out)
	return nil
}

// copies counts how often a body is in the log.
func (d *demo) copies(body string) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(d.dir, "commitlog", "*.log"))
	for _, f := range files {
		b, readErr := os.ReadFile(f)
		n += bytes.Count(b, []byte(body))
		err = errors.Join(err, readErr)
	}
	return n, err
}
