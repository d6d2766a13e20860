import { call, h, table, link, full, rates, rate, int, num, short, bytes, ms, confirmBox, act, field, choice } from "./lib.js";
import { askQuota } from "./quotas.js";

const shown = name => name || "(default)";
const types = ["NORMAL", "FIFO", "DELAY", "TRANSACTION", "PRIORITY", "LITE", "MIXED"].map(t => [t, t.toLowerCase()]);

export function page(params, refresh) {
  const perSecond = rates();
  const title = h("small");
  const t = table([
    { title: "Namespace", wrap: true, cell: n => link("topics", n.name ? { find: n.name + "%" } : {}, shown(n.name)), sort: n => n.name },
    { title: "Topics", num: true, cell: n => int(n.topics), sort: n => n.topics },
    { title: "Groups", num: true, cell: n => int(n.groups), sort: n => n.groups },
    { title: "Quotas", num: true, cell: n => int(n.quotas), sort: n => n.quotas },
    { title: "Stored", num: true, cell: n => rate(n.rate[0]), sort: n => n.rate[0] ?? 0 },
    { title: "Handed out", num: true, cell: n => rate(n.rate[1]), sort: n => n.rate[1] ?? 0 },
    { title: "Bodies since start", num: true, cell: n => bytes(n.bytesIn), sort: n => num(n.bytesIn) },
    { title: "Lag", num: true, cell: n => short(n.lag), sort: n => num(n.lag) },
    { title: "", cell: n => [
      h("button", { class: "small", type: "button", onclick: () => create(n.name) }, "Add a topic …"), " ",
      h("button", { class: "small", type: "button", onclick: () => bound(n.name) }, "Limits …"), " ",
      n.name ? h("button", { class: "small danger", type: "button", onclick: () => remove(n.name) }, "Delete …") : "",
    ] },
  ], n => n.name, "There is no topic and no group, so no namespace.");

  async function create(namespace) {
    const form = await confirmBox({
      title: namespace === undefined ? "Create a namespace" : `Add a topic to ${shown(namespace)}`, action: "Create",
      body: [
        h("div", { class: "fields" },
          namespace === undefined ? field("Namespace", h("input", { name: "namespace", required: true })) : [],
          field(namespace === undefined ? "Its first topic" : "Topic", h("input", { name: "name", required: true })),
          field("Type", choice({ name: "type" }, types)), field("Queues", h("input", { name: "queues", type: "number", min: 1, max: 1024, value: 8 }))),
        namespace === undefined ? h("p", { class: "dim" }, "A namespace is there as long as a topic or a group is in it.") : "",
      ],
    });
    if (!form) return;
    act(async () => {
      const { topic } = await call("Management/CreateTopic", { namespace: namespace ?? form.get("namespace").trim(), name: form.get("name").trim(), type: form.get("type"), queues: num(form.get("queues")) });
      return `Topic ${full(topic.namespace, topic.name)} was created.`;
    }, refresh);
  }

  // bound asks for the namespace's own quota, beside those of what is in it.
  function bound(name) {
    act(async () => {
      const mine = q => q.subject.kind === "QUOTA_NAMESPACE" && q.subject.name === name;
      const { quotas } = await call("Quotas/List");
      await askQuota(quotas.find(mine) ?? { subject: { kind: "QUOTA_NAMESPACE", name } }, refresh);
    });
  }

  // remove deletes what is in a namespace, groups first: nobody takes messages of a topic
  // that is half gone. What fails is told, and the rest is left as it is.
  function remove(namespace) {
    act(async () => {
      const [{ topics }, { groups }] = await Promise.all([call("Management/ListTopics", { namespace }), call("Management/ListGroups", { namespace })]);
      const names = [...topics.map(t => "topic " + t.name), ...groups.map(g => "group " + g.name)];
      const form = await confirmBox({
        title: `Delete all that is in ${namespace}?`, action: "Delete it all", danger: true,
        body: [
          h("pre", {}, names.join("\n")),
          h("p", {}, "Their messages, and how far the groups are, are gone for good. Quotas and policies stay."),
          field("Type the namespace's name to confirm", h("input", { name: "sure", required: true, autocomplete: "off" })),
        ],
      });
      if (!form) return "";
      if (form.get("sure").trim() !== namespace) throw new Error("That is not its name: nothing was deleted.");
      for (const g of groups) await call("Management/DeleteGroup", { namespace, name: g.name });
      for (const t of topics) await call("Management/DeleteTopic", { namespace, name: t.name });
      return `Namespace ${namespace} is gone.`;
    }, refresh);
  }

  return {
    node: h("div", {}, h("h1", {}, "Namespaces", title),
      h("form", { class: "bar", onsubmit: e => e.preventDefault() }, h("button", { class: "main", type: "button", onclick: () => create() }, "Create a namespace …")), t.node),
    async update(o) {
      const r = await call("Namespaces/List");
      t.update(r.namespaces.map(n => ({ ...n, rate: perSecond(n.name, ms(o.time), num(n.messagesIn), num(n.messagesOut)) })));
      title.textContent = int(r.namespaces.length);
    },
  };
}
