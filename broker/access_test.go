package broker

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/gantry-mq/gantry/broker/access"
)

func withMasterKey(t *testing.T) func(*Options) {
	t.Helper()
	key, err := access.ParseMasterKey(access.NewMasterKey())
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) { o.MasterKey = key }
}

func TestUsersAndPoliciesSurviveKills(t *testing.T) {
	dir, key := t.TempDir(), withMasterKey(t)
	b := open(t, dir, key)
	const secret = "never-in-the-clear"
	for _, u := range []access.User{{Name: "admin", Super: true, Enabled: true}, {Name: "shop", Enabled: true}, {Name: "gone", Enabled: true}} {
		if _, err := b.CreateUser(t.Context(), u, secret); err != nil {
			t.Fatal(err)
		}
	}
	topics := access.Pattern{Type: access.Topic, Match: access.Prefix, Name: "orders"}
	p, err := b.Grant(t.Context(), access.Policy{User: "shop", Resource: topics, Actions: access.Pub})
	if err != nil {
		t.Fatal(err)
	}
	if more, err := b.Grant(t.Context(), access.Policy{User: "shop", Resource: topics, Actions: access.Sub}); err != nil || more.ID != p.ID || more.Actions != access.Pub|access.Sub {
		t.Fatalf("%+v, %v: want policy %d with both actions", more, err, p.ID)
	}
	if _, err := b.Grant(t.Context(), access.Policy{User: "gone", Resource: topics, Actions: access.All}); err != nil {
		t.Fatal(err)
	}
	deny, err := b.Grant(t.Context(), access.Policy{User: "shop", Resource: topics, Actions: access.Pub, Deny: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteUser(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Revoke(t.Context(), deny.ID); err != nil {
		t.Fatal(err)
	}
	survivesKills(t, b, dir, key)

	// A checkpoint and the log are all that is kept, and all that a node that joins gets.
	if err := b.checkpt.write(b.snapshot(quiet(t, b))); err != nil {
		t.Fatal(err)
	}
	survivesKills(t, b, dir, key)
	closeBroker(t, b)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if bytes.Contains(raw, []byte(secret)) {
			t.Errorf("%s has a secret in the clear", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUsersAndPoliciesAreRefused(t *testing.T) {
	b := open(t, t.TempDir(), withMasterKey(t))
	if _, err := b.CreateUser(t.Context(), access.User{Name: "admin", Super: true, Enabled: true}, "admin-secret"); err != nil {
		t.Fatal(err)
	}
	off, short := false, "short"
	topic := access.Pattern{Type: access.Topic, Match: access.Literal, Name: "orders"}
	create := func(name, secret string) error {
		_, err := b.CreateUser(t.Context(), access.User{Name: name, Enabled: true}, secret)
		return err
	}
	update := func(name string, c UserChange) error {
		_, err := b.UpdateUser(t.Context(), name, c)
		return err
	}
	grant := func(user string, r access.Pattern, a access.Actions) error {
		_, err := b.Grant(t.Context(), access.Policy{User: user, Resource: r, Actions: a})
		return err
	}
	_, revoked := b.Revoke(t.Context(), 99)
	for name, c := range map[string]struct {
		err  error
		want Reason
	}{
		"a name with a slash":          {create("a/b", "long-enough"), BadRequest},
		"a short secret":               {create("shop", short), BadRequest},
		"a name that is taken":         {create("admin", "long-enough"), AlreadyExists},
		"no such user":                 {update("nobody", UserChange{Enabled: &off}), UserNotFound},
		"the last super user off":      {update("admin", UserChange{Enabled: &off}), PreconditionFailed},
		"the last super user demoted":  {update("admin", UserChange{Super: &off}), PreconditionFailed},
		"a new secret that is short":   {update("admin", UserChange{Secret: &short}), BadRequest},
		"the last super user deleted":  {b.DeleteUser(t.Context(), "admin"), PreconditionFailed},
		"a policy of nobody":           {grant("nobody", topic, access.Pub), UserNotFound},
		"a policy without an action":   {grant("admin", topic, 0), BadRequest},
		"an action that is unknown":    {grant("admin", topic, access.All+1), BadRequest},
		"a type that is unknown":       {grant("admin", access.Pattern{Type: 9, Match: access.Literal}, access.Pub), BadRequest},
		"a match that is unknown":      {grant("admin", access.Pattern{Type: access.Topic}, access.Pub), BadRequest},
		"a name that no topic can get": {grant("admin", access.Pattern{Type: access.Topic, Match: access.Literal, Name: "a b"}, access.Pub), BadRequest},
		"no such policy":               {revoked, PolicyNotFound},
	} {
		if c.err == nil || ReasonOf(c.err) != c.want {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	without := open(t, t.TempDir())
	if _, err := without.CreateUser(t.Context(), access.User{Name: "shop"}, "long-enough"); ReasonOf(err) != PreconditionFailed {
		t.Errorf("without a key: %v", err)
	}
}
