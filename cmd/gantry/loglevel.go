package main

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

var logLevels = map[string]gantryv1.LogLevel{
	"debug": gantryv1.LogLevel_LOG_LEVEL_DEBUG,
	"info":  gantryv1.LogLevel_LOG_LEVEL_INFO,
	"warn":  gantryv1.LogLevel_LOG_LEVEL_WARN,
	"error": gantryv1.LogLevel_LOG_LEVEL_ERROR,
}

func levelName(l gantryv1.LogLevel) string {
	for name, level := range logLevels {
		if level == l {
			return name
		}
	}
	return l.String()
}

// levelView is a component's level in JSON.
type levelView struct {
	Component string `json:"component"`
	Level     string `json:"level"`
	Own       bool   `json:"own"`
}

func newConfigLogLevel() *cobra.Command {
	cmd := &cobra.Command{
		Use: "log-level [COMPONENT LEVEL]", Short: "Show or change what a running broker writes to its log",
		Long: `Show the log level of each component of a running broker, or change one: to debug,
info, warn or error. The component "all" is every one of them. A change lasts until the
broker stops; --log-level of serve is what it begins with. In a cluster it is about the
node that leads.`,
		Example: "  gantry config log-level\n  gantry config log-level commitlog debug\n  gantry config log-level all info",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 0 && len(args) != 2 {
				return fmt.Errorf("a component and a level, or neither")
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return slices.Sorted(maps.Keys(logLevels)), cobra.ShellCompDirectiveNoFileComp
			}
			return nil, cobra.ShellCompDirectiveNoFileComp
		},
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		logging := gantryv1.NewLoggingClient(c.conn)
		if len(args) == 2 {
			level, ok := logLevels[args[1]]
			if !ok {
				return usageErrorf("%q is no level: want debug, info, warn or error", args[1])
			}
			if _, err := logging.SetLevel(ctx, &gantryv1.SetLevelRequest{Component: args[0], Level: level}); err != nil {
				return c.explain(err)
			}
		}
		r, err := logging.ListLevels(ctx, &gantryv1.ListLevelsRequest{})
		if err != nil {
			return c.explain(err)
		}
		views, rows := []levelView{}, [][]string{}
		for _, l := range r.GetLevels() {
			v := levelView{l.GetComponent(), levelName(l.GetLevel()), l.GetOwn()}
			views = append(views, v)
			from := "as all"
			if v.Own {
				from = "its own"
			}
			rows = append(rows, []string{v.Component, v.Level, from})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printTable(cmd.OutOrStdout(), []string{"COMPONENT", "LEVEL", ""}, rows)
	})
}
