package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every flag of `gantry serve` is a setting that may come from three places more.
// What is nearer to the person who starts the broker wins:
//
//	flag           --retention-age 72h
//	environment    GANTRY_SERVE_RETENTION_AGE=72h
//	file           retention-age: 72h            (--config FILE, YAML)
//	default
//
// A name that is no setting is an error in each of them: a mistyped retention must
// not be found out by a full disk.
const settingEnv = "GANTRY_SERVE_"

const configFlag = "config"

// notSettings are flags that say what a command does, not how a broker runs.
var notSettings = []string{configFlag, "help", "json"}

// setting is one of them, in JSON too.
type setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from"`
}

func addConfigFlag(flags *pflag.FlagSet) {
	flags.String(configFlag, "", "YAML `FILE` with settings: the names of these flags, one a line (environment: "+settingEnv+"CONFIG)")
}

// loadSettings gives the flags that were not given on the command line what the
// environment and the file say, and returns where all of them are from. environ is
// as os.Environ returns it.
func loadSettings(flags *pflag.FlagSet, environ []string) ([]setting, error) {
	from := map[string]string{}
	flags.Visit(func(f *pflag.Flag) { from[f.Name] = "flag --" + f.Name })
	inEnv, err := envSettings(flags, environ)
	if err != nil {
		return nil, err
	}
	file := flags.Lookup(configFlag).Value.String()
	if from[configFlag] == "" {
		file = inEnv[configFlag]
	}
	delete(inEnv, configFlag)
	for name, value := range inEnv {
		if from[name] != "" {
			continue
		}
		if err := flags.Set(name, value); err != nil {
			return nil, usageErrorf("%s%s=%q: %s", settingEnv, envName(name), value, cause(err))
		}
		from[name] = "environment " + settingEnv + envName(name)
	}
	if file != "" {
		if err := fileSettings(flags, file, from); err != nil {
			return nil, err
		}
	}
	var all []setting
	flags.VisitAll(func(f *pflag.Flag) {
		if isSetting(f) {
			where := from[f.Name]
			if where == "" {
				where = "default"
			}
			all = append(all, setting{f.Name, f.Value.String(), where})
		}
	})
	return all, nil
}

func isSetting(f *pflag.Flag) bool { return !slices.Contains(notSettings, f.Name) }

func envName(flag string) string { return strings.ToUpper(strings.ReplaceAll(flag, "-", "_")) }

// envSettings returns the settings in the environment, and the name of the file.
func envSettings(flags *pflag.FlagSet, environ []string) (map[string]string, error) {
	known := map[string]string{envName(configFlag): configFlag}
	flags.VisitAll(func(f *pflag.Flag) {
		if isSetting(f) {
			known[envName(f.Name)] = f.Name
		}
	})
	values := map[string]string{}
	for _, kv := range environ {
		key, value, _ := strings.Cut(kv, "=")
		key, ours := strings.CutPrefix(key, settingEnv)
		if !ours {
			continue
		}
		name, ok := known[key]
		if !ok {
			return nil, usageErrorf("%s%s in the environment is no setting%s", settingEnv, key, didYouMean(key, known, settingEnv))
		}
		values[name] = value
	}
	return values, nil
}

// fileSettings reads a mapping of names to plain values.
func fileSettings(flags *pflag.FlagSet, name string, from map[string]string) error {
	raw, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	doc, err := parser.ParseBytes(raw, 0)
	if err != nil {
		return usageErrorf("%s: %s", name, cause(err))
	}
	names := map[string]string{}
	flags.VisitAll(func(f *pflag.Flag) {
		if isSetting(f) {
			names[f.Name] = f.Name
		}
	})
	seen := map[string]bool{}
	for _, d := range doc.Docs {
		pairs, ok := pairsOf(d.Body)
		if !ok {
			return usageErrorf("%s: want lines like\n  retention-age: 72h", name)
		}
		for _, pair := range pairs {
			key, line := pair.Key.String(), pair.Key.GetToken().Position.Line
			switch {
			case names[key] == "":
				return usageErrorf("%s:%d: %q is no setting%s", name, line, key, didYouMean(key, names, ""))
			case seen[key]:
				return usageErrorf("%s:%d: %s is there twice", name, line, key)
			}
			seen[key] = true
			value, err := plainValue(pair.Value)
			if err != nil {
				return usageErrorf("%s:%d: %s: %s", name, line, key, err)
			}
			if from[key] != "" {
				continue
			}
			if err := flags.Set(key, value); err != nil {
				return usageErrorf("%s:%d: %s", name, line, cause(err))
			}
			from[key] = fmt.Sprintf("file %s:%d", name, line)
		}
	}
	return nil
}

// pairsOf returns the lines of a mapping; a document without one is empty.
func pairsOf(n ast.Node) (pairs []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	case nil, *ast.CommentGroupNode:
		return nil, true
	}
	return nil, false
}

func plainValue(n ast.Node) (string, error) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, nil
	case *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode:
		return n.GetToken().Value, nil
	case *ast.SequenceNode: // of a flag that may be repeated
		var values []string
		for _, item := range n.Values {
			v, err := plainValue(item)
			if err != nil {
				return "", err
			}
			values = append(values, v)
		}
		return strings.Join(values, ","), nil
	case *ast.NullNode:
		return "", errors.New("there is no value")
	}
	return "", errors.New("want one plain value")
}

// cause is the first line of what is wrong, as text: libraries add pictures, and say what
// was written as it was (package time a DEL).
func cause(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return unicode.ReplacementChar
		}
		return r
	}, first)
}

// didYouMean is the known name nearest to what was written, if it is near.
func didYouMean(written string, known map[string]string, prefix string) string {
	best, distance := "", 4
	for _, k := range slices.Sorted(maps.Keys(known)) {
		if d := editDistance(written, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s%s?", prefix, best)
}

// editDistance counts the letters to change, add or leave out to make b of a.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func newConfig() *cobra.Command {
	return parent("config", "See the settings a broker would run with, change its log levels", newConfigShow(), newConfigLogLevel())
}

func newConfigShow() *cobra.Command {
	f := newServeFlags()
	asJSON := false
	cmd := &cobra.Command{
		Use: "show", Short: "Show each setting of `gantry serve` and where its value is from",
		Long: `Show each setting of gantry serve and where its value is from: a flag, the
environment, a file, or the default. It takes the same flags, reads the same
environment (GANTRY_SERVE_...) and the same file, and refuses what serve refuses, so
that a file can be tried before a restart.`,
		Example: "  gantry config show --config /etc/gantry/gantry.yaml",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.RunE = run(func(cmd *cobra.Command, _ []string) error {
		all, err := loadSettings(cmd.Flags(), os.Environ())
		if err != nil {
			return err
		}
		if err := f.check(); err != nil {
			return err
		}
		if asJSON {
			return printJSON(cmd.OutOrStdout(), all)
		}
		var rows [][]string
		for _, s := range all {
			rows = append(rows, []string{s.Name, s.Value, s.From})
		}
		return printTable(cmd.OutOrStdout(), []string{"SETTING", "VALUE", "FROM"}, rows)
	})
	return cmd
}
