import { call, shard, shards, h, table, facts, link, to, full, tag, int, bytes, ms, when, ago, words, toast } from "./lib.js";

const kinds = { MESSAGE_DEAD_LETTER: "bad", MESSAGE_RETRYING: "warn", MESSAGE_PARKED: "warn", MESSAGE_HALF: "warn", MESSAGE_QUEUED: "good" };
const stateTag = s => tag(words(s, "MESSAGE_"), kinds[s] ?? "");

// topicSelect is filled with the topics; it keeps its value.
export function topicSelect(value, ns, only = () => true) {
  const chosen = value ? full(ns ?? "", value) : "";
  const select = h("select", { name: "topic", required: true }, h("option", { value: chosen }, chosen || "…"));
  call("Management/ListTopics").then(r => {
    const names = r.topics.filter(only).map(t => full(t.namespace, t.name));
    if (chosen && !names.includes(chosen)) names.unshift(chosen);
    select.replaceChildren(...names.map(n => h("option", { value: n }, n)));
    if (chosen) select.value = chosen;
    select.dispatchEvent(new Event("filled"));
  }, e => toast(e.message, true));
  return select;
}

// part is the reverse of full.
export function part(name) {
  const [, namespace, topic] = name.match(/^((?:[^~%]|%~)(?:[^%]|%~)*)%(.*)$/) ?? [];
  return topic === undefined ? { topic: name.replace("~", ""), namespace: "" } : { topic, namespace: namespace.replaceAll("%~", "%") };
}

const local = t => t ? new Date(t).toISOString() : undefined;

export function search(params) {
  const topic = topicSelect(params.topic, params.ns);
  const by = h("select", { name: "by" }, [["list", "time and state"], ["id", "message id"], ["key", "key"]].map(([v, t]) => h("option", { value: v, selected: params.by === v }, t)));
  const text = h("input", { name: "text", class: "wide", placeholder: "id or key", value: params.text ?? "", "aria-label": "id or key" });
  const state = h("select", { name: "state" }, [["", "any state"], ["MESSAGE_QUEUED", "queued"], ["MESSAGE_RETRYING", "retrying"], ["MESSAGE_DEAD_LETTER", "dead letter"], ["MESSAGE_HALF", "half"], ["MESSAGE_PARKED", "parked"]]
    .map(([v, t]) => h("option", { value: v, selected: params.state === v }, t)));
  const from = h("input", { type: "datetime-local", name: "from", step: 1, value: params.from ?? "" });
  const until = h("input", { type: "datetime-local", name: "to", step: 1, value: params.to ?? "" });
  const labels = { text: h("label", {}, "Id or key", text), state: h("label", {}, "State", state) };
  const adapt = () => { labels.text.hidden = by.value === "list"; labels.state.hidden = by.value !== "list"; };
  by.addEventListener("change", adapt);
  adapt();
  const t = table([
    { title: "Message", id: true, cell: m => link("message", { ...placeOf(m.of), id: m.messageId }, m.messageId) },
    { title: "State", cell: m => stateTag(m.state) },
    { title: "Queue", num: true, cell: m => String(m.queue) },
    { title: "Offset", num: true, cell: m => m.offset ?? "–" },
    { title: "Stored", cell: m => when(m.stored) },
    { title: "Tag", cell: m => m.tag || "–" },
    { title: "Keys", wrap: true, cell: m => m.keys.join(", ") || "–" },
    { title: "Body", num: true, cell: m => bytes(m.bodySize) },
    { title: "Groups that have it", wrap: true, cell: m => m.deliveries.map(d => h("span", { class: "line" }, `${d.group}: ${words(d.state, "DELIVERY_")}, attempt ${d.attempt}`)) },
  ], m => m.of + " " + m.position + " " + (m.offset ?? ""), "Nothing found.");
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => find(false) }, "More");
  const told = h("p", { class: "dim" });
  let rows = [], next = "", asked = null;

  async function find(fresh) {
    if (fresh) {
      const p = part(topic.value);
      asked = { topic: p.topic, namespace: p.namespace, limit: 50, from: local(from.value), to: local(until.value) };
      if (by.value === "id") asked.messageId = text.value.trim();
      if (by.value === "key") asked.key = text.value.trim();
      if (by.value === "list" && state.value) asked.states = [state.value];
      rows = [];
      next = "";
    }
    try {
      // A page may be empty although there are more: the server looks at so many and answers.
      for (let looked = 0; looked < 20; looked++) {
        const r = await call("Messages/Query", { ...asked, page: next });
        next = r.next;
        rows = rows.concat(r.messages.map(m => ({ ...m, of: full(asked.namespace, asked.topic) })));
        if (r.messages.length || !next) break;
      }
      told.textContent = `${int(rows.length)}${next ? " so far" : ""}, ${asked.messageId || asked.key ? "the newest first" : "the oldest first"}`;
    } catch (e) {
      toast(e.message, true);
    }
    t.update(rows);
    more.hidden = !next;
  }
  const form = h("form", { class: "bar", onsubmit: e => {
    e.preventDefault();
    const p = part(topic.value);
    const q = { topic: p.topic, ns: p.namespace, by: by.value, text: text.value, state: state.value, from: from.value, to: until.value };
    history.replaceState(null, "", to("messages", q)); // so that Back comes back here
    find(true);
  } }, h("label", {}, "Topic", topic), h("label", {}, "Find by", by), labels.text, labels.state, h("label", {}, "From", from), h("label", {}, "To", until), h("button", { class: "main" }, "Search"));
  const anywhere = h("form", { class: "bar", onsubmit: e => { e.preventDefault(); location.hash = to("message", { id: anyId.value.trim() }); } });
  const anyId = h("input", { class: "wide", required: true, placeholder: "message id", "aria-label": "message id, any topic" });
  anywhere.append(h("label", {}, "Where is a message? Any topic", anyId), h("button", {}, "Why"));
  if (params.topic) topic.addEventListener("filled", () => find(true), { once: true });
  return { node: h("div", {}, h("h1", {}, "Messages"), form, anywhere, told, t.node, more), async update() { } };
}

const placeOf = name => { const p = part(name); return { topic: p.topic, ns: p.namespace }; };

const standings = {
  GROUP_BEHIND: ["not reached", ""], GROUP_HAS_IT: ["in flight", "warn"], GROUP_WAITS: ["waits", "warn"], GROUP_READY: ["ready again", "warn"],
  GROUP_BLOCKED: ["blocked", "bad"], GROUP_DEAD: ["dead letter", "bad"], GROUP_FILTERED: ["filtered out", ""], GROUP_DONE: ["done", "good"],
};

export function detail(params) {
  const holder = h("div");
  let told = "";
  return {
    node: h("div", {}, h("p", { class: "crumbs" }, link("messages", {}, "Messages")), h("h1", {}, params.id), holder),
    async update() {
      const asked = { messageId: params.id, topic: params.topic ?? "", namespace: params.ns ?? "" };
      const why = await call("Observe/Why", asked).catch(e => elsewhere(e, asked, params));
      if (!why) return;
      const sections = [];
      for (const w of why.messages) {
        const r = await call("Messages/Get", { topic: w.topic, namespace: w.namespace, messageId: params.id }).catch(() => null);
        sections.push({ w, r, dead: await deliveriesOfTheDead(w), now: why.time });
      }
      const same = JSON.stringify(sections.map(s => [s.w, s.r, s.dead]));
      if (same === told) return;
      told = same;
      holder.replaceChildren(...(await Promise.all(sections.map(show))).flat());
    },
  };
}

// elsewhere goes to the shard that has a message which the one that is shown has not.
async function elsewhere(e, asked, params) {
  for (let i = 0; e.code === "NOT_FOUND" && i < shards; i++) {
    if (i === shard || !await call("Observe/Why", asked, undefined, i).catch(() => null)) continue;
    location.replace(to("message", { ...params, shard: i || "" }));
    return null;
  }
  throw e;
}

// deliveriesOfTheDead are those that a group made before it gave the message up: the dead
// letter keeps them.
async function deliveriesOfTheDead(w) {
  const dead = w.message.places.filter(p => p.dead && p.topic.startsWith("%DLQ%"));
  return Promise.all(dead.map(async p => {
    const group = p.topic.slice(5);
    const letter = await call("DeadLetters/Show", { group, namespace: p.namespace, offset: p.offset }).catch(() => null);
    return { group, namespace: p.namespace, state: "", history: letter?.history ?? [] };
  }));
}

async function show({ w, r, dead, now }) {
  const m = w.message;
  const groups = table([
    { title: "Group", cell: g => link("group", { name: g.group, ns: g.namespace }, full(g.namespace, g.group)) },
    { title: "Stands", cell: g => tag(standings[g.standing]?.[0] ?? g.standing, standings[g.standing]?.[1]) },
    { title: "Why", wrap: true, cell: g => g.text },
    { title: "Members", num: true, cell: g => int(g.clients) },
  ], g => full(g.namespace, g.group), "No group has begun with this topic.");
  groups.update(w.groups);
  return [
    w.heldBack ? h("p", { class: "banner warn" }, "No group gets it now: " + w.heldBack) : null,
    h("div", { class: "grid" },
      h("section", { class: "panel" }, h("h2", {}, "Message"), facts([
        ["State", stateTag(m.state)], ["Topic", link("topic", { name: w.topic, ns: w.namespace }, full(w.namespace, w.topic))], ["Queue", String(m.queue)], ["Offset", m.offset ?? "in no queue"],
        ["Tag", m.tag], ["Keys", m.keys.join(", ")], ["Message group", r?.messageGroup], ["Lite topic", r?.liteTopic], ["Due", m.due ? when(m.due) : ""],
        ["Body", bytes(m.bodySize)], ["Position in the log", int(m.position)],
      ]), r?.properties.length ? [h("h2", {}, "Properties"), facts(r.properties.map(p => [p.key, p.value]))] : ""),
      h("section", { class: "panel" }, h("h2", {}, "Life"), life(w, dead, now))),
    h("h2", {}, "Where it stands with each group"), groups.node,
    h("h2", {}, "Body"), r ? body(r) : h("p", { class: "dim" }, "It cannot be read any more."),
  ].filter(Boolean);
}

const ends = {
  DELIVERY_OPEN: ["its lease lasts until", "warn"], DELIVERY_CHANGED: ["given back, to come again at", ""], DELIVERY_SUSPENDED: ["suspended, to come again at", ""],
  DELIVERY_RELEASED: ["given back, or its client was gone; free at", "warn"], DELIVERY_FORWARDED: ["made a dead letter by its client at", "bad"], DELIVERY_SKIPPED: ["skipped by an operator at", "bad"],
  DELIVERY_EXPIRED: ["nothing was heard of its client; free again at", "warn"],
};

// life is what is known of a message, in order of time.
function life(w, dead, now) {
  const m = w.message, events = [[m.born, "born: its producer made it", ""], [m.stored, "stored", "good"]];
  if (m.due) events.push([m.due, ms(m.due) > ms(now) ? "will be due" : "due", ""]);
  for (const d of [...dead, ...m.deliveries]) {
    for (const a of d.history) {
      const [text, kind] = ends[a.end] ?? [words(a.end, "DELIVERY_"), ""];
      events.push([a.leased, `attempt ${a.number}: handed to ${a.client} of ${full(d.namespace, d.group)}; ${text} ${when(a.ended)}`, kind]);
    }
    if (d.state === "DELIVERY_WAITING") events.push([d.until, `${full(d.namespace, d.group)} may have it again, as attempt ${d.attempt + 1}`, ""]);
  }
  for (const p of m.places) {
    events.push([p.time, p.dead ? `a dead letter in ${full(p.namespace, p.topic)}: ${p.reason}${p.settled ? " (settled since)" : ""}` : `redriven to ${full(p.namespace, p.topic)}, queue ${p.queue}, offset ${p.offset}`, p.dead ? "bad" : "good"]);
  }
  events.sort((a, b) => ms(a[0]) - ms(b[0]));
  return h("ol", { class: "life" }, events.map(([at, text, kind]) => h("li", { class: kind }, h("time", { datetime: at }, `${when(at)} · ${ms(at) > ms(now) ? "ahead" : ago(at, now)}`), text)));
}

const shown = 64 << 10;

function body(r) {
  const raw = Uint8Array.from(atob(r.body), c => c.charCodeAt(0));
  let note = r.unreadable ? `As it was stored: ${r.unreadable}. ` : r.compression ? `Its producer compressed it with ${r.compression}. ` : "";
  if (raw.length > shown) note += `The first ${bytes(shown)} of ${bytes(raw.length)}. `;
  const part = raw.slice(0, shown);
  let text;
  try {
    text = new TextDecoder("utf-8", { fatal: raw.length <= shown }).decode(part);
    if (/[\u0000-\u0008\u000e-\u001f]/.test(text)) throw new Error("binary");
    try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: as it is */ }
  } catch {
    note += "Not text: in hexadecimal. ";
    text = hex(part.slice(0, 4096));
  }
  return h("div", {}, note ? h("p", { class: "dim" }, note) : "", h("pre", { tabindex: 0 }, text));
}

function hex(raw) {
  const lines = [];
  for (let at = 0; at < raw.length; at += 16) {
    const row = [...raw.slice(at, at + 16)];
    lines.push(at.toString(16).padStart(6, "0") + "  " + row.map(b => b.toString(16).padStart(2, "0")).join(" ").padEnd(48) + "  " + row.map(b => b > 31 && b < 127 ? String.fromCharCode(b) : ".").join(""));
  }
  return lines.join("\n");
}
