package dashboard

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/gantry-mq/gantry/internal/freeaddr"
)

// The browser is at a node that leads nothing: it shows what the other has.
func TestAnOperatorChoosesAShard(t *testing.T) {
	at := freeaddr.Of(t, 4, 2)
	first := startServer(t, "--shards", "2", "--node", "n1", "--bootstrap", "--listen", at[0], "--peer", at[1])
	second := startServer(t, "--shards", "2", "--node", "n2", "--join", at[1], "--listen", at[2], "--peer", at[3])
	gantry := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(first.binary, append(args, "--server", first.addr)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", args, err, out)
		}
		return string(out)
	}
	gantry("topic", "create", "orders", "--queues", "1")
	gantry("send", "orders", "of the first shard")
	id := strings.Fields(gantry("send", "orders", "of the second shard", "--shard", "1"))[0]

	b := openBrowser(t, second.web)
	b.theme("light")
	b.open("")
	b.title("Overview")
	b.waitFor("a choice of two shards", `[...document.querySelectorAll("#shard option")].map(o => o.innerText).join() === "0,1" && document.querySelector("#shard select").checkVisibility()`)
	name := func(want string) {
		t.Helper()
		b.waitFor("the broker "+want, `document.querySelector("#server b")?.innerText === "`+want+`"`)
	}
	name("gantry")
	b.choose("#shard", "shard", "1")
	name("gantry-1")
	b.shot("shards")
	b.click("Topics") // a link keeps the shard
	b.row("orders", "normal")
	b.click("Namespaces")
	b.click("Create a namespace")
	b.fill("namespace", "shop")
	b.fill("name", "payments")
	b.answer("Create")
	b.click("Topics")
	b.row("shop%payments")       // made in shard 0, and come from there
	b.but = "404 (Not Found)"    // what the first shard says, and Chromium tells
	b.open("#/message?id=" + id) // wherever it is
	b.sees("of the second shard")
	name("gantry-1")
	if list := gantry("topic", "list", "--shard", "0"); !strings.Contains(list, "payments") {
		t.Errorf("shard 0 has no topic payments:\n%s", list)
	}
}
