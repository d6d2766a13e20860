package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/filter"
	"github.com/gantry-mq/gantry/filter/sql92"
	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newFilter() *cobra.Command {
	return parent("filter", "Try filter expressions out", newFilterTest())
}

// filterView is what a filter would let through, in JSON.
type filterView struct {
	Looked   int64         `json:"looked"`
	Matched  int64         `json:"matched"`
	Unknown  int64         `json:"unknown"`
	Failed   int64         `json:"failed"`
	Examples []exampleView `json:"examples"`
}

type exampleView struct {
	ID         string            `json:"id"`
	Queue      uint32            `json:"queue"`
	Offset     int64             `json:"offset"`
	Stored     string            `json:"stored"`
	Tag        string            `json:"tag,omitempty"`
	Keys       []string          `json:"keys,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
}

func newFilterTest() *cobra.Command {
	var (
		topic          string
		last, examples int32
		sql, tags      bool
	)
	cmd := &cobra.Command{
		Use: "test EXPR --topic TOPIC", Short: "Count what a filter would let through of the last messages of a topic",
		Long: `Count what a filter would let through of the last messages of a topic, and show some
of them. Nothing is consumed. EXPR is an SQL92 expression over properties, or with
--tag a tag expression. Where an SQL92 expression does not compile, its error shows
the place.

A message that lacks a property which decides makes an expression neither true nor
false; a value that cannot be compared, as "ten" with 10 or "1.5" with 1, fails the
whole expression. Neither kind matches, also not under NOT; they are counted apart.`,
		Example: `  gantry filter test "price > 10 AND region = 'eu'" --topic orders
  gantry filter test 'paid || refunded' --tag --topic orders --last 10000`,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&topic, "topic", "", "the `TOPIC` (required)")
	cmd.Flags().Int32Var(&last, "last", 1000, "try it on so many messages, 1 to 100000")
	cmd.Flags().Int32Var(&examples, "examples", 5, "show so many that match, the newest, up to 100")
	cmd.Flags().BoolVar(&sql, "sql", false, "EXPR is SQL92 (default)")
	cmd.Flags().BoolVar(&tags, "tag", false, "EXPR is tags: 'A || B', or * for all")
	cmd.MarkFlagRequired("topic")
	cmd.MarkFlagsMutuallyExclusive("sql", "tag")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		if last < 1 {
			return usageErrorf("--last %d: want 1 to 100000", last)
		}
		if examples < 0 {
			return usageErrorf("--examples %d: want 0 to 100", examples)
		}
		req := &gantryv1.TestFilterRequest{Topic: topic, Namespace: c.namespace, Last: last, Examples: examples}
		var err error
		if tags {
			req.Expression = &gantryv1.TestFilterRequest_Tags{Tags: args[0]}
			_, err = filter.CompileTags(args[0])
		} else {
			req.Expression = &gantryv1.TestFilterRequest_Sql{Sql: args[0]}
			_, err = sql92.Compile(args[0])
		}
		if err != nil {
			return pointedOut(cmd, args[0], err)
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := gantryv1.NewFiltersClient(c.conn).Test(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		return printFilterTest(cmd, c, r)
	}))
}

// pointedOut shows where an expression is wrong, and returns what is.
func pointedOut(cmd *cobra.Command, expr string, err error) error {
	var at *sql92.Error
	if !errors.As(err, &at) {
		return err
	}
	line, column := lineAt(expr, at.Pos)
	fmt.Fprintf(cmd.ErrOrStderr(), "  %s\n  %s^\n", clean(line), strings.Repeat(" ", utf8.RuneCountInString(clean(line[:column]))))
	if strings.HasPrefix(expr[min(at.Pos, len(expr)):], "|") {
		return fmt.Errorf("%s; tags need --tag", at.Msg)
	}
	return errors.New(at.Msg)
}

// lineAt returns the line that has the byte at pos, and where in the line it is.
func lineAt(s string, pos int) (line string, column int) {
	pos = min(pos, len(s))
	start := strings.LastIndexByte(s[:pos], '\n') + 1
	line, _, _ = strings.Cut(s[start:], "\n")
	return line, pos - start
}

func printFilterTest(cmd *cobra.Command, c *client, r *gantryv1.TestFilterResponse) error {
	v := filterView{Looked: r.GetLooked(), Matched: r.GetMatched(), Unknown: r.GetUnknown(), Failed: r.GetFailed(), Examples: []exampleView{}}
	var rows [][]string
	for _, x := range r.GetExamples() {
		e := exampleView{
			ID: x.GetMessageId(), Queue: x.GetQueue(), Offset: x.GetOffset(), Stored: stamp(x.GetStored()),
			Tag: x.GetTag(), Keys: x.GetKeys(), Properties: properties(x.GetProperties()),
		}
		v.Examples = append(v.Examples, e)
		var list []string
		for _, p := range x.GetProperties() {
			list = append(list, p.GetKey()+"="+p.GetValue())
		}
		rows = append(rows, []string{e.Stored, fmt.Sprint(e.Queue), fmt.Sprint(e.Offset), e.ID, e.Tag, strings.Join(e.Keys, ","), strings.Join(list, " ")})
	}
	out := cmd.OutOrStdout()
	if c.json {
		return printJSON(out, v)
	}
	fmt.Fprintf(out, "%d of %s would match", v.Matched, count(v.Looked, "message"))
	if v.Unknown > 0 {
		fmt.Fprintf(out, "; %d lack what the expression needs", v.Unknown)
	}
	if v.Failed > 0 {
		fmt.Fprintf(out, "; %d have a value that it cannot compare", v.Failed)
	}
	fmt.Fprintln(out)
	if len(rows) == 0 {
		return nil
	}
	return printTable(out, []string{"STORED", "QUEUE", "OFFSET", "ID", "TAG", "KEYS", "PROPERTIES"}, rows)
}
