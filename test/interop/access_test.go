//go:build interop

package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The clients sign as they do for any broker that asks who calls.
func TestUsersOfABrokerThatAsks(t *testing.T) {
	b, err := newBroker("access")
	if err != nil {
		t.Fatal(err)
	}
	b.args = []string{"--auth"}
	if err := b.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.kill)
	t.Setenv("GANTRY_USER", "admin")
	t.Setenv("GANTRY_SECRET_FILE", filepath.Join(workDir, "access.data.admin-secret"))
	const secret = "secret-of-the-test"
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, language := range languages {
		t.Run(language, func(t *testing.T) {
			user, namespace, orders, pay := "shop-"+language, "ns-"+language, "orders-"+language, "pay-"+language
			if language == "node" { // it names the namespace in a header alone
				namespace = ""
			}
			b.admin(t, "user", "create", user, "--new-secret-file", file)
			for _, topic := range []string{orders, pay} {
				b.admin(t, "topic", "create", topic, "--namespace", namespace)
			}
			b.admin(t, "acl", "grant", "--user", user, "--namespace", namespace, "--topic", orders, "--action", "pub,sub")
			b.admin(t, "acl", "grant", "--user", user, "--namespace", namespace, "--group", "billing", "--action", "sub")
			as := func(secret string, r role) role {
				r.User, r.Secret, r.Namespace, r.Filter = user, secret, namespace, "*"
				return r
			}
			many := make([]message, 2000)
			for i := range many {
				many[i] = message{Body: "order"}
			}
			c := start(t, b, language,
				as(secret, role{Name: "producer", Kind: "produce", Topic: orders, IntervalMS: 20, Messages: many}),
				as(secret, role{Name: "consumer", Kind: "push", Topic: orders, Group: "billing"}))
			c.Await(t, "allowed messages arrive", patience, func() bool { return len(c.All("consumer", "message")) > 5 })
			if errs := c.All("", "error"); len(errs) > 0 {
				t.Fatal(errs[0].Gist())
			}

			refused := map[string]role{
				"another secret":  as("not-the-secret", role{Name: "r", Kind: "produce", Topic: orders, Messages: cases("a")}),
				"another topic":   as(secret, role{Name: "r", Kind: "produce", Topic: pay, Messages: cases("a")}),
				"no credentials":  {Name: "r", Kind: "produce", Topic: orders, Namespace: namespace, Messages: cases("a")},
				"other namespace": {Name: "r", Kind: "produce", Topic: orders, User: user, Secret: secret, Messages: cases("a")},
			}
			if namespace == "" {
				delete(refused, "other namespace")
			}
			for what, r := range refused {
				p := start(t, b, language, r)
				p.Await(t, what+" fails", patience, func() bool { return len(p.All("r", "error")) > 0 })
				e := p.All("r", "error")[0]
				if sent := p.All("r", "sent"); len(sent) > 0 {
					t.Errorf("%s: %s", what, sent[0].Gist())
				}
				code := map[bool]string{true: "UNAUTHORIZED", false: "FORBIDDEN"}[what == "another secret" || what == "no credentials"]
				number := map[string]string{"UNAUTHORIZED": "40100", "FORBIDDEN": "40300"}[code]
				if (language == "go" || language == "java") && !strings.Contains(e.Message, code) && !strings.Contains(e.Message, number) {
					t.Errorf("%s: %s does not say %s", what, e.Gist(), code)
				}
			}

			b.admin(t, "user", "update", user, "--enabled=false")
			c.Await(t, "a revoked user is refused", patience, func() bool { return len(c.All("producer", "error")) > 0 })
			b.admin(t, "user", "update", user, "--enabled=true")
			before := len(c.All("consumer", "message"))
			c.Await(t, "an enabled user goes on", patience, func() bool { return len(c.All("consumer", "message")) > before+5 })
		})
	}
}
