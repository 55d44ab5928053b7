// The fleet, live: what each base does, how full its replicas are, where every adapter lies.

import { ask } from "./api.js";
import { draw, find, make, tell } from "./dom.js";
import { bytes, count, milliseconds, share, whole } from "./format.js";
import { History, KEPT, sum } from "./rates.js";
import { sparkline } from "./spark.js";

const EVERY_MS = 2000;
const UNKNOWN = "unknown";
const TIERS = { device: 0, host: 1, disk: 2, registry: 3 }; // the nearest first
const history = new History();
let paused = false;
let timer = 0;
let sort = { key: "tier", descending: false };
let newest = null; // the last answer
let asked = 0; // turns, the first of which may ask for a key

// Reading

async function turn() {
  clearTimeout(timer);
  try {
    const fleet = await ask("v1/fleet", { mayAsk: asked === 0 });
    asked += 1;
    newest = { fleet, figures: measured(fleet) };
    tell(null);
    find("when").textContent = `As of ${new Date(fleet.at).toLocaleTimeString("en-GB")}, every ${EVERY_MS / 1000} seconds`;
    show();
  } catch (error) {
    asked += 1;
    if (error.status === 404) return showNone(); // it will not learn to tell
    tell(error);
    find("when").textContent = newest ? "The figures below are old." : "No figures yet.";
    if (error.status === 401 || error.status === 403) return;
  }
  if (!paused && !document.hidden) timer = setTimeout(turn, EVERY_MS);
}

function measured(fleet) {
  const seconds = Date.parse(fleet.at) / 1000;
  return new Map(fleet.bases.map((base) => {
    const found = base.replicas.map((one) => history.add(`${base.base} ${one.replica}`, one.stats, seconds));
    const hits = sum(...found.map((one) => one.hits));
    const misses = sum(...found.map((one) => one.misses));
    const now = {
      tokens: sum(...found.map((one) => one.tokensPerS)),
      busy: sum(...found.map((one) => one.busy)),
      hitRate: hits !== null && misses !== null && hits + misses > 0 ? hits / (hits + misses) : null,
    };
    const series = Object.fromEntries(Object.entries(now).map(([name, value]) => [name, [...history.push(`${base.base} ${name}`, value)]]));
    return [base.base, { now, series }];
  }));
}

// Showing

function show() {
  const { fleet, figures } = newest;
  const focused = document.activeElement?.dataset?.focus;
  find("bases").replaceChildren(...(fleet.bases.length
    ? fleet.bases.map((base) => baseView(base, figures.get(base.base)))
    : [make("p", { class: "empty" }, "No base is served here.")]));
  if (focused) find("bases").querySelector(`[data-focus="${CSS.escape(focused)}"]`)?.focus();
}

function showNone() {
  find("when").textContent = "";
  find("pause").hidden = true;
  find("bases").replaceChildren(make("div", { class: "empty" }, make("h2", {}, "This gateway does not tell"),
    make("p", {}, "It has no GET /v1/fleet. The same figures are Ray metrics: loraland_engine_* and loraland_adapter_* on the dashboard.")));
}

function baseView(base, { now, series }) {
  const stats = base.replicas.map((one) => one.stats ?? {});
  const total = (field) => sum(...stats.map((one) => one[field]));
  const slots = total("slots");
  const [hits, misses] = [total("hits"), total("misses")];
  const mean = (field, times) => (total(times) ? total(field) / total(times) : null);
  const tile = (name, value, note, graph) => make("div", { class: "tile" }, make("dt", {}, name), make("dd", {}, value ?? make("span", { class: "unknown" }, UNKNOWN)), note && make("dd", { class: "note" }, note), graph && make("dd", {}, graph));
  const busy = now.busy === null ? null : `${whole(total("running"))} running`;
  return make("section", { class: "base", "aria-label": base.base },
    make("h2", {}, base.base, make("small", {}, ` ${count(base.replicas.length, "replica")}`)),
    base.replicas.length === 0 && make("p", { class: "empty" }, "No replica answers. It may be starting; the first load of a base takes a minute."),
    make("dl", { class: "tiles" },
      tile("tokens per second", now.tokens === null ? (series.tokens.length < 2 ? make("span", { class: "unknown" }, "measuring …") : null) : whole(now.tokens), `${known(total("generated_tokens"))} generated in all`, sparkline(series.tokens, KEPT)),
      tile("requests", busy, `${known(total("waiting"))} waiting, ${known(total("finished"))} finished`, sparkline(series.busy, KEPT)),
      tile("adapters found on the device", hits === null || misses === null ? null : hits + misses ? share(hits, hits + misses) : "none asked", hits + misses ? `${whole(hits)} hits, ${whole(misses)} misses` : "of requests with an adapter", sparkline(series.hitRate, KEPT, 1)),
      tile("first token", mean("hit_ttft_ms", "hits") === null && mean("miss_ttft_ms", "misses") === null ? (hits === null ? null : "none yet") : milliseconds(mean("hit_ttft_ms", "hits")), `on a hit; on a miss ${mean("miss_ttft_ms", "misses") === null ? UNKNOWN : milliseconds(mean("miss_ttft_ms", "misses"))}`)),
    slots === null ? null : workingSet(total("working_set"), slots, base.replicas.length),
    base.replicas.length > 0 && replicaTable(base),
    adapterTable(base));
}

const known = (value) => (value === null || value === undefined ? UNKNOWN : whole(value));

function workingSet(working, slots, replicas) {
  const over = working !== null && working > slots;
  const told = working === null ? "Its working set is unknown." : over
    ? `${whole(working)} adapters were asked for in the last minute, more than the ${count(slots, "slot")}: misses are due. Raise slots, or add a replica.`
    : `${count(working, "adapter")} asked for in the last minute, of ${count(slots, "slot")}${replicas > 1 ? " on all replicas together" : ""}.`;
  const taken = slots ? Math.min(1, (working ?? 0) / slots) : 0;
  const meter = make("div", { class: "meter", role: "meter", "aria-label": "Working set against slots", "aria-valuemin": 0, "aria-valuemax": slots, "aria-valuenow": Math.min(working ?? 0, slots), "aria-valuetext": told },
    draw("svg", { width: "100%", height: 8, "aria-hidden": "true" }, draw("rect", { width: `${100 * taken}%`, height: 8 })));
  return make("div", { class: over ? "working over" : "working" }, make("span", { class: "soft" }, "working set"), meter, make("span", {}, told));
}

function replicaTable(base) {
  const heads = ["replica", "node", "device", "slots taken", "running", "waiting", "KV cache", "prefix reused", "preempted"];
  const line = ({ replica, node, state, device, stats = {}, adapters, error }) => {
    const name = make("th", { scope: "row" }, make("code", {}, replica), state && state !== "running" && [" ", make("span", { class: "tag" }, state)]);
    if (error) return make("tr", {}, name, make("td", {}, node ?? UNKNOWN), make("td", { colspan: heads.length - 2, class: "worse" }, error));
    const used = adapters ? adapters.filter((one) => one.slot !== null && one.slot !== undefined).length : null;
    const blocks = stats.blocks === undefined ? null : stats.blocks - (stats.free_blocks ?? 0);
    return make("tr", {}, name, make("td", {}, node ?? UNKNOWN), make("td", {}, device ?? UNKNOWN),
      make("td", { class: "n" }, used === null || stats.slots === undefined ? UNKNOWN : `${used} of ${stats.slots}`),
      make("td", { class: "n" }, known(stats.running)), make("td", { class: "n" }, known(stats.waiting)),
      make("td", { class: "n" }, blocks === null ? UNKNOWN : stats.blocks ? share(blocks, stats.blocks) : "no cache"),
      make("td", { class: "n" }, stats.reused_tokens === undefined || stats.prompt_tokens === undefined ? UNKNOWN : share(stats.reused_tokens, stats.prompt_tokens)),
      make("td", { class: "n" }, known(stats.preemptions)));
  };
  return make("div", { class: "scroll", role: "region", "aria-label": `Replicas of ${base.base}`, tabindex: 0 },
    make("table", {}, make("caption", {}, "Replicas"), make("thead", {}, make("tr", {}, heads.map((name, n) => make("th", { scope: "col", class: n > 2 ? "n" : "" }, name)))), make("tbody", {}, base.replicas.map(line))));
}

const COLUMNS = [
  ["adapter", (one) => one.version], ["replica", (one) => one.replica], ["tier", (one) => TIERS[one.tier] ?? 9], ["slot", (one) => one.slot],
  ["size", (one) => one.size_bytes], ["leases", (one) => one.leases], ["running", (one) => one.running], ["hits", (one) => one.hits], ["misses", (one) => one.misses],
  ["loads", (one) => one.loads], ["last load", (one) => one.load_ms], ["evicted", (one) => one.evictions], ["failed", (one) => one.failures],
];

function adapterTable(base) {
  const several = base.replicas.length > 1;
  const columns = COLUMNS.filter(([name]) => several || name !== "replica");
  const rows = base.replicas.flatMap((one) => (one.adapters ?? []).map((adapter) => ({ ...adapter, replica: one.replica })));
  if (rows.length === 0) return base.replicas.length ? make("p", { class: "empty" }, "No adapter is loaded. One is, with the first request that names it.") : null;
  const [, measure] = columns.find(([name]) => name === sort.key) ?? columns[0];
  const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a ?? "").localeCompare(String(b ?? ""), "en"));
  rows.sort((a, b) => (sort.descending ? -1 : 1) * order(measure(a), measure(b)) || order(b.hits + b.misses, a.hits + a.misses));
  const head = ([name], n) => make("th", { scope: "col", class: n > (several ? 2 : 1) ? "n" : "", "aria-sort": sort.key === name ? (sort.descending ? "descending" : "ascending") : undefined },
    make("button", { type: "button", "data-focus": `${base.base} ${name}`, onclick: () => { sort = { key: name, descending: sort.key === name && !sort.descending }; show(); } }, name));
  return make("div", { class: "scroll", role: "region", "aria-label": `Adapters of ${base.base}`, tabindex: 0 },
    make("table", { class: "sortable" }, make("caption", {}, `${count(rows.length, "adapter")} known${several ? ", once for each replica that holds it" : ""}`),
      make("thead", {}, make("tr", {}, columns.map(head))), make("tbody", {}, rows.map((one) => adapterRow(one, several)))));
}

function adapterRow(one, several) {
  const number = (value) => make("td", { class: "n" }, known(value));
  const tags = [one.pinned && "pinned", one.retired && "leaving"].filter(Boolean);
  return make("tr", {}, make("th", { scope: "row" }, nameOf(one.version), tags.map((tag) => [" ", make("span", { class: "tag" }, tag)])),
    several && make("td", {}, make("code", {}, one.replica)), make("td", {}, make("span", { class: `tier ${one.tier}` }, one.tier ?? UNKNOWN)),
    make("td", { class: "n" }, one.slot === null || one.slot === undefined ? "–" : whole(one.slot)), make("td", { class: "n" }, one.size_bytes === undefined ? UNKNOWN : bytes(one.size_bytes)),
    [one.leases, one.running, one.hits, one.misses, one.loads].map(number),
    make("td", { class: "n" }, one.loads ? milliseconds(one.load_ms) : "–"), [one.evictions, one.failures].map(number));
}

function nameOf(version) {
  const [adapter, digits] = version.split("@");
  return [adapter.split("/").at(-1), digits && make("small", {}, ` @${digits}`)];
}

find("pause").addEventListener("click", () => {
  paused = !paused;
  find("pause").setAttribute("aria-pressed", String(paused));
  find("pause").textContent = paused ? "Go on" : "Pause";
  if (!paused) turn();
  else clearTimeout(timer);
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused) turn(); });
turn();
