import { call, h, table, tiles, chart, facts, rates, link, full, num, int, short, bytes, byteRate, rate, span, seconds, ms, when, words } from "./lib.js";

const type = t => words(t.type, "TOPIC_TYPE_");

export function list(params) {
  const perSecond = rates();
  const find = h("input", { type: "search", value: params.find ?? "", placeholder: "filter by name", "aria-label": "filter by name", oninput: () => show() });
  const t = table([
    { title: "Topic", wrap: true, cell: r => link("topic", { name: r.topic.name, ns: r.topic.namespace }, r.name), sort: r => r.name },
    { title: "Type", cell: r => type(r.topic), sort: r => r.topic.type },
    { title: "Queues", num: true, cell: r => int(r.topic.queues), sort: r => r.topic.queues },
    { title: "Messages", num: true, cell: r => int(r.messages), sort: r => num(r.messages) },
    { title: "Size", num: true, cell: r => (r.bytesEstimated ? "about " : "") + bytes(r.bytes), sort: r => num(r.bytes) },
    { title: "Stored", num: true, cell: r => rate(r.rate[0]), sort: r => r.rate[0] ?? 0 },
    { title: "Bodies", num: true, cell: r => r.rate[1] == null ? "–" : byteRate(r.rate[1]), sort: r => r.rate[1] ?? 0 },
    { title: "Handed out", num: true, cell: r => rate(r.out), sort: r => r.out ?? 0 },
    { title: "Groups", num: true, cell: r => int(r.groups), sort: r => r.groups },
    { title: "Lag, worst", num: true, cell: r => short(r.lag), sort: r => r.lag },
  ], r => r.name, "No topic yet: gantry topic create NAME makes one.");
  const title = h("small");
  let rows = [];
  const show = () => t.update(rows.filter(r => r.name.includes(find.value)));
  return {
    node: h("div", {}, h("h1", {}, "Topics", title), h("form", { class: "bar", onsubmit: e => e.preventDefault() }, find), t.node),
    async update() {
      const [topics, groups] = await Promise.all([call("Observe/Topics"), call("Observe/Groups")]);
      rows = topics.topics.map(x => {
        const name = full(x.topic.namespace, x.topic.name);
        const readers = groups.groups.flatMap(g => g.topics.filter(y => full(y.namespace, y.topic) === name));
        const [inRate, byteRates] = perSecond("in " + name, ms(topics.time), num(x.messagesIn), num(x.bytesIn));
        const [out] = perSecond("out " + name, ms(groups.time), readers.reduce((sum, y) => sum + num(y.messagesOut), 0));
        return { ...x, name, rate: [inRate, byteRates], out, groups: readers.length, lag: Math.max(0, ...readers.map(y => num(y.lag))) };
      });
      title.textContent = int(rows.length);
      show();
    },
  };
}

export function detail(params) {
  const name = full(params.ns ?? "", params.name), perSecond = rates(), points = [];
  const top = tiles(["Messages", "Size", "Stored", "Bodies", "Handed out", "Groups"]);
  const traffic = chart("Messages", ["stored", "handed out"], rate);
  const settings = h("section", { class: "panel" });
  const queues = table([
    { title: "Queue", num: true, cell: q => String(q.queue), sort: q => q.queue },
    { title: "First", num: true, cell: q => int(q.minOffset) },
    { title: "Next", num: true, cell: q => int(q.maxOffset), sort: q => num(q.maxOffset) },
    { title: "Messages", num: true, cell: q => int(num(q.maxOffset) - num(q.minOffset)), sort: q => num(q.maxOffset) - num(q.minOffset) },
    { title: "Stored", num: true, cell: q => rate(q.rate), sort: q => q.rate ?? 0 },
  ], q => q.queue);
  const groups = table([
    { title: "Group", cell: g => link("group", { name: g.group.name, ns: g.group.namespace }, full(g.group.namespace, g.group.name)) },
    { title: "Members", num: true, cell: g => int(g.clients) },
    { title: "Lag", num: true, cell: g => int(g.at.lag), sort: g => num(g.at.lag) },
    { title: "In flight", num: true, cell: g => int(g.at.inFlight) },
    { title: "Waiting", num: true, cell: g => int(g.at.ready) },
    { title: "Handed out", num: true, cell: g => rate(g.out) },
  ], g => full(g.group.namespace, g.group.name), "No group consumes it.");
  return {
    node: h("div", {}, h("p", { class: "crumbs" }, link("topics", {}, "Topics")), h("h1", {}, name,
      h("small", {}, link("messages", { topic: params.name, ns: params.ns }, "look at its messages"))),
      top.node, h("div", { class: "grid" }, traffic.node, settings), h("h2", {}, "Consumed by"), groups.node, h("h2", {}, "Queues"), queues.node),
    async update() {
      const req = { name: params.name, namespace: params.ns ?? "" };
      const [d, all, consumers] = await Promise.all([call("Management/DescribeTopic", req), call("Observe/Topics", { namespace: req.namespace }), call("Observe/Groups")]);
      const now = ms(all.time), t = d.topic;
      const me = all.topics.find(x => x.topic.name === params.name) ?? { messagesIn: 0, bytesIn: 0 };
      const readers = consumers.groups.flatMap(g => g.topics.filter(y => full(y.namespace, y.topic) === name)
        .map(at => ({ ...g, at, out: perSecond(full(g.group.namespace, g.group.name), now, num(at.messagesOut))[0] })));
      const [stored, bodies] = perSecond("in", now, num(me.messagesIn), num(me.bytesIn));
      const out = readers.length && readers.every(r => r.out != null) ? readers.reduce((sum, r) => sum + r.out, 0) : readers.length ? null : 0;
      top.update([int(d.messages), (d.bytesEstimated ? "about " : "") + bytes(d.bytes), rate(stored), bodies == null ? "–" : byteRate(bodies), rate(out), int(readers.length)]);
      if (stored != null) traffic.update(push(points, { t: now, v: [stored, out] }));
      groups.update(readers);
      queues.update(d.queues.map(q => ({ ...q, rate: perSecond("queue " + q.queue, now, num(q.maxOffset))[0] })));
      const fresh = h("section", {}, h("h2", {}, "Settings"), facts([
        ["Type", type(t)], ["Queues", int(t.queues)], ["Created", when(t.created)],
        ["Retention", [num(seconds(t.retentionAge)) ? span(seconds(t.retentionAge)) : "", num(t.retentionSize) ? bytes(t.retentionSize) : ""].filter(Boolean).join(", ") || "with the log"],
        ["Deduplication", t.dedupWindow ? `by ${t.dedupKey || "id"} within ${span(seconds(t.dedupWindow))}, ${int(d.dedupRemembered)} remembered` : "off"],
        ["Lite topics", t.liteTtl ? "deleted after " + span(seconds(t.liteTtl)) : ""],
      ]));
      if (settings.textContent !== fresh.textContent) settings.replaceChildren(...fresh.childNodes);
    },
  };
}

export function push(points, p) {
  points.push(p);
  if (points.length > 900) points.shift();
  return points;
}
