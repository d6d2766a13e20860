// What the pages are made of. Text from clients reaches the document only through
// textContent and setAttribute: nothing here, or in the pages, parses HTML.

// ---- Calls ----

export class CallError extends Error {
  constructor(code, message) { super(message); this.code = code; }
}

// Of a cluster with several shards the pages show one.
export let shard = 0, shards = 1;
let counted = () => {};
export function showShard(n) { shard = n; }
export function onShards(f) { counted = f; } // called when it is another number

// What changes tables is for shard 0, from where it gets to the others; only dead letters
// have topics of their own in each.
const tables = /^(Access\/(Create|Update|Delete|Grant|Revoke)|Quotas\/(Set|Unset)|GroupOps\/Update|Management\/(Create|Update|Delete))/;
function shardOf(method, request) {
  return tables.test(method) && !request.name?.startsWith("%DLQ%") ? 0 : shard;
}

const headers = { "Content-Type": "application/json", "X-Gantry": "1" };

// call is one method of gantry.v1: call("Observe/Overview", {}).
export async function call(method, request = {}, signal, at = shardOf(method, request)) {
  const r = await send(method, request, at, signal);
  return r.json();
}

// stream is a method that answers with a stream; each gets every message.
export async function stream(method, request, each) {
  const r = await send(method, request, shardOf(method, request));
  let rest = "";
  const decoder = new TextDecoder();
  const take = line => {
    if (!line) return;
    const m = JSON.parse(line);
    if (m.error) throw new CallError(m.error.code, m.error.message);
    each(m.result);
  };
  for (const reader = r.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) break;
    rest += decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop();
    lines.forEach(take);
  }
  take(rest);
}

async function send(method, request, at, signal) {
  let r;
  try {
    r = await fetch("api/gantry.v1." + method + (at ? "?shard=" + at : ""), { method: "POST", headers, body: JSON.stringify(request), signal });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new CallError("UNAVAILABLE", "the server does not answer");
  }
  const now = Number(r.headers.get("Gantry-Shards") ?? 1);
  if (now !== shards) { shards = now; counted(); }
  if (r.ok) return r;
  const told = await r.json().catch(() => ({}));
  throw new CallError(told.code ?? "UNKNOWN", told.message ?? `HTTP status ${r.status}`);
}

// ---- Elements ----

// h makes an element: h("a", {href}, "text", child). Properties that begin with on are
// listeners; false and null are left out. Strings become text.
export function h(name, props, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(props ?? {})) {
    if (v === false || v == null) continue;
    if (k.startsWith("on")) e.addEventListener(k.slice(2), v);
    else if (k === "value") e.value = v;
    else e.setAttribute(k, v === true ? "" : v);
  }
  e.append(...children.flat(Infinity).filter(c => c !== null && c !== undefined && c !== false));
  return e;
}

const svgName = "http://www.w3.org/2000/svg";
function s(name, props, ...children) {
  const e = document.createElementNS(svgName, name);
  for (const [k, v] of Object.entries(props ?? {})) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

// setText changes the document only when the text changes, so that a selection stays.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function toast(text, bad = false) {
  const t = h("div", { class: bad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(t);
  setTimeout(() => t.remove(), bad ? 12000 : 5000);
}

export const tag = (text, kind = "") => h("span", { class: "tag " + kind }, text);

// confirmBox asks before something happens, and returns what the form holds, or null.
// Cancel submits nothing: Enter in a field must not mean it.
export function confirmBox({ title, body = [], action, danger = false }) {
  return new Promise(done => {
    const form = h("form", { method: "dialog" }, h("h2", {}, title), body,
      h("div", { class: "row" }, h("button", { type: "button", onclick: () => d.close() }, "Cancel"),
        h("button", { value: "yes", class: danger ? "danger" : "main" }, action)));
    const d = openBox(title, form, () => done(d.returnValue === "yes" ? new FormData(form) : null));
  });
}

// tellBox shows something until it is closed.
export function tellBox(title, ...body) {
  return new Promise(done => openBox(title, h("form", { method: "dialog" }, h("h2", {}, title), body,
    h("div", { class: "row" }, h("button", { class: "main" }, "Close"))), done));
}

function openBox(title, form, closed) {
  const d = h("dialog", { "aria-label": title }, form);
  d.addEventListener("close", () => { closed(); d.remove(); });
  document.body.append(d);
  d.showModal();
  return d;
}

// field is a label above an input of a dialog; choice a select of [value, text].
export const field = (label, input) => h("p", {}, h("label", {}, label, input));
export const check = (name, label, checked = false) => h("p", {}, h("label", { class: "inline" }, h("input", { type: "checkbox", name, checked }), label));
export const choice = (props, options) => h("select", props, options.map(([value, text = value]) => h("option", { value }, text)));

// act does something, tells the outcome, and calls then.
export async function act(work, then) {
  try {
    const told = await work();
    if (told) toast(told);
  } catch (e) {
    toast(e.message, true);
  }
  then?.();
}

// ---- Tables ----

// table shows rows that change: update() keeps the row elements, by key, and changes
// only cells whose text did. A column is {title, cell(row), num, id, wrap, sort(row)};
// a cell is a string, a node, or a list of those.
export function table(columns, key, empty = "nothing") {
  const body = h("tbody"), rows = new Map();
  let data = [], order = null;
  const heads = columns.map((c, i) => {
    const th = h("th", { class: c.num && "num", scope: "col" }, c.sort
      ? h("button", { type: "button", onclick: () => { order = order?.i === i ? { i, down: !order.down } : { i, down: !!c.num }; show(); } }, c.title) : c.title);
    return th;
  });
  const none = h("p", { class: "empty" }, empty);
  const wrap = h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, heads)), body), none);
  const show = () => {
    heads.forEach((th, i) => order?.i === i ? th.setAttribute("aria-sort", order.down ? "descending" : "ascending") : th.removeAttribute("aria-sort"));
    let list = data;
    if (order) {
      const by = columns[order.i].sort;
      list = [...data].sort((a, b) => { const x = by(a), y = by(b); return (x < y ? -1 : x > y ? 1 : 0) * (order.down ? -1 : 1); });
    }
    const seen = new Set();
    list.forEach((row, at) => {
      const k = key(row);
      seen.add(k);
      let r = rows.get(k);
      if (!r) {
        r = { tr: h("tr", {}, columns.map(c => h("td", { class: [c.num && "num", c.id && "id", c.wrap && "wrap"].filter(Boolean).join(" ") }))), told: [] };
        rows.set(k, r);
      }
      columns.forEach((c, i) => {
        const cell = [c.cell(row)].flat(3).filter(x => x !== null && x !== undefined && x !== false);
        const text = cell.map(x => x.outerHTML ?? x).join("\u0000");
        if (r.told[i] === text) return;
        r.told[i] = text;
        r.tr.children[i].replaceChildren(...cell);
      });
      if (body.children[at] !== r.tr) body.insertBefore(r.tr, body.children[at] ?? null);
    });
    for (const [k, r] of rows) if (!seen.has(k)) { r.tr.remove(); rows.delete(k); }
    none.hidden = list.length > 0;
    wrap.firstChild.hidden = list.length === 0;
  };
  show();
  return { node: wrap, update(list) { data = list; show(); } };
}

export function tiles(names) {
  const values = names.map(() => h("dd"));
  const node = h("dl", { class: "tiles" }, names.map((n, i) => h("div", { class: "tile" }, h("dt", {}, n), values[i])));
  return {
    node, update(list) {
      list.forEach((v, i) => {
        const [text, unit = "", kind = ""] = [v].flat();
        values[i].className = kind;
        if (values[i].dataset.told === text + unit) return;
        values[i].dataset.told = text + unit;
        values[i].replaceChildren(text, unit ? h("small", {}, unit) : "");
      });
    },
  };
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(p => p[1] !== "" && p[1] != null).map(([k, v]) => [h("dt", {}, k), h("dd", {}, v)]));
}

// ---- Charts ----

const W = 600, H = 150, LEFT = 52, RIGHT = 6, TOP = 8, BOTTOM = 20;

// chart draws lines over time. series are {name, format}; update takes points
// [{t, v: [..]}], the oldest first, t in ms. A value that is null is a gap.
export function chart(title, series, format) {
  const keys = series.map((name, i) => h("span", { class: "key s" + i }, h("i"), h("span")));
  const plot = s("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  const node = h("figure", { class: "panel chart" }, h("figcaption", {}, h("b", {}, title), keys), plot);
  let points = [], at = null, scale = null;

  const legend = () => {
    const p = at ?? points.at(-1);
    keys.forEach((k, i) => setText(k.lastChild, series[i] + (p && p.v[i] != null ? " " + format(p.v[i]) : "")));
    plot.querySelector(".cursor")?.remove();
    if (at && scale) {
      plot.append(s("line", { class: "cursor", x1: scale.x(at.t), x2: scale.x(at.t), y1: TOP, y2: H - BOTTOM }));
    }
    setText(node.querySelector("b"), at ? title + " at " + clock(at.t) : title);
  };
  plot.addEventListener("pointermove", e => {
    if (!scale || points.length < 2) return;
    const box = plot.getBoundingClientRect();
    const t = scale.t((e.clientX - box.left) / box.width * W);
    at = points.reduce((best, p) => Math.abs(p.t - t) < Math.abs(best.t - t) ? p : best);
    legend();
  });
  plot.addEventListener("pointerleave", () => { at = null; legend(); });

  const draw = () => {
    const width = plot.getBoundingClientRect().width;
    const w = Math.max(240, width || W);
    plot.setAttribute("viewBox", `0 0 ${w} ${H}`);
    plot.replaceChildren();
    if (points.length < 2) {
      plot.append(s("text", { x: w / 2, y: H / 2, "text-anchor": "middle" }, "collecting"));
      scale = null;
      legend();
      return;
    }
    const first = points[0].t, last = points.at(-1).t;
    const top = nice(Math.max(...points.flatMap(p => p.v.filter(v => v != null)), 0), format === byteRate);
    const x = t => LEFT + (t - first) / (last - first) * (w - LEFT - RIGHT);
    const y = v => H - BOTTOM - v / top * (H - TOP - BOTTOM);
    scale = { x, t: px => first + (px * w / W - LEFT) / (w - LEFT - RIGHT) * (last - first) };
    for (const f of [0, .5, 1]) {
      plot.append(s("line", { class: "grid-line", x1: LEFT, x2: w - RIGHT, y1: y(top * f), y2: y(top * f) }),
        s("text", { x: LEFT - 6, y: y(top * f) + 4, "text-anchor": "end" }, format(top * f)));
    }
    const ticks = Math.max(2, Math.min(6, Math.floor(w / 130)));
    for (let i = 0; i < ticks; i++) {
      const t = first + (last - first) * i / (ticks - 1);
      plot.append(s("text", { x: x(t), y: H - 5, "text-anchor": i === 0 ? "start" : i === ticks - 1 ? "end" : "middle" }, clock(t)));
    }
    series.forEach((_, i) => {
      let line = "", area = "", open = null, before = null;
      for (const p of points) {
        if (p.v[i] == null) { if (open !== null) area += `L${before},${y(0)}Z`; open = null; continue; }
        const px = x(p.t).toFixed(1), py = y(p.v[i]).toFixed(1);
        line += (open === null ? "M" : "L") + px + "," + py;
        area += open === null ? `M${px},${y(0)}L${px},${py}` : `L${px},${py}`;
        open ??= px;
        before = px;
      }
      if (open !== null) area += `L${before},${y(0)}Z`;
      plot.append(s("path", { class: "area s" + i, d: area }), s("path", { class: "trace s" + i, d: line }));
    });
    legend();
  };
  new ResizeObserver(draw).observe(plot);
  return { node, update(list) { points = list; if (at && !list.includes(at)) at = null; draw(); } };
}

// nice is a round number that is at least v; of bytes, round in powers of two.
function nice(v, binary) {
  if (v <= 0) return 1;
  if (binary) {
    const power = 2 ** Math.floor(Math.log2(v));
    return [1, 1.5, 2].map(f => f * power).find(n => n >= v * 1.0001) ?? 3 * power;
  }
  const unit = 10 ** Math.floor(Math.log10(v));
  return [1, 2, 2.5, 5, 10].map(f => f * unit).find(n => n >= v * 1.0001) ?? 10 * unit;
}

// ---- Formats ----

export const num = v => Number(v ?? 0); // 64-bit numbers are strings in protobuf's JSON
const group = new Intl.NumberFormat("en");
export const int = v => group.format(Math.round(num(v)));

export function short(v) {
  v = num(v);
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (v >= size * 10 || v >= size && unit !== "k") return trim(v / size) + " " + unit;
  return v >= 100 || Number.isInteger(v) ? int(v) : trim(v);
}
const trim = v => v >= 100 ? v.toFixed(0) : v >= 10 ? v.toFixed(1).replace(/\.0$/, "") : v.toFixed(2).replace(/\.?0+$/, "");
export const rate = v => v == null ? "–" : short(v) + "/s";

export function bytes(v) {
  v = num(v);
  for (const [unit, size] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) if (v >= size) return trim(v / size) + " " + unit;
  return trim(v) + " B";
}
export const byteRate = v => bytes(v) + "/s";

// seconds of a duration in JSON: "1.5s".
export const seconds = d => d ? Number.parseFloat(d) : 0;

export function span(sec) {
  if (sec < 0) return "-" + span(-sec);
  if (sec < 1) return trim(sec * 1000) + " ms";
  if (sec < 120) return trim(sec) + " s";
  const m = Math.floor(sec / 60), hours = Math.floor(m / 60), days = Math.floor(hours / 24);
  if (m < 120) return m + " min";
  if (hours < 48) return `${hours} h ${m % 60} min`;
  return `${days} d ${hours % 24} h`;
}

const two = n => String(n).padStart(2, "0");
export function clock(ms) {
  const d = new Date(ms);
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
}
export const ms = stamp => stamp ? Date.parse(stamp) : 0;

// when is a time in this browser's zone.
export function when(stamp) {
  if (!stamp) return "–";
  const d = new Date(stamp);
  const time = `${clock(d)}.${String(d.getMilliseconds()).padStart(3, "0")}`;
  return d.toDateString() === new Date().toDateString() ? time : `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${time}`;
}

// ago is how long before now a time is, by the server's clock.
export function ago(stamp, now) {
  return stamp ? span(Math.max(0, (ms(now) - ms(stamp)) / 1000)) + " ago" : "–";
}
export const until = (stamp, now) => ms(stamp) <= ms(now) ? "now" : "in " + span((ms(stamp) - ms(now)) / 1000);

export const words = (s, prefix) => (s ?? "").replace(prefix, "").toLowerCase().replaceAll("_", " ");

// rates turns counters that are looked at again and again into rates.
export function rates() {
  const before = new Map();
  return (key, time, ...values) => {
    const last = before.get(key);
    before.set(key, { time, values });
    if (!last || time <= last.time) return last?.rates ?? values.map(() => null);
    const r = values.map((v, i) => Math.max(0, v - last.values[i]) / (time - last.time) * 1000);
    before.get(key).rates = r;
    return r;
  };
}

// ---- Links ----

export function link(page, params, text) {
  return h("a", { href: to(page, params) }, text);
}

// to is the address of a page, of the shard that is shown if params do not name one.
export function to(page, params = {}) {
  const q = new URLSearchParams(Object.entries({ shard: shard || "", ...params }).filter(([, v]) => v !== "" && v != null));
  return `#/${page}${q.size ? "?" + q : ""}`;
}

// full is a resource as it is shown, and named to the server's metrics: namespace%name. What
// would read so by itself is ~name, and a % of a namespace %~, for no two are shown alike.
export const full = (namespace, name) => namespace ? namespace.replaceAll("%", "%~") + "%" + name : name.indexOf("%") > 0 ? "~" + name : name;
