import { call, h, table, link, tag, int, when, confirmBox, tellBox, act, field, check } from "./lib.js";

// openDoor is a banner, shown while the broker asks nobody who calls; consequence says
// what that means for what the page shows.
export function openDoor(consequence) {
  const node = h("p", { class: "banner warn", hidden: true }, h("b", {}, "This broker runs without --auth."),
    " Whoever reaches it may do everything, and is not asked for a name. " + consequence);
  return { node, update(o) { node.hidden = o.server.auth; } };
}

export function page(params, refresh) {
  const door = openDoor("What users and policies there are is kept, and asked again when it runs with --auth; users cannot be made meanwhile.");
  const find = h("input", { type: "search", placeholder: "filter by name", "aria-label": "filter by name", oninput: () => show() });
  const add = h("button", { class: "main", type: "button", onclick: create }, "Create a user …");
  const title = h("small");
  const t = table([
    { title: "User", wrap: true, cell: u => u.name, sort: u => u.name },
    { title: "May do", cell: u => u.super ? tag("everything", "warn") : link("policies", { user: u.name }, ["nothing", "what 1 policy says"][u.policies] ?? `what ${int(u.policies)} policies say`), sort: u => u.super ? Infinity : u.policies },
    { title: "State", cell: u => u.enabled ? tag("enabled", "good") : tag("disabled", "bad"), sort: u => u.enabled },
    { title: "Created", cell: u => when(u.created), sort: u => u.created },
    { title: "Secret since", cell: u => when(u.secretChanged), sort: u => u.secretChanged },
    { title: "", cell: u => [
      h("button", { class: "small", type: "button", onclick: () => change(u.name) }, "Change …"), " ",
      h("button", { class: "small", type: "button", onclick: () => renew(u.name) }, "New secret …"), " ",
      h("button", { class: "small danger", type: "button", onclick: () => remove(u.name) }, "Delete …"),
    ] },
  ], u => u.name, "There is no user.");
  let rows = [];
  const show = () => t.update(rows.filter(u => u.name.includes(find.value)));
  const named = name => rows.find(u => u.name === name); // a button outlives the row it was made for

  async function create() {
    const form = await confirmBox({
      title: "Create a user", action: "Create",
      body: [
        field("Name", h("input", { name: "name", class: "wide", autocomplete: "off", required: true, maxlength: 64, pattern: "[a-zA-Z0-9_.@\\-]+", title: "letters, digits, _ . @ -" })),
        field("Secret; empty: one is made, and shown once", h("input", { name: "secret", class: "wide", type: "password", minlength: 8, maxlength: 128, autocomplete: "new-password" })),
        check("super", "may do everything; no policy is asked"),
      ],
    });
    if (!form) return;
    const name = form.get("name");
    act(async () => {
      await tellSecret(name, await call("Access/CreateUser", { name, secret: form.get("secret"), super: form.has("super") }));
      return `User ${name} was created.`;
    }, refresh);
  }

  async function change(name) {
    const was = named(name);
    const form = await confirmBox({
      title: `Change ${name}`, action: "Change",
      body: [check("enabled", "may call; else it may not, and its open streams end", was.enabled), check("super", "may do everything; no policy is asked", was.super)],
    });
    if (!form) return;
    act(async () => {
      const r = await call("Access/UpdateUser", { name, enabled: form.has("enabled"), super: form.has("super") });
      return `User ${name} is ${r.user.enabled ? "enabled" : "disabled"}, and may do ${r.user.super ? "everything" : "what its policies say"}.`;
    }, refresh);
  }

  async function renew(name) {
    if (!await confirmBox({
      title: `Make a new secret for ${name}?`, action: "Make it", danger: true,
      body: h("p", {}, "The old one is void at once. The new one is shown once. If it is you, this browser will ask for it."),
    })) return;
    act(async () => {
      await tellSecret(name, await call("Access/UpdateUser", { name, newSecret: true }));
      return `User ${name} has a new secret.`;
    }, refresh);
  }

  async function remove(name) {
    if (!await confirmBox({
      title: `Delete ${name}?`, action: "Delete the user", danger: true,
      body: h("p", {}, `Its policies (${int(named(name).policies)}) go with it, and its open streams end. It cannot be undone.`),
    })) return;
    act(async () => { await call("Access/DeleteUser", { name }); return `User ${name} is gone.`; }, refresh);
  }

  return {
    node: h("div", {}, h("h1", {}, "Users", title), door.node, h("form", { class: "bar", onsubmit: e => e.preventDefault() }, find, add), t.node),
    async update(o) {
      door.update(o);
      add.disabled = !o.server.auth;
      const [all, list] = await Promise.all([call("Access/ListUsers"), call("Access/ListPolicies")]);
      rows = all.users.map(u => ({ ...u, policies: list.policies.filter(p => p.user === u.name).length }));
      title.textContent = int(rows.length);
      show();
    },
  };
}

// tellSecret shows the secret of an answer, if one was made: nobody can see it again.
function tellSecret(name, told) {
  if (!told.secret) return null;
  return tellBox(`The secret of ${name}`, h("pre", {}, told.secret), h("p", {}, "It cannot be shown again: keep it where it is safe, before this is closed."));
}
