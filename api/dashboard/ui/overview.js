import { call, h, tiles, chart, facts, num, int, short, bytes, byteRate, rate, span, seconds, ms } from "./lib.js";

export function page() {
  const top = tiles(["Stored", "Handed out", "Acknowledged", "Lag", "In flight", "Delayed", "Undecided", "Dead letters", "Topics", "Groups", "Clients", "Waiting receives"]);
  const traffic = chart("Messages", ["stored", "handed out", "acknowledged"], rate);
  const volume = chart("Written to the log", ["log", "bodies"], byteRate);
  const lag = chart("Waiting", ["lag", "in flight", "delayed"], short);
  const sync = chart("fdatasync, mean", ["time"], span);
  const panels = { log: h("section", { class: "panel" }), disk: h("section", { class: "panel" }), process: h("section", { class: "panel" }) };
  const warn = h("div");
  const node = h("div", {}, h("h1", {}, "Overview"), warn, top.node,
    h("div", { class: "grid" }, traffic.node, volume.node, lag.node, sync.node), h("h2", {}, "This server"), h("div", { class: "grid" }, Object.values(panels)));
  let samples = [], cpu = null;

  return {
    node, async update(o) {
      const last = samples.at(-1);
      const r = await call("Observe/History", last ? { after: last.time } : {});
      samples = samples.concat(r.samples).slice(-720);
      const pairs = samples.slice(1).map((s, i) => [samples[i], s]);
      const per = (f, a, b) => {
        const dt = (ms(b.time) - ms(a.time)) / 1000, d = f(b) - f(a);
        return dt > 0 && d >= 0 ? d / dt : null;
      };
      const points = f => pairs.map(([a, b]) => ({ t: ms(b.time), v: f(a, b) }));
      const t = f => s => num(s.traffic[f]);
      traffic.update(points((a, b) => ["messagesIn", "messagesOut", "acknowledged"].map(f => per(t(f), a, b))));
      volume.update(points((a, b) => [per(s => num(s.logBytes), a, b), per(t("bytesIn"), a, b)]));
      lag.update(samples.map(s => ({ t: ms(s.time), v: [num(s.traffic.lag), num(s.traffic.inFlight), num(s.traffic.delayed)] })));
      sync.update(points((a, b) => {
        const n = num(b.syncs) - num(a.syncs);
        return [n > 0 ? (seconds(b.syncTime) - seconds(a.syncTime)) / n : null];
      }));

      // The newest rates are between the newest sample and now: no chart knows them yet.
      const now = { time: o.time, traffic: o.traffic };
      const base = samples.findLast(s => ms(now.time) - ms(s.time) >= 2000);
      const current = f => base ? rate(per(t(f), base, now)) : "–";
      const v = o.traffic, half = v.halfOpen + v.halfParked;
      top.update([current("messagesIn"), current("messagesOut"), current("acknowledged"), short(v.lag), short(v.inFlight), short(v.delayed),
        [int(half), v.halfParked ? `${v.halfParked} parked` : "", v.halfParked ? "warn" : ""],
        [int(v.deadLetters), "since start", num(v.deadLetters) ? "warn" : ""], int(v.topics), int(v.groups), int(v.clients), int(v.waiting)]);
      showLog(panels.log, o);
      showDisk(panels.disk, o);
      const used = seconds(o.process.cpu), at = ms(o.time);
      const share = cpu && at > cpu.at ? (used - cpu.used) / (at - cpu.at) * 1000 : null;
      cpu = { used, at };
      showProcess(panels.process, o.process, share);
      const problem = o.notReady || o.log.failure || (o.log.diskFull ? "The disk is full: nothing is stored until there is space." : "");
      warn.replaceChildren(...problem ? [h("p", { class: "banner bad" }, problem)] : []);
    },
  };
}

// fill replaces a panel's content when what it says has changed.
function fill(panel, title, ...content) {
  const fresh = h("section", {}, h("h2", {}, title), content);
  if (panel.textContent !== fresh.textContent) panel.replaceChildren(...fresh.childNodes);
}

function showLog(panel, o) {
  const l = o.log, syncs = num(l.syncs);
  fill(panel, "Log", facts([
    ["Size", `${bytes(l.diskBytes)} in ${int(l.segments)} ${num(l.segments) === 1 ? "segment" : "segments"}`],
    ["Kept", `${bytes(num(l.committed) - num(l.first))}, positions ${int(l.first)} to ${int(l.committed)}`],
    ["Written", bytes(l.bytes) + " since start"],
    ["Not applied", bytes(Math.max(0, num(l.committed) - num(l.applied)))],
    ["Waits to be written", bytes(l.queuedBytes)],
    ["fdatasync", syncs ? `${int(syncs)}, mean ${span(seconds(l.syncTime) / syncs)}, longest ${span(seconds(l.syncMax))}` : "none yet"],
    ["Checkpoints", int(l.checkpoints) + " since start"],
    ["Index", `${bytes(o.index.diskBytes)}, ${int(o.index.queues)} queues`],
  ]));
}

function showDisk(panel, o) {
  const total = num(o.disk.total), free = num(o.disk.free);
  if (!total) { fill(panel, "Disk", h("p", { class: "dim" }, "not known")); return; }
  const ours = num(o.log.diskBytes) + num(o.index.diskBytes);
  fill(panel, "Disk",
    h("meter", { min: 0, max: total, value: total - free, low: total * .75, high: total * .9, optimum: 0, "aria-label": "disk space in use" }),
    facts([["Free", `${bytes(free)} of ${bytes(total)} (${(free / total * 100).toFixed(0)} %)`], ["Gantry has", bytes(ours)], ["Directory", o.server.dataDir]]));
  panel.querySelector("meter")?.setAttribute("value", total - free);
}

function showProcess(panel, p, share) {
  fill(panel, "Process", facts([
    ["CPU", share == null ? span(seconds(p.cpu)) : `${(share * 100).toFixed(0)} % of a core, ${span(seconds(p.cpu))} since start`],
    ["Memory", `${bytes(p.resident)} resident, ${bytes(p.heap)} of it Go's heap; mapped pages of the log count`],
    ["Memory limit", num(p.memoryLimit) ? bytes(p.memoryLimit) : "none"],
    ["Open files", `${int(p.openFiles)} of ${int(p.openFilesLimit)}`],
    ["Goroutines", int(p.goroutines)], ["Process id", String(p.pid)],
  ]));
}
