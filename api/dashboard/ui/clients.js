import { call, h, table, facts, link, full, tag, num, int, ago, when, words } from "./lib.js";

const role = c => words(c.role, "CLIENT_");
const topicLink = (t, ns) => link("topic", { name: t, ns }, full(ns, t));
const filterOf = s => s.filter && s.filter !== "*" ? `${s.sql ? "SQL " : ""}${s.filter}` : "";

export const columns = [
  { title: "Client", id: true, wrap: true, cell: c => link("client", { id: c.client.id }, c.client.id), sort: c => c.client.id },
  { title: "Is", cell: c => [role(c), h("span", { class: "line dim" }, [c.client.language.toLowerCase(), c.client.version].filter(Boolean).join(" "))], sort: c => c.role },
  { title: "Address", cell: c => [c.client.remoteAddress, h("span", { class: "line dim" }, c.client.host)] },
  { title: "Group", cell: c => c.group ? link("group", { name: c.group, ns: c.namespace }, full(c.namespace, c.group)) : "–", sort: c => c.group },
  { title: "Topics", wrap: true, cell: c => [...c.publishing.map(t => h("span", { class: "line" }, topicLink(t.name, t.namespace))),
    ...c.subscriptions.map(s => h("span", { class: "line" }, topicLink(s.topic, s.namespace), filterOf(s) ? [" ", tag(filterOf(s))] : ""))] },
  { title: "In flight", num: true, cell: c => int(c.inFlight), sort: c => num(c.inFlight) },
  { title: "Last seen", cell: c => ago(c.client.lastSeen, c.now), sort: c => c.client.lastSeen },
  { title: "Last error", wrap: true, cell: c => c.lastError ? [tag(c.lastError.code, "bad"), h("span", { class: "line dim" }, c.lastError.message)] : h("span", { class: "dim" }, "none") },
];

export function list() {
  const find = h("input", { type: "search", placeholder: "filter by id, group, address", "aria-label": "filter", oninput: () => show() });
  const t = table(columns, c => c.client.id, "No client is connected.");
  const title = h("small");
  let rows = [];
  const show = () => t.update(rows.filter(c => [c.client.id, c.group, c.client.remoteAddress, c.client.language.toLowerCase()].some(x => x.includes(find.value))));
  return {
    node: h("div", {}, h("h1", {}, "Clients", title), h("form", { class: "bar", onsubmit: e => e.preventDefault() }, find), t.node),
    async update() {
      const r = await call("Observe/Clients");
      rows = r.clients.map(c => ({ ...c, now: r.time }));
      title.textContent = int(rows.length);
      show();
    },
  };
}

export function detail(params) {
  const about = h("section", { class: "panel" }), error = h("section", { class: "panel" });
  const subs = table([
    { title: "Topic", cell: s => topicLink(s.topic, s.namespace) },
    { title: "Filter", wrap: true, cell: s => filterOf(s) || "all" },
    { title: "In flight here", num: true, cell: s => int(s.inFlight) },
    { title: "Lag of its group", num: true, cell: s => int(s.lag) },
  ], s => full(s.namespace, s.topic), "It subscribes to nothing.");
  return {
    node: h("div", {}, h("p", { class: "crumbs" }, link("clients", {}, "Clients")), h("h1", {}, params.id), h("div", { class: "grid" }, about, error), h("h2", {}, "Subscriptions"), subs.node),
    async update() {
      const r = await call("Observe/Clients");
      const c = r.clients.find(x => x.client.id === params.id);
      if (!c) {
        about.replaceChildren(h("h2", {}, "Gone"), h("p", {}, "This client is not connected."));
        error.replaceChildren();
        subs.update([]);
        return;
      }
      about.replaceChildren(h("h2", {}, "Client"), facts([
        ["Is", role(c)], ["Language", c.client.language.toLowerCase()], ["Version", c.client.version], ["Address", c.client.remoteAddress], ["Host", c.client.host],
        ["Group", c.group ? link("group", { name: c.group, ns: c.namespace }, full(c.namespace, c.group)) : ""],
        ["Publishes to", c.publishing.length ? h("span", {}, c.publishing.map((t, i) => [i ? ", " : "", topicLink(t.name, t.namespace)]).flat()) : ""],
        ["In flight", int(c.inFlight)], ["Connected", `${when(c.connected)}, ${ago(c.connected, r.time)}`], ["Last seen", ago(c.client.lastSeen, r.time)],
        ["Command stream", c.streaming ? "open" : "not open"],
      ]));
      error.replaceChildren(h("h2", {}, "Last error"), c.lastError
        ? facts([["Code", tag(c.lastError.code, "bad")], ["Call", c.lastError.method], ["Told", c.lastError.message], ["When", `${when(c.lastError.time)}, ${ago(c.lastError.time, r.time)}`]])
        : h("p", { class: "dim" }, "Nothing was refused it."));
      subs.update(c.subscriptions);
    },
  };
}
