package dashboard

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// shots is where the screenshots are kept; without it they are only taken, so that a
// run leaves the tree as it was.
var shots = flag.String("shots", "", "write screenshots to this directory")

// patience bounds each thing that is waited for.
const patience = 20 * time.Second

// browser is one window.
type browser struct {
	t   *testing.T
	ctx context.Context
	web string
	but string // what its console may say; "": nothing
}

// openBrowser fails the test at its end if the browser's console said anything: an
// error of a script, or something that the page's policy did not let it load.
func openBrowser(t *testing.T, web string) *browser {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, // a container has no user to drop to
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
	)
	alloc, stop := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(stop)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	b := &browser{t: t, ctx: ctx, web: web}
	thrown, logged := chromedp.Events(ctx, runtime.ExceptionThrown), chromedp.Events(ctx, log.EntryAdded)
	var reading sync.WaitGroup
	var mu sync.Mutex
	var said []string
	say := func(text string) { mu.Lock(); said = append(said, text); mu.Unlock() }
	reading.Go(func() {
		for e, err := range thrown {
			if err != nil {
				return
			}
			say((&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
		}
	})
	reading.Go(func() {
		for e, err := range logged {
			if err != nil {
				return
			}
			say(e.Entry.Text + " " + e.Entry.URL)
		}
	})
	t.Cleanup(func() {
		cancel()
		reading.Wait()
		for _, s := range said {
			if b.but == "" || !strings.Contains(s, b.but) {
				t.Errorf("the browser's console said: %s", s)
			}
		}
	})
	b.do(chromedp.EmulateViewport(1280, 800))
	return b
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx := b.ctx
	if chromedp.FromContext(ctx).Target != nil { // the first call's context is the browser's life
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.fail(err)
	}
}

// fail ends the test, and says what the page shows.
func (b *browser) fail(err error) {
	b.t.Helper()
	text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`document.title + "\n" + document.body.innerText`))
	b.t.Fatalf("%v; the page shows:\n%s", err, text)
}

// open shows a page by its address.
func (b *browser) open(hash string) { b.t.Helper(); b.do(chromedp.Navigate(b.web + "/" + hash)) }

// click clicks the first link or button that begins with a label.
func (b *browser) click(label string) {
	b.t.Helper()
	b.do(chromedp.Click(fmt.Sprintf(`//*[self::nav or self::main]//*[self::a or self::button][not(@hidden)][starts-with(normalize-space(.), %q)]`, label)))
}

// answer clicks a button of the dialog that is open.
func (b *browser) answer(label string) {
	b.t.Helper()
	b.do(chromedp.Click(fmt.Sprintf(`//dialog[@open]//button[normalize-space(.)=%q]`, label)))
}

// waitFor returns when an expression of JavaScript is true.
func (b *browser) waitFor(what, expression string) {
	b.t.Helper()
	b.waitUpTo(patience, what, expression)
}

func (b *browser) waitUpTo(most time.Duration, what, expression string) {
	b.t.Helper()
	_, err := chromedp.Run(b.ctx, chromedp.Poll[bool]("Boolean("+expression+")", chromedp.WithPollingTimeout(most), chromedp.WithPollingInterval(50*time.Millisecond)))
	if err != nil {
		b.fail(fmt.Errorf("no %s: %w", what, err))
	}
}

// sees returns when the page has the text, in a row of a table if there are tables.
func (b *browser) sees(texts ...string) {
	b.t.Helper()
	for _, text := range texts {
		b.waitFor(fmt.Sprintf("text %q", text), fmt.Sprintf(`document.getElementById("main").innerText.includes(%q)`, text))
	}
}

// row returns when one row of a table has all the texts.
func (b *browser) row(texts ...string) {
	b.t.Helper()
	quoted := make([]string, len(texts))
	for i, s := range texts {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	b.waitFor(fmt.Sprintf("row with %q", texts),
		fmt.Sprintf(`[...document.querySelectorAll("main tbody tr")].some(r => [%s].every(t => r.innerText.includes(t)))`, strings.Join(quoted, ",")))
}

func (b *browser) title(title string) {
	b.t.Helper()
	b.waitFor("page "+title, fmt.Sprintf(`document.querySelector("h1")?.innerText.startsWith(%q)`, title))
}

// key presses a key outside of any field.
func (b *browser) key(k string) { b.t.Helper(); b.do(chromedp.KeyEvent(k)) }

// shot takes a picture of what is seen, without the notes about what was done before.
func (b *browser) shot(name string) {
	b.t.Helper()
	b.do(chromedp.Evaluate[chromedp.Void](`document.getElementById("toasts").replaceChildren()`))
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.fail(err)
	}
	if *shots == "" {
		return
	}
	if err := errors.Join(os.MkdirAll(*shots, 0o755), os.WriteFile(filepath.Join(*shots, name+".png"), png, 0o644)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *browser) theme(name string) {
	b.t.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
		})
		return err
	}))
}

func TestAnOperatorClicksThroughEveryPage(t *testing.T) {
	s := startServer(t)
	p := openShop(t, s)
	b := openBrowser(t, s.web)
	b.theme("light")

	b.open("")
	b.title("Overview")
	b.sees("Stored", "fdatasync", "Free", "Goroutines")
	b.waitFor("no shard to choose", `!document.querySelector("#shard").checkVisibility()`)
	b.waitFor("rates above 0", `[...document.querySelectorAll(".tile")].some(t => t.innerText.startsWith("Acknowledged") && /[1-9]/.test(t.innerText))`)
	b.waitFor("two traces in the first chart", `document.querySelectorAll("svg.plot .trace").length >= 2`)
	b.waitFor("a state", `document.getElementById("state").innerText.includes("ready")`)

	b.click("Topics")
	b.title("Topics")
	b.row("orders", "normal", "/s")
	b.row("reminders", "delay")
	b.waitFor("a rate of orders", `[...document.querySelectorAll("tbody tr")].some(r => r.innerText.startsWith("orders") && /[1-9][0-9.]*\/s/.test(r.innerText))`)
	b.shot("topics")
	b.do(chromedp.SendKeys(`input[type=search]`, "ship"))
	b.waitFor("only shipments", `document.querySelectorAll("tbody tr").length === 1`)
	b.click("shipments")
	b.title("shipments")
	b.row("warehouse")
	b.sees("Retention", "with the log")

	b.click("Groups")
	b.title("Groups")
	b.row("billing", "concurrent", "orders")
	b.row("slow-report", "24")
	b.shot("groups")
	b.click("warehouse")
	b.title("warehouse")
	b.row("customer-3", p.blockedID)
	b.row("shop-7f@4711", "push consumer", "gantry")
	b.waitFor("a chart", `document.querySelectorAll("svg.plot .trace").length >= 3`)
	b.shot("group")
	b.click("Skip")
	b.answer("Skip it")
	b.waitFor("word of it", `document.getElementById("toasts").innerText.includes("dead letter")`)
	b.click("Pause …")
	b.answer("Pause it")
	b.sees("Delivery", "paused")
	b.click("Resume")
	b.sees("Delivery", "on")

	b.click("Clients")
	b.title("Clients")
	b.row("fulfilment", "go 5.", "SQL price > 80") // the official client: language, version, filter
	b.row("shop-7f@4711", "TOPIC_NOT_FOUND", "no-such-topic")
	b.row("slow-report", "24") // exactly what it prefetches is in flight
	b.shot("clients")
	b.do(chromedp.Click(`//tr[contains(., "fulfilment")]//a`))
	b.sees("Command stream", "open", "Nothing was refused it")

	b.click("Messages")
	b.title("Messages")
	b.waitFor("topics to choose from", `document.querySelectorAll("select[name=topic] option").length > 4`)
	b.do(chromedp.SetValue(`select[name=topic]`, "orders"), chromedp.SetValue(`select[name=by]`, "key"),
		chromedp.Evaluate[chromedp.Void](`document.querySelector("select[name=by]").dispatchEvent(new Event("change"))`),
		chromedp.SendKeys(`input[name=text]`, "order-92\n"))
	b.row("order-92")
	b.do(chromedp.Click(`//tbody//td[1]//a`))
	b.row("billing", "done")
	b.row("mailer", "dead letter")
	b.sees("Life", "nobody@invalid")
	b.open("#/message?id=" + p.blockedID) // of no topic: it is looked for in all
	b.row("warehouse", "dead letter", "skipped")
	b.sees("attempt 1: handed to shop-7f@4711")

	b.open("#/message?topic=audit&id=" + p.hostileID)
	b.sees("window.owned", "<b>tag</b>")
	owned, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](`window.owned === true || document.querySelector("main img, main script, main b") !== null`))
	if owned || err != nil {
		t.Errorf("text of a message became part of the document: %v, %v", owned, err)
	}

	b.click("Dead letters")
	b.title("Dead letters")
	b.waitFor("groups with dead letters", `document.querySelectorAll("select[name=group] option").length === 2`)
	b.open("#/letters?group=mailer")
	b.row("order-92", "orders/")
	b.waitFor("five dead letters", `document.querySelectorAll("tbody tr").length === 5`)
	b.shot("dead-letters")
	b.do(chromedp.Click(`tbody input[type=checkbox]`))
	b.click("Redrive 1")
	b.waitFor("the question", `document.querySelector("dialog[open]")?.innerText.includes("Redrive 1 dead letter of mailer?")`)
	b.do(chromedp.SendKeys(`dialog input[name=target]`, "audit"))
	b.answer("Redrive")
	b.waitFor("word of it", `document.getElementById("toasts").innerText.includes("1 of 1 dead letters redriven")`)
	b.waitFor("four dead letters", `document.querySelectorAll("tbody tr").length === 4`)

	b.click("Timers")
	b.title("Timers")
	b.row("invoice-500", "in 6 h")
	b.shot("timers")
	b.do(chromedp.Click(fmt.Sprintf(`//tr[contains(., %q)]//button[normalize-space(.)="Cancel"]`, p.timerID)))
	b.answer("Cancel the message")
	b.waitFor("eight timers", `document.querySelectorAll("tbody tr").length === 8`)

	b.click("Transactions")
	b.title("Transactions")
	b.row("payments", "open")
	b.waitFor("four transactions", `document.querySelectorAll("tbody tr").length === 4`)
	b.shot("transactions")
	b.do(chromedp.Click(`//tbody/tr[1]//button[normalize-space(.)="Commit"]`))
	b.answer("Commit")
	b.waitFor("three transactions", `document.querySelectorAll("tbody tr").length === 3`)

	for _, page := range []string{"Users", "Policies"} {
		b.click(page)
		b.title(page)
		b.sees("This broker runs without --auth.")
	}
	b.waitFor("no way to grant anything to nobody", `[...document.querySelectorAll("main button")].find(x => x.innerText === "Grant …").disabled`)

	// Keys, and both colours of the two pages that show most.
	b.key("1")
	b.title("Overview")
	// Its seventh sample is half a minute after the start: who clicks quickly waits longer.
	b.waitUpTo(30*time.Second+patience, "a chart with some past", `document.querySelector("svg.plot .trace")?.getAttribute("d").split("L").length > 5`)
	b.shot("overview")
	b.theme("dark")
	b.waitFor("dark", `document.documentElement.dataset.theme === "dark"`)
	b.shot("overview-dark")
	b.open("#/message?id=" + p.blockedID)
	b.row("warehouse", "dead letter")
	b.shot("message-dark")
	b.theme("light")
	b.shot("message")
	b.key("t")
	b.waitFor("the theme that was chosen", `localStorage.theme === "light"`)
	b.key("p")
	b.waitFor("a pause", `document.getElementById("live").getAttribute("aria-pressed") === "false"`)
	b.key("?")
	b.waitFor("the keys", `document.querySelector("dialog[open]")?.innerText.includes("bring up to date")`)
}
