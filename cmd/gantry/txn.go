package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newTxn() *cobra.Command {
	return parent("txn", "List, show and settle transactional messages that nobody has decided on",
		newTxnList(), newTxnShow(),
		newTxnSettle("commit", "Deliver the message of a transaction", gantryv1.Settlement_COMMIT),
		newTxnSettle("rollback", "Drop the message of a transaction", gantryv1.Settlement_ROLLBACK),
		newTxnSettle("recheck", "Ask the producers about a transaction again, from the first check on", gantryv1.Settlement_RECHECK))
}

// txnView is a transaction in JSON.
type txnView struct {
	ID        string      `json:"id"`
	Topic     string      `json:"topic"`
	Namespace string      `json:"namespace,omitempty"`
	State     string      `json:"state"`
	MessageID string      `json:"message_id,omitempty"`
	Queue     *uint32     `json:"queue,omitempty"`
	Born      string      `json:"born,omitempty"`
	Stored    string      `json:"stored,omitempty"`
	Checks    *int32      `json:"checks,omitempty"`
	NextCheck string      `json:"next_check,omitempty"`
	Decided   string      `json:"decided,omitempty"`
	DecidedBy string      `json:"decided_by,omitempty"`
	Message   *txnMessage `json:"message,omitempty"`
}

type txnMessage struct {
	Tag        string            `json:"tag,omitempty"`
	Keys       []string          `json:"keys,omitempty"`
	Group      string            `json:"message_group,omitempty"`
	Properties map[string]string `json:"properties,omitempty"`
	Size       int64             `json:"size"`
	// Body is cut when it is shorter than Size.
	Body text `json:"body"`
}

func viewTxn(tx *gantryv1.Transaction) txnView {
	v := txnView{
		ID: tx.GetId(), Topic: tx.GetTopic(), Namespace: tx.GetNamespace(),
		State: strings.ToLower(strings.ReplaceAll(tx.GetState().String(), "_", " ")),
	}
	if tx.GetDecided() != nil {
		v.Decided, v.DecidedBy = stamp(tx.GetDecided()), tx.GetDecidedBy()
		return v
	}
	v.MessageID, v.Queue, v.Checks = tx.GetMessageId(), &tx.Queue, &tx.Checks
	v.Born, v.Stored = stamp(tx.GetBorn()), stamp(tx.GetStored())
	if tx.GetNextCheck() != nil {
		v.NextCheck = stamp(tx.GetNextCheck())
	}
	return v
}

func newTxnList() *cobra.Command {
	var topic, message, after string
	var parked bool
	var limit int32
	cmd := &cobra.Command{
		Use: "list", Short: "List undecided transactions, the oldest first",
		Example: "  gantry txn list --parked\n  gantry txn list --topic orders --limit 20",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&topic, "topic", "", "only those of `TOPIC`")
	cmd.Flags().StringVar(&message, "message-id", "", "only that of the message with this `ID`")
	cmd.Flags().BoolVar(&parked, "parked", false, "only those that no producer decided when asked, and that wait for you")
	cmd.Flags().Int32Var(&limit, "limit", 100, "how many, up to 1000")
	cmd.Flags().StringVar(&after, "after", "", "go on after the transaction with this `ID`")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	return clientCommand(cmd, inEveryShard(func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		if limit < 1 || limit > 1000 {
			return usageErrorf("--limit %d: want 1 to 1000", limit)
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().ListTransactions(ctx, &gantryv1.ListTransactionsRequest{
			Topic: topic, Namespace: c.namespace, MessageId: message, Parked: parked, Limit: limit, After: after,
		})
		if err != nil {
			return c.explain(err)
		}
		views := make([]txnView, 0, len(r.GetTransactions()))
		for _, tx := range r.GetTransactions() {
			views = append(views, viewTxn(tx))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		rows := make([][]string, 0, len(views))
		for _, v := range views {
			rows = append(rows, []string{v.ID, qualified(v.Namespace, v.Topic), v.MessageID, v.State, fmt.Sprint(*v.Checks), v.Stored, v.NextCheck})
		}
		if err := printList(cmd.OutOrStdout(), "no undecided transaction", []string{"TRANSACTION", "TOPIC", "MESSAGE", "STATE", "CHECKS", "STORED", "NEXT CHECK"}, rows); err != nil {
			return err
		}
		if n := len(views); n == int(limit) {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "there may be more: --after %s\n", clean(views[n-1].ID))
		}
		return err
	}))
}

func newTxnShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show a transaction and its message, or what was decided about it",
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().DescribeTransaction(ctx, &gantryv1.DescribeTransactionRequest{Id: args[0]})
		if err != nil {
			return c.explain(err)
		}
		v := viewTxn(r.GetTransaction())
		if v.Decided == "" {
			v.Message = &txnMessage{
				Tag: r.GetTag(), Keys: r.GetKeys(), Group: r.GetMessageGroup(), Properties: r.GetProperties(),
				Size: r.GetBodySize(), Body: r.GetBody(),
			}
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		return printTxn(cmd, v)
	}))
}

func printTxn(cmd *cobra.Command, v txnView) error {
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "transaction %s of topic %s: %s\n", clean(v.ID), clean(qualified(v.Namespace, v.Topic)), v.State)
	m := v.Message
	if m == nil {
		_, err := fmt.Fprintf(out, "by %s at %s\n", clean(v.DecidedBy), v.Decided)
		return err
	}
	fmt.Fprintf(out, "message %s for queue %d, stored %s, %d checks", clean(v.MessageID), *v.Queue, v.Stored, *v.Checks)
	if v.NextCheck != "" {
		fmt.Fprintf(out, ", the next at %s", v.NextCheck)
	}
	fmt.Fprintln(out)
	var rows [][]string
	for _, f := range [][]string{{"tag", m.Tag}, {"keys", strings.Join(m.Keys, ", ")}, {"message group", m.Group}} {
		if f[1] != "" {
			rows = append(rows, f)
		}
	}
	names := make([]string, 0, len(m.Properties))
	for k := range m.Properties {
		names = append(names, k)
	}
	slices.Sort(names)
	for _, k := range names {
		rows = append(rows, []string{"property " + k, m.Properties[k]})
	}
	if len(rows) > 0 {
		fmt.Fprintln(out)
		if err := printTable(out, []string{"FIELD", "VALUE"}, rows); err != nil {
			return err
		}
	}
	shown := ""
	if n := int64(len(m.Body)); n < m.Size {
		shown = fmt.Sprintf(", the first %d", n)
	}
	_, err := fmt.Fprintf(out, "\nbody, %d bytes%s:\n%s\n", m.Size, shown, clean(string(m.Body)))
	return err
}

func newTxnSettle(use, short string, s gantryv1.Settlement) *cobra.Command {
	cmd := &cobra.Command{
		Use: use + " ID", Short: short,
		Args: cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, inSomeShard(func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.management().SettleTransaction(ctx, &gantryv1.SettleTransactionRequest{Id: args[0], Settlement: s})
		if err != nil {
			return c.explain(err)
		}
		v := viewTxn(r.GetTransaction())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		if s == gantryv1.Settlement_RECHECK {
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "transaction %s: producers of topic %s are asked again; %s connected now\n",
				clean(v.ID), clean(qualified(v.Namespace, v.Topic)), are(r.GetProducers()))
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "transaction %s %s\n", clean(v.ID), v.State)
		return err
	}))
}

// are is how many producers are.
func are(n int32) string {
	switch n {
	case 0:
		return "none is"
	case 1:
		return "1 is"
	}
	return fmt.Sprintf("%d are", n)
}
