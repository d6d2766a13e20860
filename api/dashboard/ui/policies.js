import { call, h, table, full, link, tag, int, when, words, confirmBox, act, field, check, choice } from "./lib.js";
import { openDoor } from "./users.js";

const actions = ["pub", "sub", "create", "update", "delete", "get", "list"];
const types = [["RESOURCE_TOPIC", "topic"], ["RESOURCE_GROUP", "group"], ["RESOURCE_NAMESPACE", "namespace"], ["RESOURCE_CLUSTER", "cluster"]];

// pattern writes a resource as gantry acl does: topic:a%orders*.
function pattern(r) {
  const kind = words(r.type, "RESOURCE_"), name = r.name + (r.match === "MATCH_LITERAL" ? "" : "*");
  if (r.type === "RESOURCE_ANY" || r.type === "RESOURCE_CLUSTER") return kind;
  return `${kind}:${r.type === "RESOURCE_NAMESPACE" ? name : full(r.namespace, name)}`;
}

// resourceFields are what says which topic, group or namespace is meant: those that a
// type has nothing to do with are disabled, and so not in the form.
function resourceFields(kinds) {
  const type = choice({ name: "type" }, kinds), name = h("input", { name: "name", size: 14 }), namespace = h("input", { name: "namespace", size: 10, placeholder: "none" });
  const adapt = () => {
    name.disabled = ["RESOURCE_CLUSTER", "RESOURCE_ANY"].includes(type.value);
    name.required = !name.disabled && type.value !== "RESOURCE_NAMESPACE";
    namespace.disabled = name.disabled || type.value === "RESOURCE_NAMESPACE";
  };
  type.addEventListener("change", adapt);
  adapt();
  return { type, name, namespace };
}

function resource(form) {
  return { type: form.get("type"), namespace: form.get("namespace")?.trim() ?? "", name: form.get("name")?.trim() ?? "" };
}

// matching makes a policy's pattern of it: a name may end with *.
function matching(r) {
  if (["RESOURCE_CLUSTER", "RESOURCE_ANY"].includes(r.type)) return { ...r, match: "MATCH_ANY" };
  if (!r.name.endsWith("*")) return { ...r, match: "MATCH_LITERAL" };
  const name = r.name.slice(0, -1);
  return { ...r, name, match: name ? "MATCH_PREFIX" : "MATCH_ANY" };
}

export function page(params, refresh) {
  const door = openDoor("No policy is asked now.");
  const of = h("select", { "aria-label": "user", onchange: () => { location.hash = link("policies", { user: of.value }).hash; } });
  const add = h("button", { class: "main", type: "button", onclick: grant }, "Grant …");
  const title = h("small");
  const t = table([
    { title: "Number", num: true, cell: p => p.id, sort: p => Number(p.id) },
    { title: "User", wrap: true, cell: p => p.user, sort: p => p.user },
    { title: "Effect", cell: p => p.deny ? tag("deny", "bad") : tag("allow", "good"), sort: p => p.deny },
    { title: "Actions", wrap: true, cell: p => p.actions.join(", ") },
    { title: "On", id: true, wrap: true, cell: p => pattern(p.resource), sort: p => pattern(p.resource) },
    { title: "From", wrap: true, cell: p => p.sources.join(", ") || "anywhere" },
    { title: "Created", cell: p => when(p.created), sort: p => p.created },
    { title: "", cell: p => h("button", { class: "small danger", type: "button", onclick: () => revoke(p.id) }, "Revoke …") },
  ], p => p.id, "There is no policy.");
  let users = [], rows = [];
  const changed = () => { decision.replaceChildren(); refresh(); };

  async function grant() {
    const r = resourceFields([...types, ["RESOURCE_ANY", "everything"]]);
    const form = await confirmBox({
      title: "Grant a policy", action: "Grant",
      body: [
        h("div", { class: "fields" },
          field("User", choice({ name: "user", required: true }, users.map(u => [u]))), field("Effect", choice({ name: "effect" }, [["allow"], ["deny"]])),
          field("On", r.type), field("Name, or its beginning and *", r.name), field("In namespace, * is all", r.namespace),
          field("Only from, like 10.0.0.0/8", h("input", { name: "sources", placeholder: "anywhere" }))),
        h("fieldset", {}, h("legend", {}, "Actions"), ["all", ...actions].map(a => check(a, a))),
        h("p", { class: "dim" }, "Of the policies that match a call the most specific one decides; of equally specific ones a denial. To consume takes sub on the topic and on the group."),
      ],
    });
    if (!form) return;
    act(async () => {
      const { policy } = await call("Access/Grant", { policy: {
        user: form.get("user"), deny: form.get("effect") === "deny", resource: matching(resource(form)),
        actions: ["all", ...actions].filter(a => form.has(a)), sources: form.get("sources").split(/[\s,]+/).filter(Boolean),
      } });
      return `Policy ${policy.id} ${policy.deny ? "denies" : "allows"} ${policy.user} ${policy.actions.join(", ")} on ${pattern(policy.resource)}.`;
    }, changed);
  }

  async function revoke(id) {
    const p = rows.find(r => r.id === id); // it may have more actions than when the button was made
    if (!await confirmBox({
      title: `Revoke policy ${p.id} of ${p.user}?`, action: "Revoke it", danger: true,
      body: h("p", {}, `${p.deny ? "deny" : "allow"} ${p.actions.join(", ")} on ${pattern(p.resource)}. It is gone at once, and within a second in streams that are open.`),
    })) return;
    act(async () => { await call("Access/Revoke", { id }); return `Policy ${id} is gone.`; }, changed);
  }

  const asked = resourceFields(types), who = h("select", { name: "user", required: true });
  const decision = h("p", { class: "decision", role: "status" });
  const ask = h("form", { class: "bar", onsubmit: decide, oninput: () => decision.replaceChildren() },
    h("label", {}, "May user", who), h("label", {}, "do", choice({ name: "action" }, actions.map(a => [a]))), h("label", {}, "on", asked.type),
    h("label", {}, "Name", asked.name), h("label", {}, "In namespace", asked.namespace),
    h("label", {}, "From address", h("input", { name: "source", size: 12, placeholder: "none" })), h("button", {}, "Ask"));

  function decide(e) {
    e.preventDefault();
    const form = new FormData(ask);
    decision.replaceChildren();
    act(async () => {
      const r = await call("Access/Test", { ...resource(form), user: form.get("user"), action: form.get("action"), source: form.get("source").trim() });
      decision.replaceChildren(tag(r.allowed ? "yes" : "no", r.allowed ? "good" : "bad"), " ", r.reason);
    });
  }

  return {
    node: h("div", {}, h("h1", {}, "Policies", title), door.node, h("form", { class: "bar", onsubmit: e => e.preventDefault() }, h("label", {}, "Of user", of), add), t.node,
      h("h2", {}, "Ask for a decision"), h("section", { class: "panel" }, ask, decision)),
    async update(o) {
      door.update(o);
      const [all, list] = await Promise.all([call("Access/ListUsers"), call("Access/ListPolicies", { user: params.user ?? "" })]);
      if (of.dataset.of !== JSON.stringify(all.users.map(u => u.name))) {
        users = all.users.map(u => u.name);
        of.dataset.of = JSON.stringify(users);
        of.replaceChildren(h("option", { value: "" }, "all users"), ...users.map(u => h("option", { value: u }, u)));
        of.value = params.user ?? "";
        const before = who.value || params.user;
        who.replaceChildren(...users.map(u => h("option", { value: u }, u)));
        if (users.includes(before)) who.value = before;
      }
      add.disabled = users.length === 0;
      rows = list.policies;
      title.textContent = int(rows.length);
      t.update(rows);
    },
  };
}
