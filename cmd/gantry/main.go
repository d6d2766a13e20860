// Command gantry is the broker and the tool to talk to it.
//
// `gantry serve` runs a broker. Every other command is a client of a running
// one, except `gantry log`, which reads a data directory.
//
// Exit codes: 0 done, 1 it failed, 2 it was asked wrongly.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	ctx, stop := untilSignal()
	code := execute(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// untilSignal returns a context that the first SIGINT or SIGTERM ends. A second
// one ends the process at once: whoever sends it has stopped being patient.
func untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-c
		cancel()
		<-c
		os.Exit(exitFailed)
	}()
	return ctx, cancel
}

// execute runs one command line and returns its exit code.
func execute(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	cmd, err := root.ExecuteContextC(ctx)
	var failed *failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &failed):
		fmt.Fprintf(errOut, "gantry: %s\n", clean(err.Error()))
		return exitFailed
	default:
		fmt.Fprintf(errOut, "gantry: %s\nRun '%s --help' for how to use it.\n", clean(err.Error()), cmd.CommandPath())
		return exitUsage
	}
}

func newRoot() *cobra.Command {
	root := parent("gantry", "A message broker for RocketMQ 5 clients, in one binary",
		newServe(), newConfig(), newDemo(), newTopic(), newGroup(), newUser(), newACL(), newQuota(), newNamespace(), newClient(), newDLQ(), newTxn(), newMessage(), newTimer(), newFilter(), newSend(), newReceive(),
		newWhy(), newTop(), newHealth(), newDoctor(), newCluster(), newCert(), newLog(), newBench(), newMan())
	root.Version = readBuild().String()
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetVersionTemplate("gantry {{.Version}}\n")
	// A command that is not there is told before the flags that it would have.
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 {
			return unknown(cmd, args[0])
		}
		return err
	})
	explainArgs(root)
	return root
}

// explainArgs makes the commands below answer a wrong number of arguments with the
// form they want.
func explainArgs(parent *cobra.Command) {
	for _, cmd := range parent.Commands() {
		explainArgs(cmd)
		fits := cmd.Args
		if fits == nil {
			continue
		}
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if fits(cmd, args) == nil {
				return nil
			}
			return fmt.Errorf("%s: want %s", count(len(args), "argument"), cmd.UseLine())
		}
	}
}

// failure marks an error of a command that was asked for correctly. Errors
// without the mark come from reading the command line.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usageErrorf is an error of the command line that only the command itself can
// find.
func usageErrorf(format string, args ...any) error {
	return &usageError{fmt.Errorf(format, args...)}
}

type usageError struct{ err error }

func (u *usageError) Error() string { return u.err.Error() }

type runFunc = func(*cobra.Command, []string) error

// run marks what f returns as failures, usage errors excepted.
func run(f runFunc) runFunc {
	return func(cmd *cobra.Command, args []string) error {
		err := f(cmd, args)
		var usage *usageError
		if err == nil || errors.As(err, &usage) {
			return err
		}
		return &failure{err}
	}
}

// parent is a command that only has children. Without this an unknown child
// would print help and exit 0, and a script would take that for success.
func parent(use, short string, children ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use:   use,
		Short: short,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknown(cmd, args[0])
		},
		Args:                       cobra.ArbitraryArgs, // or cobra itself answers for the root, in several lines
		SuggestionsMinimumDistance: 2,
	}
	cmd.AddCommand(children...)
	return cmd
}

func unknown(parent *cobra.Command, name string) error {
	hint := ""
	if like := parent.SuggestionsFor(name); len(like) > 0 {
		hint = ", did you mean " + strings.Join(like, " or ") + "?"
	}
	return usageErrorf("unknown command %q for %q%s", name, parent.CommandPath(), hint)
}

// build says what this binary was made from.
type build struct{ version, commit string }

// Set with -ldflags "-X main.linkedVersion=v1.2.3 -X main.linkedCommit=..." where the
// sources come without their history, as in an image's build.
var linkedVersion, linkedCommit string

// readBuild is what the linker was told, or else what the toolchain noted.
func readBuild() build {
	if linkedVersion != "" || linkedCommit != "" {
		return build{cmp.Or(linkedVersion, "(devel)"), linkedCommit}
	}
	b := build{version: "(devel)"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.version = info.Main.Version
	}
	modified := ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			b.commit = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			modified = "+modified"
		}
	}
	if b.commit != "" {
		b.commit += modified
	}
	return b
}

func (b build) String() string {
	s := b.version
	if b.commit != "" {
		s += " commit " + b.commit
	}
	return fmt.Sprintf("%s %s %s/%s", s, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
