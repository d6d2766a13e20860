import { call, h, table, tiles, chart, facts, rates, link, full, tag, num, int, short, rate, span, seconds, ms, when, until, confirmBox, act } from "./lib.js";
import { push } from "./topics.js";
import { columns as clientColumns } from "./clients.js";

const sum = (g, f) => g.topics.reduce((n, t) => n + num(t[f]), 0);

export function list() {
  const perSecond = rates();
  const find = h("input", { type: "search", placeholder: "filter by name", "aria-label": "filter by name", oninput: () => show() });
  const t = table([
    { title: "Group", wrap: true, cell: g => link("group", { name: g.group.name, ns: g.group.namespace }, g.name), sort: g => g.name },
    { title: "Order", cell: g => g.group.fifo ? "fifo" : "concurrent" },
    { title: "Members", num: true, cell: g => g.clients ? int(g.clients) : tag("none", g.lag ? "warn" : ""), sort: g => g.clients },
    { title: "Lag", num: true, cell: g => int(g.lag), sort: g => g.lag },
    { title: "In flight", num: true, cell: g => int(g.inFlight), sort: g => g.inFlight },
    { title: "Waiting", num: true, cell: g => int(g.ready), sort: g => g.ready },
    { title: "Handed out", num: true, cell: g => rate(g.out), sort: g => g.out ?? 0 },
    { title: "Topics", wrap: true, cell: g => g.topics.map((x, i) => [i ? ", " : "", link("topic", { name: x.topic, ns: x.namespace }, full(x.namespace, x.topic))]) },
  ], g => g.name, "No group yet: one comes into being when a consumer first names it.");
  const title = h("small");
  let rows = [];
  const show = () => t.update(rows.filter(g => g.name.includes(find.value)));
  return {
    node: h("div", {}, h("h1", {}, "Groups", title), h("form", { class: "bar", onsubmit: e => e.preventDefault() }, find), t.node),
    async update() {
      const r = await call("Observe/Groups");
      rows = r.groups.map(g => {
        const name = full(g.group.namespace, g.group.name);
        return { ...g, name, lag: sum(g, "lag"), inFlight: sum(g, "inFlight"), ready: sum(g, "ready"), out: perSecond(name, ms(r.time), sum(g, "messagesOut"))[0] };
      });
      title.textContent = int(rows.length);
      show();
    },
  };
}

function retry(g) {
  if (g.exponential) return `${span(seconds(g.exponential.initial))} × ${g.exponential.multiplier} up to ${span(seconds(g.exponential.max))}`;
  return (g.steps?.steps ?? []).map(s => span(seconds(s))).join(", ");
}

export function detail(params, refresh) {
  const name = full(params.ns ?? "", params.name), ns = params.ns ?? "", perSecond = rates(), points = [];
  const me = { group: params.name, namespace: ns };
  const top = tiles(["Lag", "In flight", "Waiting", "Handed out", "Members", "Blocked keys"]);
  const lag = chart("Backlog", ["lag", "in flight", "waiting"], short);
  const settings = h("section", { class: "panel" });
  const queues = table([
    { title: "Topic", cell: q => link("topic", { name: q.topic, ns: q.topicNs }, full(q.topicNs, q.topic)), sort: q => q.topic },
    { title: "Queue", num: true, cell: q => String(q.queue), sort: q => q.queue },
    { title: "Next", num: true, cell: q => int(q.cursor) },
    { title: "End", num: true, cell: q => int(q.maxOffset) },
    { title: "Lag", num: true, cell: q => int(q.lag), sort: q => num(q.lag) },
    { title: "In flight", num: true, cell: q => int(q.inFlight), sort: q => num(q.inFlight) },
    { title: "Waiting", num: true, cell: q => int(q.ready), sort: q => num(q.ready) },
  ], q => `${q.topicNs} ${q.topic} ${q.queue}`, "It has not begun with any topic.");
  const blocked = table([
    { title: "Key", wrap: true, cell: k => k.key || k.liteTopic || h("span", { class: "dim" }, "no message group") },
    { title: "Waits for", id: true, cell: k => [k.messageId ? link("message", { topic: k.topic, ns: k.topicNamespace, id: k.messageId }, k.messageId) : "a message that is gone",
      h("span", { class: "line dim" }, `${k.topic}/${k.queue}/${k.offset}`)] },
    { title: "Behind it", num: true, cell: k => int(k.behind) + (k.more ? "+" : "") },
    { title: "Attempts", num: true, cell: k => String(k.attempt) },
    { title: "Client", wrap: true, id: true, cell: k => k.client || "–" },
    { title: "Comes again", cell: k => k.until ? until(k.until, k.now) : "when its turn comes" },
    { title: "", cell: k => h("button", { class: "small danger", type: "button", onclick: () => skip(k) }, "Skip") },
  ], k => `${k.topic} ${k.queue} ${k.offset}`, "No message group is held up.");
  const members = table(clientColumns.filter(c => c.title !== "Group"), c => c.client.id, "No consumer is connected.");

  async function skip(k) {
    const sure = await confirmBox({
      title: "Move this message to the dead letters?", action: "Skip it", danger: true,
      body: h("p", {}, `Message ${k.messageId} of ${k.topic} goes to the dead letters of ${name}, whoever holds it, and the ${int(k.behind)} behind it are free. It can be redriven from there.`),
    });
    if (sure) act(async () => {
      await call("GroupOps/Skip", { ...me, topic: k.topic, queue: k.queue, offset: k.offset });
      return "The message is a dead letter now.";
    }, refresh);
  }

  async function pause(paused) {
    if (paused && !await confirmBox({
      title: `Pause ${name}?`, action: "Pause it",
      body: h("p", {}, "It is handed nothing until it is resumed. Its consumers stay connected and wait; what they hold they may settle."),
    })) return;
    act(async () => {
      await call("GroupOps/Update", { name: params.name, namespace: ns, paused });
      return `${name} is ${paused ? "paused" : "handed messages again"}.`;
    }, refresh);
  }

  async function reset(topic) {
    const to = h("select", { name: "to" }, h("option", { value: "earliest" }, "the first message"), h("option", { value: "latest" }, "behind the last message"), h("option", { value: "timestamp" }, "a time"));
    const at = h("input", { type: "datetime-local", name: "at", step: 1 });
    const form = await confirmBox({
      title: `Move ${name} in ${topic}`, action: "Look what would change",
      body: [h("p", { class: "dim" }, "What the group holds there is forgotten. Consumers may stay connected."), h("p", {}, h("label", {}, "To", to)), h("p", {}, h("label", {}, "Time, for the third", at))],
    });
    if (!form) return;
    const where = form.get("to") === "timestamp" ? { timestamp: new Date(form.get("at")).toISOString() } : { [form.get("to")]: true };
    act(async () => {
      const dry = await call("GroupOps/ResetOffset", { ...me, topic, ...where, dryRun: true });
      const lines = dry.queues.map(q => h("p", {}, `queue ${q.queue}: from ${q.from ?? "its beginning"} to ${q.to}; ${q.inFlight} in flight and ${q.ready} waiting are forgotten`));
      if (!await confirmBox({ title: "Move it?", action: "Move it", danger: true, body: lines })) return;
      await call("GroupOps/ResetOffset", { ...me, topic, ...where });
      return `${name} was moved in ${topic}.`;
    }, refresh);
  }

  const resets = h("p");
  return {
    node: h("div", {}, h("p", { class: "crumbs" }, link("groups", {}, "Groups")), h("h1", {}, name,
      h("small", {}, link("letters", { group: params.name, ns }, "its dead letters"))),
      top.node, h("div", { class: "grid" }, lag.node, settings), h("h2", {}, "Blocked keys"), blocked.node,
      h("h2", {}, "Members"), members.node, h("h2", {}, "Queues"), resets, queues.node),
    async update() {
      const [d, held, connected, all] = await Promise.all([
        call("Management/DescribeGroup", { name: params.name, namespace: ns }), call("GroupOps/Blocked", { ...me, limit: 200 }),
        call("Observe/Clients", { group: params.name, namespace: ns }), call("Observe/Groups", { namespace: ns }),
      ]);
      const mine = all.groups.find(g => g.group.name === params.name) ?? { topics: [] }, now = ms(all.time);
      const [out] = perSecond("out", now, sum(mine, "messagesOut"));
      const v = ["lag", "inFlight", "ready"].map(f => sum(mine, f));
      top.update([short(v[0]), short(v[1]), short(v[2]), rate(out), [int(connected.clients.length), "", connected.clients.length || !v[0] ? "" : "warn"],
        [int(held.keys.length), "", held.keys.length ? "warn" : ""]]);
      lag.update(push(points, { t: now, v }));
      blocked.update(held.keys.map(k => ({ ...k, now: all.time })));
      members.update(connected.clients.map(c => ({ ...c, now: connected.time })));
      queues.update(d.topics.flatMap(t => t.queues.map(q => ({ ...q, topic: t.name, topicNs: t.namespace }))));
      const names = d.topics.map(t => t.name).join("\n");
      if (resets.dataset.of !== names) {
        resets.dataset.of = names;
        resets.replaceChildren(...d.topics.map(t => h("button", { type: "button", class: "small", onclick: () => reset(t.name) }, `Move in ${t.name} …`)));
      }
      const g = d.group;
      const fresh = h("section", {}, h("h2", {}, "Settings"), facts([
        ["Order", g.fifo ? "one after the other for each message group" : "concurrent"], ["Attempts", `${g.maxAttempts}, then a dead letter`],
        ["Pauses", retry(g)], ["Lite topics of", g.liteTopic], ["Created", when(g.created)],
        ["Delivery", g.paused ? tag("paused", "warn") : "on"],
      ]), h("p", {}, h("button", { type: "button", class: "small", onclick: () => pause(!g.paused) }, g.paused ? "Resume" : "Pause …")));
      if (settings.textContent !== fresh.textContent) settings.replaceChildren(...fresh.childNodes);
    },
  };
}
