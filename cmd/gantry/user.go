package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/gantry-mq/gantry/proto/gantryv1"
)

func newUser() *cobra.Command {
	return parent("user", "Create, change, list and delete users of a broker that asks who calls",
		newUserCreate(), newUserList(), newUserShow(), newUserUpdate(), newUserDelete(), newUserReseal())
}

// userView is a user in JSON.
type userView struct {
	Name          string       `json:"name"`
	Super         bool         `json:"super"`
	Enabled       bool         `json:"enabled"`
	Created       string       `json:"created"`
	SecretChanged string       `json:"secret_changed"`
	Secret        string       `json:"secret,omitempty"` // when it was just made
	Policies      []policyView `json:"policies,omitempty"`
}

func viewUser(u *gantryv1.User) userView {
	return userView{Name: u.GetName(), Super: u.GetSuper(), Enabled: u.GetEnabled(), Created: stamp(u.GetCreated()), SecretChanged: stamp(u.GetSecretChanged())}
}

func (v userView) kind() string {
	if v.Super {
		return "super"
	}
	return "normal"
}

func (v userView) state() string {
	if v.Enabled {
		return "enabled"
	}
	return "disabled"
}

func (c *client) access() gantryv1.AccessClient { return gantryv1.NewAccessClient(c.conn) }

// tellSecret prints a secret that was just made: nobody can see it again.
func tellSecret(cmd *cobra.Command, secret string) error {
	if secret == "" {
		return nil
	}
	_, err := fmt.Fprintf(cmd.OutOrStdout(), "its secret, which cannot be shown again: %s\n", clean(secret))
	return err
}

func newUserCreate() *cobra.Command {
	var super bool
	var file string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Create a user, and print the secret that was made for it",
		Example: "  gantry user create shop\n  gantry user create ops --super --new-secret-file ops.secret",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&super, "super", false, "it may do everything; no policy is asked")
	cmd.Flags().StringVar(&file, "new-secret-file", "", "`FILE` with its secret (default: a random one is made and printed)")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.CreateUserRequest{Name: args[0], Super: super}
		var err error
		if file != "" {
			if req.Secret, err = privateFile(file, nil); err != nil {
				return err
			}
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().CreateUser(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		v := viewUser(r.GetUser())
		v.Secret = r.GetSecret()
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "user %s created: %s\n", clean(v.Name), v.kind()); err != nil {
			return err
		}
		return tellSecret(cmd, v.Secret)
	})
}

func newUserList() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List users", Args: cobra.NoArgs, ValidArgsFunction: cobra.NoFileCompletions}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().ListUsers(ctx, &gantryv1.ListUsersRequest{})
		if err != nil {
			return c.explain(err)
		}
		views, rows := []userView{}, [][]string(nil)
		for _, u := range r.GetUsers() {
			v := viewUser(u)
			views = append(views, v)
			rows = append(rows, []string{v.Name, v.kind(), v.state(), v.Created, v.SecretChanged})
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), views)
		}
		return printList(cmd.OutOrStdout(), "there are no users", []string{"USER", "TYPE", "STATE", "CREATED", "SECRET SINCE"}, rows)
	})
}

func newUserShow() *cobra.Command {
	cmd := &cobra.Command{
		Use: "show [NAME]", Short: "Show a user with its policies, without NAME the one who calls",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: completeUsers,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.DescribeUserRequest{}
		if len(args) > 0 {
			req.Name = args[0]
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().DescribeUser(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		v := viewUser(r.GetUser())
		for _, p := range r.GetPolicies() {
			v.Policies = append(v.Policies, viewPolicy(p))
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "user %s: %s, %s, created %s, secret since %s\n", clean(v.Name), v.kind(), v.state(), v.Created, v.SecretChanged); err != nil {
			return err
		}
		return printPolicies(cmd, v.Policies)
	})
}

func newUserUpdate() *cobra.Command {
	var super, enabled, fresh bool
	var file string
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Enable or disable a user, give it another secret or type",
		Example: "  gantry user update shop --enabled=false\n  gantry user update shop --new-secret",
		Args:    cobra.ExactArgs(1), ValidArgsFunction: completeUsers,
	}
	cmd.Flags().BoolVar(&super, "super", false, "it may do everything; =false: what its policies say")
	cmd.Flags().BoolVar(&enabled, "enabled", false, "it may call; =false: it may not, and its open streams end")
	cmd.Flags().BoolVar(&fresh, "new-secret", false, "make a random secret and print it; the old one is void at once")
	cmd.Flags().StringVar(&file, "new-secret-file", "", "`FILE` with its new secret")
	cmd.MarkFlagsMutuallyExclusive("new-secret", "new-secret-file")
	cmd.MarkFlagsOneRequired("super", "enabled", "new-secret", "new-secret-file")
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		req := &gantryv1.UpdateUserRequest{Name: args[0], NewSecret: fresh}
		if cmd.Flags().Changed("super") {
			req.Super = &super
		}
		if cmd.Flags().Changed("enabled") {
			req.Enabled = &enabled
		}
		if file != "" {
			secret, err := privateFile(file, nil)
			if err != nil {
				return err
			}
			req.Secret = &secret
		}
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().UpdateUser(ctx, req)
		if err != nil {
			return c.explain(err)
		}
		v := viewUser(r.GetUser())
		v.Secret = r.GetSecret()
		if c.json {
			return printJSON(cmd.OutOrStdout(), v)
		}
		if _, err := fmt.Fprintf(cmd.OutOrStdout(), "user %s: %s, %s\n", clean(v.Name), v.kind(), v.state()); err != nil {
			return err
		}
		return tellSecret(cmd, v.Secret)
	})
}

func newUserDelete() *cobra.Command {
	cmd := &cobra.Command{
		Use: "delete NAME", Short: "Delete a user with its policies; its open streams end",
		Args: cobra.ExactArgs(1), ValidArgsFunction: completeUsers,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, args []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		if _, err := c.access().DeleteUser(ctx, &gantryv1.DeleteUserRequest{Name: args[0]}); err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]string{"deleted": args[0]})
		}
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "user %s deleted\n", clean(args[0]))
		return err
	})
}

func newUserReseal() *cobra.Command {
	cmd := &cobra.Command{
		Use: "reseal", Short: "Seal all secrets under the first key of --auth-key",
		Long: "Seal all secrets under the first key of --auth-key.\n\nThe last step but one when that key is to be another: see docs/operations.md. The secrets stay as they are.",
		Args: cobra.NoArgs,
	}
	return clientCommand(cmd, func(ctx context.Context, cmd *cobra.Command, c *client, _ []string) error {
		ctx, cancel := c.call(ctx)
		defer cancel()
		r, err := c.access().ResealUsers(ctx, &gantryv1.ResealUsersRequest{})
		if err != nil {
			return c.explain(err)
		}
		if c.json {
			return printJSON(cmd.OutOrStdout(), map[string]uint32{"resealed": r.GetUsers()})
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s resealed\n", count(r.GetUsers(), "secret"))
		return err
	})
}

// completeUsers completes the first argument with the names of users.
func completeUsers(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return userNames(cmd, args, prefix)
}

var userNames = completeFrom(func(ctx context.Context, c *client) (names []string, err error) {
	r, err := c.access().ListUsers(ctx, &gantryv1.ListUsersRequest{})
	for _, u := range r.GetUsers() {
		names = append(names, u.GetName())
	}
	return names, err
})
