package dashboard

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// signIn sends a user and a secret with every call, as a browser does that was told them.
func (b *browser) signIn(user, secret string) {
	b.t.Helper()
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+secret))
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, network.SetExtraHTTPHeaders, network.SetExtraHTTPHeadersParams{Headers: network.Headers{"Authorization": basic}})
		return err
	}))
}

// fill types into a field of the dialog that is open.
func (b *browser) fill(name, text string) {
	b.t.Helper()
	b.do(chromedp.SendKeys(fmt.Sprintf(`dialog[open] [name=%q]`, name), text))
}

// choose chooses in a select, below a form or dialog.
func (b *browser) choose(within, name, value string) {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`{ const s = document.querySelector(%q); s.value = %q; s.dispatchEvent(new Event("change", { bubbles: true })); }`,
		fmt.Sprintf("%s select[name=%s]", within, name), value)))
}

// told returns when a note says so.
func (b *browser) told(text string) {
	b.t.Helper()
	b.waitFor("word of "+text, fmt.Sprintf(`document.getElementById("toasts").innerText.includes(%q)`, text))
}

// inRow clicks a button of the row that has a text.
func (b *browser) inRow(text, button string) {
	b.t.Helper()
	b.do(chromedp.Click(fmt.Sprintf(`//tr[td[normalize-space(.)=%q]]//button[starts-with(normalize-space(.), %q)]`, text, button)))
}

func TestAnOperatorDecidesWhoMayDoWhat(t *testing.T) {
	dir := t.TempDir()
	adminFile, shopFile := filepath.Join(dir, "admin"), filepath.Join(dir, "shop")
	keep := func(file, secret string) {
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep(adminFile, "correct-horse-battery")
	s := startServer(t, "--auth", "--auth-key", filepath.Join(dir, "key"), "--auth-admin", adminFile)
	gantry := func(user, file string, args ...string) (string, error) {
		cmd := exec.Command(s.binary, append(args, "--server", s.addr, "--user", user, "--secret-file", file)...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, topic := range []string{"orders-eu", "orders-us", "audit"} {
		if out, err := gantry("admin", adminFile, "topic", "create", topic); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	send := func(says string) {
		t.Helper()
		out, err := gantry("shop", shopFile, "send", "orders-eu", "it works")
		if (err == nil) != (says == "") || !strings.Contains(out, says) {
			t.Errorf("send: %v: %s; want %q", err, out, says)
		}
	}

	b := openBrowser(t, s.web)
	b.theme("light")
	b.signIn("admin", "correct-horse-battery")
	b.open("#/users")
	b.title("Users")
	b.row("admin", "everything", "enabled")
	b.waitFor("no word of an open door", `!document.getElementById("main").innerText.includes("--auth")`)
	b.click("Create a user")
	b.fill("name", "shop\n") // Enter does it
	b.waitFor("the secret", `document.querySelector("dialog[open] pre")`)
	secret, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.querySelector("dialog[open] pre").innerText`))
	if err != nil || len(secret) < 20 {
		t.Fatalf("secret %q, %v", secret, err)
	}
	keep(shopFile, secret)
	b.answer("Close")
	b.told("User shop was created.")
	b.row("shop", "nothing", "enabled")
	for _, name := range []string{"billing", "guest"} {
		b.click("Create a user")
		b.fill("name", name)
		b.fill("secret", "secret-of-"+name)
		b.answer("Create")
		b.row(name, "enabled")
	}
	b.inRow("guest", "Change")
	b.do(chromedp.Click(`dialog[open] input[name=enabled]`))
	b.answer("Change")
	b.row("guest", "disabled")
	if shown, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](fmt.Sprintf(`document.documentElement.outerHTML.includes(%q)`, secret))); shown || err != nil {
		t.Errorf("the secret is still in the page: %v, %v", shown, err)
	}
	send("may not pub or sub topic")

	b.key("0")
	b.title("Policies")
	grant := func(user, kind, name string, actions ...string) {
		t.Helper()
		b.click("Grant")
		b.choose("dialog[open]", "user", user)
		b.choose("dialog[open]", "type", kind)
		b.fill("name", name)
		for _, a := range actions {
			b.do(chromedp.Click(fmt.Sprintf(`dialog[open] input[name=%q]`, a)))
		}
		if user == "shop" && kind == "RESOURCE_TOPIC" {
			b.shot("policy-grant")
		}
		b.answer("Grant")
		b.row(user, "allow", name)
	}
	grant("shop", "RESOURCE_TOPIC", "orders*", "pub", "sub")
	grant("billing", "RESOURCE_GROUP", "billing", "sub")
	grant("guest", "RESOURCE_NAMESPACE", "test", "all")
	send("")
	ask := func(action, name, answer, reason string) {
		t.Helper()
		b.choose("form.bar", "user", "shop")
		b.choose("form.bar", "action", action)
		b.do(chromedp.SetValue(`main form.bar input[name=name]`, name))
		b.click("Ask")
		b.waitFor("decision "+reason, fmt.Sprintf(`document.querySelector(".decision")?.innerText.startsWith(%q) && document.querySelector(".decision").innerText.includes(%q)`, answer, reason))
	}
	ask("delete", "orders-us", "no", "no policy")
	ask("pub", "orders-us", "yes", "allowed by policy 1: allow pub,sub on topic:orders*")
	b.shot("policies")
	b.inRow("guest", "Revoke")
	b.answer("Revoke it")
	b.told("Policy 3 is gone.")

	b.key("q")
	b.title("Quotas")
	quota := func(kind, name, limit, value string) {
		t.Helper()
		b.click("Set a quota")
		b.choose("dialog[open]", "kind", kind)
		b.fill("name", name)
		b.fill(limit, value)
		b.answer("Set")
		b.told("is in force")
		b.row(name)
	}
	quota("QUOTA_CLIENT", "*", "receiveBytes", "50MiB")
	quota("QUOTA_GROUP", "billing", "inFlight", "500")
	quota("QUOTA_TOPIC", "orders-eu", "sendBytes", "1")
	send("") // what is larger than a second's worth is taken once
	send("the quota of topic")
	b.inRow("orders-eu", "Change")
	b.fill("sendMessages", "1000")
	b.do(chromedp.SetValue(`dialog[open] input[name=sendBytes]`, "10 MiB"))
	b.answer("Set")
	b.row("orders-eu", "1,000", "10 MiB")
	b.shot("quotas")
	send("")
	b.inRow("orders-eu", "Remove")
	b.answer("Remove it")
	b.waitFor("two quotas", `document.querySelectorAll("main tbody tr").length === 2`)

	b.key("n")
	b.title("Namespaces")
	b.row("(default)")
	b.click("Create a namespace")
	b.fill("namespace", "acme")
	b.fill("name", "invoices")
	b.answer("Create")
	b.row("acme", "1")
	b.inRow("acme", "Limits")
	b.fill("sendBytes", "1MiB")
	b.answer("Set")
	b.inRow("acme", "Add a topic")
	b.fill("name", "returns")
	b.answer("Create")
	b.told("Topic acme%returns was created.")
	b.shot("namespaces")
	b.inRow("acme", "Delete")
	b.fill("sure", "acne")
	b.answer("Delete it all")
	b.told("nothing was deleted")
	b.row("acme")
	b.inRow("acme", "Delete")
	b.fill("sure", "acme")
	b.answer("Delete it all")
	b.told("Namespace acme is gone.")
	b.waitFor("one namespace", `document.querySelectorAll("main tbody tr").length === 1`)

	b.key("9")
	b.title("Users")
	b.row("shop", "what 1 policy says")
	b.shot("users")
	b.theme("dark")
	b.waitFor("dark", `document.documentElement.dataset.theme === "dark"`)
	b.shot("users-dark")
	b.inRow("shop", "New secret")
	b.answer("Make it")
	b.waitFor("the secret", `document.querySelector("dialog[open] pre")`)
	b.answer("Close")
	send("authentication failed")
	b.inRow("shop", "Delete")
	b.answer("Delete the user")
	b.told("User shop is gone.")
	b.open("#/policies")
	b.row("billing", "allow", "group:billing")
	b.waitFor("one policy", `document.querySelectorAll("main tbody tr").length === 1`)
}
