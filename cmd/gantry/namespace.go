package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newNamespace() *cobra.Command {
	return parent("namespace", "List namespaces", newNamespaceList())
}

// namespaceView is a namespace in JSON.
type namespaceView struct {
	Name        string `json:"name"`
	Topics      uint32 `json:"topics"`
	Groups      uint32 `json:"groups"`
	Quotas      uint32 `json:"quotas"`
	MessagesIn  uint64 `json:"messages_in"`
	BytesIn     uint64 `json:"bytes_in"`
	MessagesOut uint64 `json:"messages_out"`
	Lag         uint64 `json:"lag"`
}

func newNamespaceList() *cobra.Command {
	cmd := &cobra.Command{
		Use: "list", Short: "List namespaces with what is in them and their traffic",
		Long: `List namespaces with what is in them, and their traffic since the broker started. A namespace is
there as long as there is a topic or group in it. Equal names in two namespaces are different
topics and groups; a client's calls are in the namespace it was configured with.`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := gantryv1.NewNamespacesClient(c.conn).List(ctx, &gantryv1.ListNamespacesRequest{})
		if err != nil {
			return c.explain(err)
		}
		views, rows := []namespaceView{}, [][]string(nil)
		for _, n := range r.GetNamespaces() {
			v := namespaceView{n.GetName(), n.GetTopics(), n.GetGroups(), n.GetQuotas(), n.GetMessagesIn(), n.GetBytesIn(), n.GetMessagesOut(), n.GetLag()}
			views = append(views, v)
			name := v.Name
			if name == "" {
				name = "(default)"
			}
			rows = append(rows, []string{name, fmt.Sprint(v.Topics), fmt.Sprint(v.Groups), fmt.Sprint(v.Quotas),
				fmt.Sprint(v.MessagesIn), sizeText(v.BytesIn), fmt.Sprint(v.MessagesOut), fmt.Sprint(v.Lag)})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printList(cmd.OutOrStdout(), "there are no topics and groups, so no namespaces", []string{"NAMESPACE", "TOPICS", "GROUPS", "QUOTAS", "IN", "BYTES IN", "OUT", "LAG"}, rows)
	}))
}
