package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func newHealth() *cobra.Command {
	cmd := &cobra.Command{
		Use: "health", Short: "Exit with 0 when a broker serves",
		Long: `Exit with 0 when a broker serves. It takes no user, with --auth neither: it is for probes that run a
command, as a container's. Those that speak HTTP have /healthz and /readyz.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := healthpb.NewHealthClient(c.conn).Check(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			return c.explain(err)
		}
		if r.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			return fmt.Errorf("the broker at %s does not serve: it begins, or ends", c.at)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]bool{"serves": true})
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), "it serves")
		return err
	})
}
