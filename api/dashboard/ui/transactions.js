import { call, h, table, link, full, tag, int, when, ago, until, confirmBox, act, words } from "./lib.js";

export function page(params, refresh) {
  const parked = h("input", { type: "checkbox", onchange: refresh });
  const title = h("small"), more = h("p", { class: "dim" });
  const t = table([
    { title: "Message", id: true, cell: x => link("message", { topic: x.topic, ns: x.namespace, id: x.messageId }, x.messageId) },
    { title: "Topic", cell: x => link("topic", { name: x.topic, ns: x.namespace }, full(x.namespace, x.topic)), sort: x => x.topic },
    { title: "State", cell: x => tag(words(x.state, ""), x.state === "PARKED" ? "warn" : "") },
    { title: "Stored", cell: x => [when(x.stored), h("span", { class: "line dim" }, ago(x.stored, x.now))], sort: x => x.stored },
    { title: "Checks", num: true, cell: x => String(x.checks), sort: x => x.checks },
    { title: "Next check", cell: x => x.nextCheck ? until(x.nextCheck, x.now) : "–" },
    { title: "", cell: x => [button(x, "COMMIT", "Commit"), " ", button(x, "ROLLBACK", "Roll back"), " ", button(x, "RECHECK", "Ask again")] },
  ], x => x.id, "No transaction is undecided.");

  const says = {
    COMMIT: "It is delivered to every group of its topic. A decision cannot be taken back.",
    ROLLBACK: "It is never delivered. A decision cannot be taken back.",
    RECHECK: "Its producers are asked at once, and from the first check on.",
  };
  function button(x, settlement, text) {
    return h("button", { class: settlement === "ROLLBACK" ? "small danger" : "small", type: "button", onclick: async () => {
      if (!await confirmBox({ title: `${text}: ${x.messageId}?`, action: text, danger: settlement === "ROLLBACK", body: h("p", {}, says[settlement]) })) return;
      act(async () => {
        const r = await call("Management/SettleTransaction", { id: x.id, settlement });
        return settlement === "RECHECK" ? `${int(r.producers)} producers of ${x.topic} are connected and are asked.` : `It is ${words(r.transaction.state, "")}.`;
      }, refresh);
    } }, text);
  }

  return {
    node: h("div", {}, h("h1", {}, "Transactions", title), h("form", { class: "bar", onsubmit: e => e.preventDefault() }, h("label", { class: "inline" }, parked, "only those that wait for a person")), t.node, more),
    async update(o) {
      const r = await call("Management/ListTransactions", { parked: parked.checked, limit: 500 });
      title.textContent = int(r.transactions.length);
      more.textContent = r.transactions.length === 500 ? "The 500 oldest; gantry txn list shows more." : "";
      t.update(r.transactions.map(x => ({ ...x, now: o.time })));
    },
  };
}
