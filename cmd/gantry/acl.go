package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newACL() *cobra.Command {
	return parent("acl", "Say what users may do, and ask why they may or may not", newACLGrant(), newACLRevoke(), newACLList(), newACLTest())
}

// policyView is a policy in JSON.
type policyView struct {
	ID       uint64   `json:"id"`
	User     string   `json:"user"`
	Effect   string   `json:"effect"`
	Resource string   `json:"resource"`
	Actions  []string `json:"actions"`
	Sources  []string `json:"sources,omitempty"`
	Created  string   `json:"created"`
}

func viewPolicy(p *gantryv1.Policy) policyView {
	v := policyView{ID: p.GetId(), User: p.GetUser(), Effect: "allow", Resource: viewPattern(p.GetResource()), Actions: p.GetActions(), Sources: p.GetSources(), Created: stamp(p.GetCreated())}
	if p.GetDeny() {
		v.Effect = "deny"
	}
	return v
}

// viewPattern is a resource as `acl test` names it: topic:a%orders*.
func viewPattern(r *gantryv1.ResourcePattern) string {
	kind, name := strings.ToLower(strings.TrimPrefix(r.GetType().String(), "RESOURCE_")), r.GetName()
	if r.GetMatch() != gantryv1.ResourceMatch_MATCH_LITERAL {
		name += "*"
	}
	switch r.GetType() {
	case gantryv1.ResourceType_RESOURCE_ANY, gantryv1.ResourceType_RESOURCE_CLUSTER:
		return kind
	case gantryv1.ResourceType_RESOURCE_NAMESPACE:
		return kind + ":" + name
	}
	return kind + ":" + qualified(r.GetNamespace(), name)
}

func printPolicies(cmd *cobra.Command, views []policyView) error {
	var rows [][]string
	for _, v := range views {
		from := strings.Join(v.Sources, ",")
		if from == "" {
			from = "anywhere"
		}
		rows = append(rows, []string{fmt.Sprint(v.ID), v.User, v.Effect, strings.Join(v.Actions, ","), v.Resource, from})
	}
	return printList(cmd.OutOrStdout(), "there are no policies", []string{"ID", "USER", "EFFECT", "ACTIONS", "ON", "FROM"}, rows)
}

// resourceFlags say what a policy or a question is about.
type resourceFlags struct {
	topic, group        string
	cluster, everything bool
}

func (f *resourceFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.topic, "topic", "", "`TOPIC`")
	cmd.Flags().StringVar(&f.group, "group", "", "consumer `GROUP`")
	cmd.Flags().BoolVar(&f.cluster, "cluster", false, "the broker as a whole")
	cmd.RegisterFlagCompletionFunc("topic", topicNames)
	cmd.RegisterFlagCompletionFunc("group", groupNames)
}

// pattern reads them: a name may end with *. --namespace alone is the namespace.
func (f *resourceFlags) pattern(cmd *cobra.Command, c *client) (*gantryv1.ResourcePattern, error) {
	p := &gantryv1.ResourcePattern{Match: gantryv1.ResourceMatch_MATCH_ANY}
	switch {
	case f.topic != "":
		p.Type, p.Name, p.Namespace = gantryv1.ResourceType_RESOURCE_TOPIC, f.topic, c.namespace
	case f.group != "":
		p.Type, p.Name, p.Namespace = gantryv1.ResourceType_RESOURCE_GROUP, f.group, c.namespace
	case f.cluster:
		p.Type = gantryv1.ResourceType_RESOURCE_CLUSTER
		return p, nil
	case f.everything:
		p.Type = gantryv1.ResourceType_RESOURCE_ANY
		return p, nil
	case cmd.Flags().Changed("namespace"):
		p.Type, p.Name = gantryv1.ResourceType_RESOURCE_NAMESPACE, c.namespace
	default:
		return nil, usageErrorf("on what? --topic, --group, --cluster, or --namespace alone")
	}
	name, prefix := strings.CutSuffix(p.Name, "*")
	switch p.Name = name; {
	case !prefix:
		p.Match = gantryv1.ResourceMatch_MATCH_LITERAL
	case name != "":
		p.Match = gantryv1.ResourceMatch_MATCH_PREFIX
	}
	return p, nil
}

func newACLGrant() *cobra.Command {
	var on resourceFlags
	var user string
	var actions, from []string
	var deny bool
	cmd := &cobra.Command{
		Use: "grant --user USER --action ACTIONS", Short: "Allow or deny a user something",
		Long: `Allow or deny a user something. A name may end with * and is then any that begins so;
--namespace alone is all topics and groups in the namespace, --namespace '*' with a
topic or group those of all namespaces.

Of the policies that match a call the most specific one decides: a name before a
prefix before all names, a topic or group before a namespace before everything. Of
equally specific ones a denial decides. Without any the answer is no.

To produce takes pub on the topic; to consume takes sub on the topic and on the group.`,
		Example: `  gantry acl grant --user shop --topic 'orders*' --action pub,sub
  gantry acl grant --user shop --group billing --action sub --from 10.0.0.0/8
  gantry acl grant --user guest --namespace test --action all`,
		Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&user, "user", "", "the `USER` (required)")
	cmd.Flags().StringSliceVar(&actions, "action", nil, "all, or some of pub,sub,create,update,delete,get,list (required)")
	cmd.Flags().StringSliceVar(&from, "from", nil, "only for calls from these `NETWORKS`, like 10.0.0.0/8 (default: from anywhere)")
	cmd.Flags().BoolVar(&deny, "deny", false, "deny it, rather than allow it")
	on.add(cmd)
	cmd.Flags().BoolVar(&on.everything, "everything", false, "everything there is")
	cmd.MarkFlagsMutuallyExclusive("topic", "group", "cluster", "everything")
	cmd.MarkFlagRequired("user")
	cmd.MarkFlagRequired("action")
	cmd.RegisterFlagCompletionFunc("user", userNames)
	cmd.RegisterFlagCompletionFunc("action", completeWords(actionNames...))
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		r, err := on.pattern(cmd, c)
		if err != nil {
			return err
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		granted, err := c.access().Grant(ctx, &gantryv1.GrantRequest{Policy: &gantryv1.Policy{User: user, Resource: r, Actions: actions, Sources: from, Deny: deny}})
		if err != nil {
			return c.explain(err)
		}
		v := viewPolicy(granted.GetPolicy())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		return printPolicies(cmd, []policyView{v})
	})
}

var actionNames = []string{"all", "pub", "sub", "create", "update", "delete", "get", "list"}

func newACLRevoke() *cobra.Command {
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "Take a policy back, by its number in the list",
		Example: "  gantry acl revoke 3",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		id, err := strconv.ParseUint(args[0], 10, 64)
		if err != nil {
			return usageErrorf("%q is no number of a policy: see gantry acl list", args[0])
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().Revoke(ctx, &gantryv1.RevokeRequest{Id: id})
		if err != nil {
			return c.explain(err)
		}
		v := viewPolicy(r.GetPolicy())
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "policy %d of user %s is gone: %s %s on %s\n", v.ID, clean(v.User), v.Effect, strings.Join(v.Actions, ","), clean(v.Resource))
		return err
	})
}

func newACLList() *cobra.Command {
	var user string
	cmd := &cobra.Command{Use: "list", Short: "List policies", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	cmd.Flags().StringVar(&user, "user", "", "those of one `USER`")
	cmd.RegisterFlagCompletionFunc("user", userNames)
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().ListPolicies(ctx, &gantryv1.ListPoliciesRequest{User: user})
		if err != nil {
			return c.explain(err)
		}
		views := []policyView{}
		for _, p := range r.GetPolicies() {
			views = append(views, viewPolicy(p))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printPolicies(cmd, views)
	})
}

// testView is a decision in JSON.
type testView struct {
	Allowed bool        `json:"allowed"`
	Reason  string      `json:"reason"`
	Policy  *policyView `json:"policy,omitempty"`
}

func newACLTest() *cobra.Command {
	var on resourceFlags
	var user, action, from string
	cmd := &cobra.Command{
		Use: "test --user USER --action ACTION", Short: "Ask whether a user may do something, and which policy says so",
		Long:    "Ask whether a user may do something, and which policy says so. Nothing is done.",
		Example: "  gantry acl test --user shop --topic orders-eu --action pub",
		Args:    cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().StringVar(&user, "user", "", "the `USER` (default: who calls)")
	cmd.Flags().StringVar(&action, "action", "", "one of pub, sub, create, update, delete, get, list (required)")
	cmd.Flags().StringVar(&from, "from", "", "as if the call came from this `ADDRESS`")
	on.add(cmd)
	cmd.MarkFlagsMutuallyExclusive("topic", "group", "cluster")
	cmd.MarkFlagRequired("action")
	cmd.RegisterFlagCompletionFunc("user", userNames)
	cmd.RegisterFlagCompletionFunc("action", completeWords(actionNames[1:]...))
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		p, err := on.pattern(cmd, c)
		if err != nil {
			return err
		}
		if p.Match != gantryv1.ResourceMatch_MATCH_LITERAL && !on.cluster {
			return usageErrorf("a call is about one name: one with * is of policies")
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().Test(ctx, &gantryv1.TestAccessRequest{
			User: user, Type: p.GetType(), Namespace: p.GetNamespace(), Name: p.GetName(), Action: action, Source: from,
		})
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			v := testView{Allowed: r.GetAllowed(), Reason: r.GetReason()}
			if r.GetPolicy() != nil {
				policy := viewPolicy(r.GetPolicy())
				v.Policy = &policy
			}
			return printJSON(cmd.OutOrStdout(), v)
		}
		_, err = fmt.Fprintln(cmd.OutOrStdout(), clean(r.GetReason()))
		return err
	})
}
