package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// documents are all texts that tell people what to type.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
	for _, pattern := range []string{"../../*.md", "../../docs/*.md", "../../examples/*/*.md"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			raw, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			texts[strings.TrimPrefix(name, "../../")] = string(raw)
		}
	}
	return texts
}

// words splits a command line as a shell would, as far as documents need it.
func words(line string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`'([^']*)'|"([^"]*)"|(\S+)`).FindAllStringSubmatch(line, -1) {
		if m[3] == ">" || m[3] == "|" {
			break // what follows is the shell's
		}
		out = append(out, m[1]+m[2]+m[3])
	}
	return out
}

func TestCommandsInDocumentsRun(t *testing.T) {
	s := serveAuth(t, t.TempDir()) // what an administrator may do, is done with users too
	ran := 0
	for name, text := range documents(t) {
		for _, m := range regexp.MustCompile(`(?m)^\$ (?:go run \./cmd/)?gantry (.+)$`).FindAllStringSubmatch(text, -1) {
			args := words(m[1])
			switch args[0] {
			case "serve": // runs for ever: the greeting's own test has it
				args = append([]string{"config", "show"}, args[1:]...)
			case "config":
				if args[1] != "show" { // which asks no broker
					args = append(args, "--server", s.server)
				}
			case "demo": // has a test of its own
				continue
			default:
				args = append(args, "--server", s.server)
			}
			ran++
			if code, _, errOut := cli(t, args...); code != 0 {
				t.Errorf("%s: gantry %s: exit %d: %s", name, m[1], code, errOut)
			}
		}
	}
	if ran < 5 {
		t.Fatalf("%d commands were found", ran)
	}
}

// flagsBelow are the flags of a command and of those below it.
func flagsBelow(cmd *cobra.Command) (names []string) {
	cmd.InitDefaultHelpFlag()
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	for _, c := range cmd.Commands() {
		names = append(names, flagsBelow(c)...)
	}
	return names
}

// The table of commands in README: each is one that there is, with the flags that are
// told of it.
func TestCommandsAndFlagsInTheTableExist(t *testing.T) {
	readme := documents(t)["README.md"]
	rows := regexp.MustCompile("(?m)^\\| `gantry ([^`]+)` \\|(.*)$").FindAllStringSubmatch(readme, -1)
	if len(rows) < 15 {
		t.Fatalf("%d rows", len(rows))
	}
	told := map[string]bool{}
	for _, row := range rows {
		path := strings.Fields(strings.ReplaceAll(row[1], `\|`, "|"))
		root := newRoot()
		root.InitDefaultCompletionCmd()
		cmd := root
		for _, word := range path {
			if strings.ToUpper(word) == word || strings.HasPrefix(word, "-") || strings.HasPrefix(word, "[") {
				break // an argument
			}
			var next *cobra.Command
			for _, name := range strings.Split(word, "|") {
				found, _, err := cmd.Find([]string{name})
				if err != nil || found == cmd {
					t.Errorf("gantry %s: there is no %q", row[1], name)
					continue
				}
				next = found
			}
			if next == nil {
				break
			}
			if cmd == root {
				told[next.Name()] = true
			}
			if strings.Contains(word, "|") {
				break
			}
			cmd = next
		}
		known := flagsBelow(cmd)
		for _, flag := range regexp.MustCompile(`--([a-z][a-z-]+)`).FindAllStringSubmatch(row[0], -1) {
			if !slices.Contains(known, flag[1]) {
				t.Errorf("gantry %s: there is no flag %s", row[1], flag[0])
			}
		}
	}
	for _, c := range newRoot().Commands() {
		if !told[c.Name()] && !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			t.Errorf("the table does not tell of gantry %s", c.Name())
		}
	}
}

// Examples in the help of commands: each parses, with the flags it shows.
func TestExamplesInHelpParse(t *testing.T) {
	var visit func(*cobra.Command)
	seen := 0
	visit = func(cmd *cobra.Command) {
		for line := range strings.Lines(cmd.Example) {
			args := words(strings.TrimSpace(line))
			if len(args) == 0 || args[0] != "gantry" {
				continue
			}
			seen++
			root := newRoot()
			found, rest, err := root.Find(args[1:])
			if err != nil || found.CommandPath() != cmd.CommandPath() {
				t.Errorf("%s: leads to %v, %v", line, found.CommandPath(), err)
				continue
			}
			if err := found.ParseFlags(rest); err != nil {
				t.Errorf("%s: %v", line, err)
			} else if err := found.ValidateArgs(found.Flags().Args()); err != nil {
				t.Errorf("%s: %v", line, err)
			}
		}
		for _, c := range cmd.Commands() {
			visit(c)
		}
	}
	visit(newRoot())
	if seen < 15 {
		t.Fatalf("%d examples", seen)
	}
}

// The commands for people who know mqadmin: those that need no cluster and no client of
// their own run, in order; the others are commands with flags that there are.
func TestCommandsForMqadminRun(t *testing.T) {
	s := serveAuth(t, t.TempDir())
	var sent []sentView
	for _, args := range []string{"topic create orders --queues 1", "topic create scratch", "group create scratch", "group create audit", "user create shop", "send orders first"} {
		out := s.run(t, append(strings.Fields(args), "--json")...)
		if strings.HasPrefix(args, "send") {
			sent = append(sent, sentView{})
			if err := json.Unmarshal([]byte(out), &sent[0]); err != nil {
				t.Fatal(err)
			}
		}
	}
	// What the table makes anew is there already; the other way round nothing works.
	again := map[string]string{"topic create orders": "topic create orders-2", "user create shop": "user create shop-2"}
	s.run(t, "acl", "grant", "--user", "shop", "--topic", "first", "--action", "sub") // policy 1
	rows := regexp.MustCompile("(?m)^\\| [^`|]+ \\| `gantry ([^`]+)` \\|$").FindAllStringSubmatch(documents(t)["docs/migrate-from-rocketmq.md"], -1)
	if len(rows) < 40 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		line := strings.ReplaceAll(row[1], "ID", sent[0].ID)
		for from, to := range again {
			line = strings.Replace(line, from, to, 1)
		}
		args := words(line)
		if args[0] == "cluster" || args[0] == "serve" || args[1] == "stack" {
			root := newRoot()
			found, rest, err := root.Find(args)
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil {
				err = found.ValidateArgs(found.Flags().Args())
			}
			if err != nil || found == root {
				t.Errorf("gantry %s: %v", row[1], err)
			}
			continue
		}
		if args[0] != "config" || args[1] != "show" {
			args = append(args, "--server", s.server)
		}
		if code, _, errOut := cli(t, args...); code != 0 {
			t.Errorf("gantry %s: exit %d: %s", row[1], code, errOut)
		}
		if strings.HasPrefix(row[1], "group create billing") { // it consumes, so that the rest means something
			s.run(t, "receive", "orders", "--group", "billing")
		}
	}
}
