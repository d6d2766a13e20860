import { call, h, table, link, to, bytes, when, until, int, confirmBox, act } from "./lib.js";
import { topicSelect, part } from "./messages.js";

const delayed = t => t.type === "DELAY" || t.type === "MIXED";

export function page(params, refresh) {
  const topic = topicSelect(params.topic, params.ns, delayed);
  topic.addEventListener("change", () => { const p = part(topic.value); history.replaceState(null, "", to("timers", { topic: p.topic, ns: p.namespace })); refresh(); });
  topic.addEventListener("filled", refresh);
  const key = h("input", { type: "search", placeholder: "all", "aria-label": "key", onchange: refresh });
  const title = h("small"), cut = h("p", { class: "dim" });
  const t = table([
    { title: "Due", cell: x => [when(x.due), h("span", { class: "line dim" }, until(x.due, x.now))], sort: x => x.due },
    { title: "Message", id: true, cell: x => [link("message", { topic: x.of.topic, ns: x.of.namespace, id: x.messageId }, x.messageId), h("span", { class: "line dim" }, x.keys.join(", "))] },
    { title: "Tag", cell: x => x.tag || "–" },
    { title: "Queue", num: true, cell: x => String(x.queue) },
    { title: "Stored", cell: x => when(x.stored) },
    { title: "Body", num: true, cell: x => bytes(x.bytes) },
    { title: "", cell: x => [h("button", { class: "small", type: "button", onclick: () => reschedule(x) }, "Reschedule"), " ", h("button", { class: "small danger", type: "button", onclick: () => cancel(x) }, "Cancel")] },
  ], x => x.handle, "No delayed message waits here.");

  const named = x => ({ topic: x.of.topic, namespace: x.of.namespace, handle: x.handle });
  async function cancel(x) {
    if (await confirmBox({ title: "Cancel this message?", action: "Cancel the message", danger: true, body: h("p", {}, `${x.messageId} is due ${until(x.due, x.now)}. Cancelled, it is never delivered.`) })) {
      act(async () => { await call("Management/CancelTimer", named(x)); return "Cancelled: it will not be delivered."; }, refresh);
    }
  }
  async function reschedule(x) {
    const form = await confirmBox({ title: "Make it due at another time", action: "Reschedule", body: h("p", {}, h("label", {}, "Due (a time that is past means now)", h("input", { type: "datetime-local", name: "due", step: 1, required: true }))) });
    if (form) act(async () => { await call("Management/RescheduleTimer", { ...named(x), due: new Date(form.get("due")).toISOString() }); return "Rescheduled."; }, refresh);
  }

  return {
    node: h("div", {}, h("h1", {}, "Timers", title), h("form", { class: "bar", onsubmit: e => { e.preventDefault(); refresh(); } }, h("label", {}, "Topic", topic), h("label", {}, "Key", key)), t.node, cut),
    async update(o) {
      if (!topic.value || topic.value === "…") { t.update([]); return; }
      const p = part(topic.value);
      const r = await call("Management/ListTimers", { topic: p.topic, namespace: p.namespace, key: key.value.trim(), limit: 500 });
      title.textContent = int(r.timers.length);
      cut.textContent = r.timers.length === 500 ? "The 500 that are due first; gantry timer list shows more." : "";
      t.update(r.timers.map(x => ({ ...x, of: p, now: o.time })));
    },
  };
}
