// Audits: strata of a classifier with scores, a map, and what is inside the one that is chosen.

import { ask } from "./api.js";
import { readAddress, writeAddress } from "./address.js";
import { find, make, setOptions, tell } from "./dom.js";
import { bounds, count, day, NOTHING, plain, share } from "./format.js";
import { greyImage, strataMap, track } from "./strata_figures.js";

const MODES = {
  erm: "as it was trained (ERM)", superclass: "group DRO over labels", random: "group DRO over random groups",
  george: "group DRO over the strata found (GEORGE)", oracle: "group DRO over the true subclasses (oracle)",
};
let audit = null;
let retrained = [];
let chosen = null; // number of the stratum that is shown

async function start() {
  const { data } = await ask("v1/strata");
  const place = find("content");
  place.setAttribute("aria-busy", "false");
  if (data.length === 0) {
    place.replaceChildren(make("div", { class: "empty" },
      make("h2", {}, "No audit yet"),
      make("p", {}, "An audit asks a classification adapter whom it fails:"),
      make("pre", {}, "loraland strata audit BASE/TASK")));
    return;
  }
  const address = readAddress();
  const ids = data.map((one) => one.id);
  const told = (one) => `${one.model} – ${day(one.created)}`;
  setOptions(find("audit"), data.map((one) => [one.id, told(one)]), ids.includes(address.get("audit")) ? address.get("audit") : ids[0]);
  find("choice").hidden = false;
  await read(address.get("stratum"));
}

async function read(stratum = null) {
  const id = find("audit").value;
  find("content").setAttribute("aria-busy", "true");
  const found = await ask(`v1/strata/${encodeURIComponent(id)}`);
  if (id !== find("audit").value) return;
  ({ audit, retrained } = found);
  const numbers = audit.strata.map((one) => one.number);
  const wanted = stratum === null ? NaN : Number(stratum);
  chosen = numbers.includes(wanted) ? wanted : audit.worst ?? numbers[0];
  show();
  find("content").setAttribute("aria-busy", "false");
}

function show() {
  writeAddress([["audit", audit.id], ["stratum", chosen === audit.worst ? "" : String(chosen)]]);
  find("description").textContent = `${audit.model}: ${audit.description}`;
  find("content").replaceChildren(...[
    figures(), strataSection(), mapSection(), insideSection(), knownSection(), retrainedSection(), searchSection(),
  ].filter(Boolean));
}

function figures() {
  const worst = audit.strata.find((one) => one.number === audit.worst);
  const figure = (name, value, more) => make("div", {}, make("dt", {}, name), make("dd", {}, value, " ", make("small", {}, more)));
  return make("dl", { class: "figures" },
    figure("right, all held-out", plain(audit.overall.mean, 2), bounds(audit.overall)),
    worst && figure("right, worst stratum", plain(worst.test.mean, 2), bounds(worst.test)),
    figure("strata", String(audit.strata.length), `of ${audit.labels.length} labels`),
    figure("held-out items", String(audit.sizes.test), ""));
}

function strataSection() {
  const row = (one) => make("tr", { class: one.number === audit.worst ? "worst" : undefined },
    make("th", { scope: "row" }, make("button", { type: "button", class: "stratum", "aria-pressed": one.number === chosen, onclick: () => choose(one.number) }, one.name)),
    make("td", { class: "n" }, String(one.sizes.train)),
    make("td", { class: "n" }, String(one.sizes.test)),
    rate(one.test),
    make("td", { class: "told wide" }, track(one.test)),
    rate(one.rest));
  return section("Strata", `Found in the ${audit.features}. Scores are shares of right answers among held-out items, with 95 % intervals, the worst first; of many strata one is the lowest by chance too.`,
    audit.warnings.map((text) => make("p", { class: "warning" }, text)),
    table("Strata with their scores", ["stratum", "train", "held out", "right", null, "rest of its label"], audit.strata.map(row)));
}

function mapSection() {
  const stratum = audit.strata.find((one) => one.number === chosen);
  const left = audit.picture.left_out ? ` ${count(audit.picture.left_out, "item")} not drawn.` : "";
  return section("Map", `Held-out items. Across: ${audit.picture.x}. Up: ${audit.picture.y}.${left}`,
    strataMap(audit.picture, chosen, stratum.name),
    make("ul", { class: "legend" },
      make("li", {}, make("span", { class: "dot chosen" }), stratum.name),
      make("li", {}, make("span", { class: "dot" }), "other strata"),
      make("li", {}, "× answered wrong")));
}

function insideSection() {
  const one = audit.strata.find((stratum) => stratum.number === chosen);
  const words = one.words.map((word) => make("li", {}, word.word, " ", make("small", {}, `${share(word.here, 1)} here, ${share(word.rest, 1)} elsewhere`)));
  const overlaps = one.overlaps.slice(0, 3).map((known) => make("p", { class: "note" },
    `Known subclass “${known.subclass}”: ${plain(known.precision, 2)} of the stratum is of it, ${plain(known.recall, 2)} of it is in the stratum, ${plain(known.prevalence, 2)} of the label is of it (train rows).`));
  return section(`Inside ${one.name}`, "Words that tell it from the rest of its label, and the items nearest to its middle.",
    one.mean_image && greyImage(one.mean_image, `mean image of stratum ${one.name}`),
    words.length ? make("ul", { class: "words" }, words) : !one.mean_image && make("p", { class: "note" }, "No word tells it from the rest of its label."),
    overlaps,
    make("ul", { class: "examples" }, one.examples.map(example)));
}

function example(one) {
  return make("li", {},
    one.pixels && greyImage(one.pixels, `an example of ${one.label}`),
    one.text !== null && make("p", {}, one.text),
    make("p", { class: "note" }, `${one.label}, answered `,
      make("span", { class: one.right ? undefined : "worse" }, one.right ? one.answer : `${one.answer} (wrong)`),
      `, loss ${plain(one.loss, 2)}`, one.subclass !== null && `, known as ${one.subclass}`));
}

function knownSection() {
  if (audit.known.length === 0) return null;
  const row = (one) => make("tr", {}, make("th", { scope: "row" }, one.name), make("td", { class: "n" }, String(one.train)), rate(one.test));
  return section("Known groups", "The true subclasses, which the rows name. They are only reported: no stratum was found by them.",
    table("Known groups with their scores", ["group", "train", "right"], audit.known.map(row)));
}

function retrainedSection() {
  if (retrained.length === 0) return null;
  const lowest = (rates) => Object.values(rates).reduce((least, one) => (least === null || one.mean < least.mean ? one : least), null);
  const row = (one) => make("tr", {},
    make("th", { scope: "row" }, MODES[one.mode]), make("td", { class: "wide" }, make("code", {}, one.model)),
    rate(one.overall), rate(lowest(one.strata)), rate(lowest(one.known)));
  return section("Retrained", "Classifiers on the same held-out items and the same strata.",
    table("Retrained classifiers with their scores", ["training", "model", "all", "worst stratum", "worst known group"], retrained.map(row), ["model"]));
}

function searchSection() {
  return section("Search", "Mean of the clusters' mean silhouettes for each number of clusters k, and the least that a split needs.",
    audit.searches.map((one) => {
      const scores = Object.entries(one.scores).map(([k, score]) => `k ${k}: ${plain(score)}`).join(", ");
      const kept = one.parts.filter((part) => part.kept).length;
      const parts = one.parts.length ? ` Of ${one.parts.length} smaller parts ${kept} stand by themselves.` : "";
      return make("p", {}, make("b", {}, `${one.label}: ${count(one.strata, "stratum", "strata")}. `), scores && `${scores}; `, `needed ${plain(one.floor)}.`, one.whole_because && ` ${one.whole_because}.`, parts);
    }));
}

function choose(number) {
  chosen = number;
  show();
  document.querySelector("button.stratum[aria-pressed]")?.focus();
}

function section(title, text, ...parts) {
  return make("section", {}, make("h2", {}, title), make("p", { class: "soft" }, text), parts);
}

function table(label, heads, rows, hidden = []) {
  const head = (name, at) => (name === null
    ? make("td", { class: "wide" })
    : make("th", { scope: "col", class: hidden.includes(name) ? "wide" : at ? "n" : undefined }, name));
  return make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 },
    make("table", {}, make("thead", {}, make("tr", {}, heads.map(head))), make("tbody", {}, rows)));
}

function rate(one) {
  return make("td", { class: "n" }, one ? [plain(one.mean, 2), " ", make("small", {}, bounds(one))] : NOTHING);
}

const told = (work) => work().then(() => tell(null), tell);
find("audit").addEventListener("change", () => told(() => read()));
told(start);
