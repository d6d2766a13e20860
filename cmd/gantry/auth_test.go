package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gantry-mq/gantry/broker/access"
	"github.com/gantry-mq/gantry/internal/freeaddr"
)

// serveAuth starts a broker that asks who calls, with its key beside its data. What is
// run next is run by admin.
func serveAuth(t *testing.T, dir string, args ...string) *serving {
	t.Helper()
	s := serve(t, filepath.Join(dir, "data"), append([]string{"--auth"}, args...)...)
	t.Setenv(userEnv, firstUser)
	t.Setenv(secretEnv, filepath.Join(dir, "data.admin-secret"))
	return s
}

func TestUsersDoWhatTheirPoliciesSay(t *testing.T) {
	dir := t.TempDir()
	s := serveAuth(t, dir)
	if !strings.Contains(s.greeting, "--user admin --secret-file "+os.Getenv(secretEnv)) {
		t.Errorf("the greeting does not say how to call: %s", s.greeting)
	}
	s.run(t, "topic", "create", "orders-eu")
	s.run(t, "topic", "create", "pay")
	created := s.run(t, "user", "create", "shop")
	_, secret, _ := strings.Cut(strings.TrimSpace(created), "cannot be shown again: ")
	file := filepath.Join(dir, "shop.secret")
	if err := writePrivate(file, secret); err != nil || secret == "" {
		t.Fatal(created, err)
	}
	shop := func(args ...string) (int, string, string) {
		return cli(t, append(args, "--server", s.server, "--user", "shop", "--secret-file", file)...)
	}
	if code, _, errOut := shop("send", "orders-eu", "x"); code != exitFailed || !strings.Contains(errOut, `user "shop" may not pub`) {
		t.Errorf("before a grant: %d %s", code, errOut)
	}
	if out := s.run(t, "acl", "grant", "--user", "shop", "--topic", "orders*", "--action", "pub,sub"); !strings.Contains(out, "topic:orders*") {
		t.Error(out)
	}
	s.run(t, "acl", "grant", "--user", "shop", "--group", "billing", "--action", "sub", "--from", "127.0.0.0/8")
	s.run(t, "acl", "grant", "--user", "shop", "--topic", "orders-us", "--action", "pub", "--deny")
	for _, c := range []struct{ topic, want string }{
		{"orders-eu", "allowed by policy 1: allow pub,sub on topic:orders*"}, {"orders-us", "denied by policy 3: deny pub on topic:orders-us"}, {"pay", "denied: no policy matches"},
	} {
		if out := s.run(t, "acl", "test", "--user", "shop", "--topic", c.topic, "--action", "pub"); strings.TrimSpace(out) != c.want {
			t.Errorf("test of %s: %s", c.topic, out)
		}
	}
	if code, _, errOut := shop("send", "orders-eu", "x"); code != 0 {
		t.Errorf("granted: %s", errOut)
	}
	if code, out, errOut := shop("receive", "orders-eu", "--group", "billing"); code != 0 || !strings.Contains(out, "x") {
		t.Errorf("granted: %s %s", out, errOut)
	}
	if code, out, errOut := shop("user", "show"); code != 0 || !strings.Contains(out, "user shop: normal, enabled") || !strings.Contains(out, "127.0.0.0/8") {
		t.Errorf("about itself: %s %s", out, errOut)
	}
	for _, args := range [][]string{{"send", "pay", "x"}, {"topic", "create", "orders-new"}, {"user", "list"}, {"user", "show", "admin"}, {"acl", "list"}, {"topic", "describe", "pay"}} {
		if code, _, errOut := cli(t, append(args, "--server", s.server, "--secret-file", file, map[bool]string{true: "--as", false: "--user"}[args[0] == "acl"], "shop")...); code != exitFailed || !strings.Contains(errOut, `user "shop"`) {
			t.Errorf("%v: %d %s", args, code, errOut)
		}
	}
	s.run(t, "acl", "revoke", "1")
	if code, _, _ := shop("send", "orders-eu", "x"); code != exitFailed {
		t.Error("a policy that is gone allows")
	}
	s.run(t, "user", "update", "shop", "--enabled=false")
	if code, _, errOut := shop("user", "show"); code != exitFailed || !strings.Contains(errOut, "authentication failed") {
		t.Errorf("disabled: %d %s", code, errOut)
	}
	if code, _, errOut := cli(t, "user", "update", "admin", "--enabled=false", "--server", s.server); code != exitFailed || !strings.Contains(errOut, "last super user") {
		t.Errorf("the last super user: %d %s", code, errOut)
	}

	// All of it is there after a restart.
	s.stop()
	s = serveAuth(t, dir)
	if out := s.run(t, "user", "list"); !strings.Contains(out, "shop   normal  disabled") {
		t.Error(out)
	}
	if out := s.run(t, "acl", "list", "--user", "shop"); strings.Contains(out, "orders*") || !strings.Contains(out, "orders-us") {
		t.Error(out)
	}
	s.run(t, "user", "delete", "shop")
	if out := s.run(t, "acl", "list"); !strings.Contains(out, "there are no policies") {
		t.Error(out)
	}
}

// What is acknowledged survives kill -9, and no secret is to be read in what is left.
func TestUsersSurviveKill(t *testing.T) {
	dir := t.TempDir()
	var errOut bytes.Buffer
	p, killed := process(t, filepath.Join(dir, "data"), &errOut, "--auth")
	t.Setenv(userEnv, firstUser)
	t.Setenv(secretEnv, filepath.Join(dir, "data.admin-secret"))
	ok(t, "user", "create", "shop", "--server", killed.server)
	ok(t, "acl", "grant", "--user", "shop", "--namespace", "a", "--action", "all", "--server", killed.server)
	if err := p.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	s := serveAuth(t, dir)
	if out := s.run(t, "acl", "test", "--user", "shop", "--namespace", "a", "--topic", "t", "--action", "pub"); !strings.HasPrefix(out, "allowed by policy 1") {
		t.Error(out)
	}
	secret, err := privateFile(os.Getenv(secretEnv), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out := ok(t, "config", "show", "--auth"); strings.Contains(out, secret) {
		t.Error("config show has a secret")
	}
	if out := ok(t, "log", "dump", filepath.Join(dir, "data"), "--json"); strings.Contains(out, secret) || !strings.Contains(out, "user-put") {
		t.Error("the log's dump has a secret, or no user")
	}
	if strings.Contains(errOut.String(), secret) {
		t.Error("the server's log has a secret")
	}
}

// As docs/operations.md has it: a new key is there to open, then to seal; when all is
// sealed under it, the old one goes. Nobody's secret changes.
func TestTheKeyOfSecretsIsReplaced(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "data.key")
	s := serveAuth(t, dir)
	s.run(t, "user", "create", "shop")
	old, err := privateFile(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	next := access.NewMasterKey()
	for _, step := range []struct{ keys, reseal string }{
		{old + "\n" + next, "0 secrets resealed"},
		{next + "\n" + old, "2 secrets resealed"},
		{next, "0 secrets resealed"},
	} {
		s.stop()
		if err := os.WriteFile(file, []byte(step.keys+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		s = serveAuth(t, dir)
		if out := s.run(t, "user", "reseal"); strings.TrimSpace(out) != step.reseal {
			t.Errorf("%s, want %s", out, step.reseal)
		}
	}
	s.stop()
	if err := os.WriteFile(file, []byte(old+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var errOut strings.Builder
	if code := execute(t.Context(), []string{"serve", "--data", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--auth"}, nil, &strings.Builder{}, &errOut); code != exitFailed || !strings.Contains(errOut.String(), "another master key") {
		t.Errorf("with the old key alone: exit %d: %s", code, errOut.String())
	}
}

func TestAuthIsRefusedAsItCannotBeMeant(t *testing.T) {
	dir := t.TempDir()
	data, open := filepath.Join(dir, "data"), filepath.Join(dir, "open.key")
	if err := os.WriteFile(open, []byte(strings.Repeat("ab", 32)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--auth-skew", "1m"}, exitUsage, "without --auth"},
		{[]string{"--auth-key", open}, exitUsage, "without --auth"},
		{[]string{"--auth", "--auth-skew", "8m"}, exitUsage, "--auth-utc"},
		{[]string{"--auth", "--auth-skew", "0s"}, exitUsage, "more than 0"},
		{[]string{"--auth", "--auth-key", filepath.Join(data, "key")}, exitUsage, "data directory"},
		{[]string{"--auth", "--auth-admin", filepath.Join(data, "sub", "secret")}, exitUsage, "data directory"},
		{[]string{"--auth", "--auth-key", open}, exitFailed, "chmod 600"},
		{[]string{"--auth", "--listen", "0.0.0.0:0"}, exitUsage, "signatures can be used again"},
		{[]string{"--auth", "--http", "0.0.0.0:0"}, exitUsage, "secrets in plain text"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		var errOut strings.Builder
		code := execute(ctx, append([]string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"}, c.args...), nil, &strings.Builder{}, &errOut)
		cancel()
		if code != c.code || !strings.Contains(errOut.String(), c.want) {
			t.Errorf("%v: exit %d: %s", c.args, code, errOut.String())
		}
	}
	// Another key than the one that the secrets are sealed under.
	s := serveAuth(t, dir)
	s.stop()
	if err := os.Remove(data + ".key"); err != nil {
		t.Fatal(err)
	}
	var errOut strings.Builder
	if code := execute(t.Context(), []string{"serve", "--data", data, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--auth"}, nil, &strings.Builder{}, &errOut); code != exitFailed || !strings.Contains(errOut.String(), "another master key") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
}

// All nodes have the users; whichever leads asks for them.
func TestUsersOfACluster(t *testing.T) {
	dir := t.TempDir()
	key, admin, first := filepath.Join(dir, "n1.key"), filepath.Join(dir, "n1.admin-secret"), freeaddr.Of(t, 1, 1)[0]
	var alone strings.Builder
	code := execute(t.Context(), []string{"serve", "--data", filepath.Join(dir, "other"), "--node", "other", "--join", first, "--auth"}, nil, &strings.Builder{}, &alone)
	if code != exitFailed || !strings.Contains(alone.String(), "--auth-key") {
		t.Errorf("a node that joins with a key of its own: exit %d: %s", code, alone.String())
	}
	nodes := []*serving{serve(t, filepath.Join(dir, "n1"), "--node", "n1", "--bootstrap", "--peer", first, "--auth")}
	for _, name := range []string{"n2", "n3"} {
		nodes = append(nodes, serve(t, filepath.Join(dir, name), "--node", name, "--join", first, "--peer", freeaddr.Of(t, 1, 1)[0], "--auth", "--auth-key", key, "--auth-admin", admin))
	}
	t.Setenv(userEnv, firstUser)
	t.Setenv(secretEnv, admin)
	eventually := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(patience); !done(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not in %v", what, patience)
			}
		}
	}
	leads := func(node string) func() bool {
		return func() bool {
			_, out, _ := cli(t, "cluster", "status", "--json", "--server", nodes[0].server)
			var list []nodeView
			if json.Unmarshal([]byte(out), &list) != nil {
				return false
			}
			voters, leader := 0, ""
			for _, n := range list {
				if n.Role == "leader" {
					leader = n.Name
				}
				if n.Role == "leader" || n.Role == "follower" {
					voters++
				}
			}
			return voters == 3 && leader == node
		}
	}
	eventually("three nodes", leads("n1"))
	nodes[1].run(t, "user", "create", "shop") // by a node that does not lead
	nodes[0].run(t, "acl", "grant", "--user", "shop", "--topic", "*", "--action", "pub")
	nodes[1].run(t, "topic", "create", "t")
	nodes[1].run(t, "quota", "set", "topic", "t", "--send-bytes", "1")
	nodes[0].run(t, "cluster", "digest")
	nodes[0].run(t, "cluster", "transfer", "n3")
	eventually("another leader", leads("n3"))
	if out := nodes[2].run(t, "acl", "test", "--user", "shop", "--topic", "t", "--action", "pub"); !strings.HasPrefix(out, "allowed by policy 1") {
		t.Error(out)
	}
	nodes[0].run(t, "send", "t", "one")
	if code, _, errOut := cli(t, "send", "t", "two", "--server", nodes[0].server); code != exitFailed || !strings.Contains(errOut, `the quota of topic "t" is 1 bytes/s sent`) {
		t.Errorf("by the new leader, above the quota: exit %d: %s", code, errOut)
	}
	if code, _, errOut := cli(t, "user", "list", "--server", nodes[2].server, "--secret-file", key); code != exitFailed || !strings.Contains(errOut, "authentication failed") {
		t.Errorf("a wrong secret: exit %d: %s", code, errOut)
	}
}
