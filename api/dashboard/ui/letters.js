import { call, stream, h, table, link, to, full, tag, int, bytes, when, confirmBox, act, words } from "./lib.js";
import { part } from "./messages.js";

const prefix = "%DLQ%";

export function page(params, refresh) {
  const chosen = params.group ? full(params.ns ?? "", params.group) : "";
  const group = h("select", { name: "group", "aria-label": "group", onchange: () => { const p = part(group.value); location.hash = to("letters", { group: p.topic, ns: p.namespace }); } });
  const settled = h("input", { type: "checkbox", onchange: refresh });
  const picked = new Set();
  const redrive = h("button", { class: "main", type: "button", onclick: () => go("Redrive") }), discard = h("button", { class: "danger", type: "button", onclick: () => go("Discard") });
  const progress = h("p", { class: "dim", role: "status" });
  const t = table([
    { title: "", cell: d => d.state === "DEAD_LETTER_OPEN" ? h("input", { type: "checkbox", "aria-label": "select " + d.offset, "data-offset": d.offset, checked: picked.has(d.offset),
      onchange: e => { if (e.target.checked) picked.add(d.offset); else picked.delete(d.offset); label(); } }) : "" },
    { title: "Message", id: true, cell: d => [d.messageId ? link("message", { topic: d.origin?.topic, ns: d.origin?.namespace, id: d.messageId }, d.messageId) : "gone",
      h("span", { class: "line dim" }, d.keys.join(", "))] },
    { title: "From", cell: d => d.origin ? `${full(d.origin.namespace, d.origin.topic)}/${d.origin.queue}/${d.origin.offset}` : "sent here" },
    { title: "Reason", wrap: true, cell: d => [d.reason, d.lastClient ? h("span", { class: "line dim" }, "last with " + d.lastClient) : ""] },
    { title: "Attempts", num: true, cell: d => String(d.attempts), sort: d => d.attempts },
    { title: "Died", cell: d => when(d.died), sort: d => d.died },
    { title: "Body", num: true, cell: d => bytes(d.bodySize) },
    { title: "State", cell: d => tag(words(d.state, "DEAD_LETTER_"), d.state === "DEAD_LETTER_OPEN" ? "bad" : "") },
  ], d => d.offset, "No dead letter.");
  const more = h("button", { type: "button", class: "more", hidden: true, onclick: () => { limit += 100; refresh(); } }, "More");
  const title = h("small");
  let limit = 100, rows = [];

  const label = () => {
    redrive.textContent = picked.size ? `Redrive ${picked.size} …` : "Redrive all …";
    discard.textContent = picked.size ? `Discard ${picked.size} …` : "Discard all …";
    const none = !rows.some(d => d.state === "DEAD_LETTER_OPEN");
    redrive.disabled = discard.disabled = none;
  };
  label();

  async function go(what) {
    const me = part(group.value), filter = picked.size ? { offsets: [...picked] } : {};
    const req = { group: me.topic, namespace: me.namespace, filter };
    act(async () => {
      let matched = 0, failure = "";
      await stream("DeadLetters/" + what, { ...req, dryRun: true }, p => { matched = Number(p.matched); failure = p.failure; });
      const fields = what === "Redrive" ? [h("p", {}, h("label", {}, "Into the topic (empty: where each came from)", h("input", { name: "target" }))),
        h("p", {}, h("label", {}, "At most so many a second (0: as fast as it goes)", h("input", { name: "rate", type: "number", min: 0, value: 0 })))] : [h("p", {}, "They are not listed or redriven any more. It cannot be undone.")];
      const form = await confirmBox({
        title: `${what} ${matched} dead letter${matched === 1 ? "" : "s"} of ${group.value}?`, action: what, danger: what === "Discard",
        body: [failure ? h("p", { class: "warn" }, failure) : "", ...fields],
      });
      if (!form) return;
      let last = null;
      if (what === "Redrive") Object.assign(req, { targetTopic: form.get("target").trim(), rate: Number(form.get("rate")) || 0 });
      await stream("DeadLetters/" + what, req, p => { last = p; progress.textContent = `${int(p.done)} of ${int(p.matched)} done`; });
      progress.textContent = "";
      picked.clear();
      return `${int(last.done)} of ${int(last.matched)} dead letters ${what === "Redrive" ? "redriven" : "discarded"}${Number(last.failed) ? `, ${int(last.failed)} failed: ${last.failure}` : ""}.`;
    }, refresh);
  }

  return {
    node: h("div", {}, h("h1", {}, "Dead letters", title),
      h("form", { class: "bar", onsubmit: e => e.preventDefault() }, h("label", {}, "Of group", group), h("label", { class: "inline" }, settled, "settled ones too"), redrive, discard), progress, t.node, more),
    async update() {
      const topics = (await call("Management/ListTopics")).topics.filter(x => x.name.startsWith(prefix)).map(x => full(x.namespace, x.name.slice(prefix.length)));
      if (chosen && !topics.includes(chosen)) topics.unshift(chosen);
      if (group.dataset.of !== topics.join("\n")) {
        group.dataset.of = topics.join("\n");
        group.replaceChildren(...topics.map(n => h("option", { value: n }, n)));
        if (chosen) group.value = chosen;
      }
      group.disabled = topics.length === 0;
      if (!group.value) { label(); return; }
      const me = part(group.value);
      const list = [];
      let from = "0", next;
      do { // a page may be empty although there are more
        const r = await call("DeadLetters/List", { group: me.topic, namespace: me.namespace, filter: { settled: settled.checked }, from, limit: limit - list.length });
        list.push(...r.deadLetters);
        next = from = r.next;
      } while (next !== undefined && next !== null && list.length < limit);
      rows = list;
      title.textContent = int(rows.length) + (next != null ? "+" : "");
      for (const o of picked) if (!rows.some(d => d.offset === o && d.state === "DEAD_LETTER_OPEN")) picked.delete(o);
      t.update(rows);
      label();
      more.hidden = next == null;
    },
  };
}
