// The frame: which page is shown, when it is brought up to date, keys and colours.

import { call, h, setText, tellBox, to, shard, shards, showShard, onShards, CallError, span, seconds } from "./lib.js";
import * as overview from "./overview.js";
import * as topics from "./topics.js";
import * as groups from "./groups.js";
import * as clients from "./clients.js";
import * as messages from "./messages.js";
import * as letters from "./letters.js";
import * as timers from "./timers.js";
import * as transactions from "./transactions.js";
import * as users from "./users.js";
import * as policies from "./policies.js";
import * as quotas from "./quotas.js";
import * as namespaces from "./namespaces.js";

// A page is made by page(params, refresh), which returns {node, update()}; update is
// called at once and then every two seconds while the page is looked at.
const pages = [
  ["overview", "Overview", overview.page],
  ["topics", "Topics", topics.list],
  ["groups", "Groups", groups.list],
  ["clients", "Clients", clients.list],
  ["messages", "Messages", messages.search],
  ["letters", "Dead letters", letters.page],
  ["timers", "Timers", timers.page],
  ["transactions", "Transactions", transactions.page],
  ["users", "Users", users.page],
  ["policies", "Policies", policies.page],
  ["quotas", "Quotas", quotas.page],
  ["namespaces", "Namespaces", namespaces.page],
];
const pageKeys = "1234567890qn"; // the digits are fewer than the pages
const details = {
  topic: ["topics", topics.detail], group: ["groups", groups.detail], client: ["clients", clients.detail], message: ["messages", messages.detail],
};

const every = 2000;
const main = document.getElementById("main");
let current = null, live = true, timer = 0, turn = 0;

document.getElementById("pages").append(...pages.map(([name, title], i) =>
  h("li", {}, h("a", { href: "#/" + name, "data-page": name }, title, h("kbd", {}, pageKeys[i])))));

// where takes the address apart: the name of the page, and what it is about.
function where() {
  const [path, query] = location.hash.replace(/^#\//, "").split("?");
  return [path || "overview", Object.fromEntries(new URLSearchParams(query))];
}

function open() {
  const [name, params] = where();
  showShard(Number(params.shard ?? 0));
  choose();
  const known = pages.find(p => p[0] === name);
  const [section, make] = known ? [name, known[2]] : details[name] ?? ["overview", overview.page];
  document.querySelector(".brand").href = to("overview");
  for (const a of document.querySelectorAll("#pages a")) {
    a.href = to(a.dataset.page);
    if (a.dataset.page === section) a.setAttribute("aria-current", "page"); else a.removeAttribute("aria-current");
  }
  current?.leave?.();
  current = make(params, refresh);
  main.replaceChildren(current.node);
  document.title = (main.querySelector("h1")?.firstChild.textContent ?? "Gantry") + " · Gantry";
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
  refresh();
}

// refresh brings the page and the bar above it up to date, one time at a time.
async function refresh() {
  clearTimeout(timer);
  const mine = ++turn, page = current;
  try {
    const told = await call("Observe/Overview");
    if (mine !== turn) return;
    bar(told);
    await page.update(told);
    if (mine === turn) page.failed?.remove();
  } catch (e) {
    if (mine !== turn) return;
    failed(page, e);
  }
  if (mine === turn && live && !document.hidden) timer = setTimeout(refresh, every);
}

function failed(page, e) {
  if (!(e instanceof CallError)) console.error(e);
  if (e.code === "UNAVAILABLE") state("bad", e.message);
  page.failed?.remove();
  page.failed = h("p", { class: "banner bad" }, e.message);
  page.node.prepend(page.failed);
}

function bar(o) {
  const s = o.server, p = o.process;
  document.getElementById("server").replaceChildren(h("b", {}, s.name),
    ` ${s.version}${s.commit ? " commit " + s.commit.slice(0, 12) : ""} · up ${span(seconds(p.uptime))} · ${s.durability || "durability unknown"} · ${s.dataDir}`);
  if (o.notReady) state("bad", o.notReady);
  else if (o.log.failure || o.log.diskFull) state("bad", o.log.failure || "the disk is full");
  else state("good", "ready");
}

function state(kind, text) {
  const e = document.getElementById("state");
  e.className = kind;
  setText(e, "● " + text);
}

// ---- Shards ----

const shardBox = document.getElementById("shard"), shardChoice = shardBox.querySelector("select");
function choose() {
  shardBox.hidden = shards === 1;
  shardChoice.replaceChildren(...Array.from({ length: shards }, (_, i) => h("option", { value: String(i) }, String(i))));
  shardChoice.value = String(shard);
}
// Topics and groups are in all shards; a message or a client need not be.
shardChoice.addEventListener("change", () => {
  const [name, params] = where(), stays = name !== "message" && name !== "client";
  location.hash = to(stays ? name : details[name][0], { ...stays && params, shard: Number(shardChoice.value) || "" });
});
onShards(choose);

// ---- Live or not ----

const liveButton = document.getElementById("live");
function setLive(on) {
  live = on;
  liveButton.setAttribute("aria-pressed", on);
  setText(liveButton, on ? "Live" : "Paused");
  if (on) refresh(); else clearTimeout(timer);
}
liveButton.addEventListener("click", () => setLive(!live));
document.addEventListener("visibilitychange", () => { if (!document.hidden && live) refresh(); });

// ---- Colours ----

const themes = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
function paint() {
  const theme = localStorage.getItem("theme") ?? "auto";
  document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  setText(document.getElementById("theme"), "Theme: " + theme);
}
function nextTheme() {
  const now = themes.indexOf(localStorage.getItem("theme") ?? "auto");
  localStorage.setItem("theme", themes[(now + 1) % themes.length]);
  paint();
}
document.getElementById("theme").addEventListener("click", nextTheme);
dark.addEventListener("change", paint);
paint();

// ---- Keys ----

const keys = {
  "/": ["to the first field", () => main.querySelector("input, select")?.focus()],
  r: ["bring up to date", () => refresh()],
  p: ["pause, or go on", () => setLive(!live)],
  t: ["change the theme", nextTheme],
  "?": ["this list", help],
};
pages.forEach(([name, title], i) => { keys[pageKeys[i]] = [title, () => { location.hash = to(name); }]; });

document.addEventListener("keydown", e => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.target.closest("input, select, textarea, dialog")) {
    if (e.key === "Escape" && !e.target.closest("dialog")) e.target.blur();
    return;
  }
  const k = keys[e.key];
  if (!k) return;
  e.preventDefault();
  k[1]();
});

function help() {
  tellBox("Keys", h("dl", { class: "facts" }, Object.entries(keys).map(([k, [what]]) => [h("dt", {}, h("kbd", {}, k)), h("dd", {}, what)])));
}

addEventListener("hashchange", open);
open();
