import { call, h, table, full, tag, num, int, bytes, words, confirmBox, act, field, choice } from "./lib.js";

// A limit: its field, what it says, whether it is of bytes, and which kinds have it.
const limits = [
  ["sendMessages", "Sent/s", false, k => k !== "QUOTA_GROUP"],
  ["sendBytes", "Bytes sent/s", true, k => k !== "QUOTA_GROUP"],
  ["receiveMessages", "Received/s", false, () => true],
  ["receiveBytes", "Bytes received/s", true, () => true],
  ["inFlight", "In flight", false, k => k === "QUOTA_GROUP"],
];
const kinds = ["TOPIC", "GROUP", "CLIENT", "USER", "NAMESPACE"].map(k => ["QUOTA_" + k, k.toLowerCase()]);
const kind = s => words(s.kind, "QUOTA_");
const named = s => s.name === "*" ? ["each one ", tag(full(s.namespace, "*"))] : full(s.namespace, s.name) || "(default)";
const called = s => `${kind(s)} ${full(s.namespace, s.name) || "(default)"}`;

// Sizes are written as gantry's flags take them: 10MiB, 10MB, or a plain number.
const units = { TiB: 2 ** 40, GiB: 2 ** 30, MiB: 2 ** 20, KiB: 2 ** 10, TB: 1e12, GB: 1e9, MB: 1e6, KB: 1e3, B: 1, "": 1 };
const whole = "\\s*\\d+\\s*", size = whole + "([KMGT]i?B|B)?\\s*";

function amount(text) {
  const [, n, unit] = text.trim().match(/^(\d*)\s*(\w*)$/);
  return Number(n || 0) * units[unit];
}

function sizeText(v) {
  const [unit, bytes] = Object.entries(units).find(([u, n]) => /i/.test(u) && v % n === 0) ?? ["", 1];
  return v / bytes + unit;
}

// askQuota asks for the limits of a subject, which is chosen as well when there is none.
export async function askQuota(was, refresh) {
  const type = choice({ name: "kind" }, kinds), namespace = h("input", { name: "namespace", placeholder: "none" }), name = h("input", { name: "name" });
  const now = (f, sized) => { const v = num(was?.limits?.[f]); return !v ? "" : sized ? sizeText(v) : String(v); };
  const inputs = limits.map(([f, , sized]) => h("input", {
    name: f, placeholder: "no limit", value: now(f, sized), pattern: sized ? size : whole, title: sized ? "a size like 64MiB or 10GB" : "a number",
  }));
  const adapt = () => {
    const k = was?.subject.kind ?? type.value;
    namespace.disabled = !["QUOTA_TOPIC", "QUOTA_GROUP"].includes(k);
    name.required = k !== "QUOTA_NAMESPACE";
    limits.forEach(([, , , has], i) => { inputs[i].disabled = !has(k); });
  };
  type.addEventListener("change", adapt);
  adapt();
  const form = await confirmBox({
    title: was ? `Limits of ${called(was.subject)}` : "Set a quota", action: "Set",
    body: [
      h("div", { class: "fields" }, was ? [] : [field("Of a", type), field("Name; * is each one by itself", name), field("In namespace", namespace)],
        limits.map(([, label, sized], i) => field(label + (sized ? ", like 10MiB" : ""), inputs[i]))),
      h("p", { class: "dim" }, "What is sent beyond is refused, what is received beyond held back. In force at once, for open connections too."),
    ],
  });
  if (!form) return;
  act(async () => {
    const subject = was?.subject ?? { kind: form.get("kind"), namespace: form.get("namespace")?.trim() ?? "", name: form.get("name").trim() };
    const { quota } = await call("Quotas/Set", { subject, limits: Object.fromEntries(limits.filter(([f]) => form.has(f)).map(([f]) => [f, amount(form.get(f))])) });
    return `The quota of ${called(quota.subject)} is in force.`;
  }, refresh);
}

export function page(params, refresh) {
  const find = h("input", { type: "search", placeholder: "filter by name", "aria-label": "filter by name", oninput: () => show() });
  const title = h("small");
  const key = q => `${q.subject.kind} ${full(q.subject.namespace, q.subject.name)}`;
  const t = table([
    { title: "Of", cell: q => kind(q.subject), sort: q => q.subject.kind },
    { title: "Name", wrap: true, cell: q => named(q.subject), sort: q => full(q.subject.namespace, q.subject.name) },
    ...limits.map(([f, label, sized]) => ({ title: label, num: true, cell: q => num(q.limits[f]) ? (sized ? bytes : int)(q.limits[f]) : "–", sort: q => num(q.limits[f]) })),
    { title: "", cell: q => [
      h("button", { class: "small", type: "button", onclick: () => askQuota(rows.find(r => key(r) === key(q)), refresh) }, "Change …"), " ",
      h("button", { class: "small danger", type: "button", onclick: () => unset(q.subject) }, "Remove …"),
    ] },
  ], key, "There is no quota: nothing bounds what is sent and received but the broker's own limits.");
  let rows = [];
  const show = () => t.update(rows.filter(q => full(q.subject.namespace, q.subject.name).includes(find.value)));

  async function unset(subject) {
    if (!await confirmBox({ title: `Remove the quota of ${called(subject)}?`, action: "Remove it", danger: true, body: h("p", {}, "All its limits end at once.") })) return;
    act(async () => { await call("Quotas/Unset", { subject }); return `The quota of ${called(subject)} is gone.`; }, refresh);
  }

  return {
    node: h("div", {}, h("h1", {}, "Quotas", title),
      h("form", { class: "bar", onsubmit: e => e.preventDefault() }, find, h("button", { class: "main", type: "button", onclick: () => askQuota(null, refresh) }, "Set a quota …")), t.node),
    async update() {
      rows = (await call("Quotas/List")).quotas;
      title.textContent = int(rows.length);
      show();
    },
  };
}
