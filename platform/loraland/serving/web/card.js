// The card of an adapter: what it reaches, with intervals, and what it was made of.

import { make } from "./dom.js";
import { bounds, count, day, plain, share, signed, span, whole } from "./format.js";
import { ranges } from "./ranges.js";

const FIRST = ["rank", "alpha", "learning_rate", "targets", "precision"]; // of a recipe

export function cardView(card, task) {
  const [score] = card.scores;
  return make(
    "article", { class: "card", "aria-label": `Card of ${card.model}` },
    make("p", { class: "soft about" }, task?.description ?? ""),
    score ? scores(score) : make("p", { class: "empty" }, "Not judged yet: ", make("code", {}, `loraland evaluate ${card.model} --fresh`)),
    make("div", { class: "tags" }, make("code", {}, card.version), card.aliases.map((alias) => make("span", { class: "tag" }, alias))),
    facts(card, score),
  );
}

function scores(score) {
  return make(
    "div", {},
    make("p", { class: "lift" }, make("b", {}, signed(score.lift, 2)), make("span", {}, ` ${span(score.lift_low, score.lift_high)} over its base`)),
    both(score),
    make("p", { class: "note" }, `${score.metric} on ${count(score.items, "held-out item")}, 95 % intervals`),
  );
}

// Adapter and base on one axis from 0 to 1.
function both(score) {
  const row = (name, kind, mean, low, high) =>
    make(
      "tr", {}, make("th", { scope: "row" }, name), make("td", { class: "n" }, plain(mean, 2), make("small", {}, bounds({ low, high }))),
      make("td", { class: "range" }, ranges([kind, { mean, low, high }])),
    );
  return make(
    "table", { class: "ranges", "aria-label": "Scores of adapter and base" },
    make("tbody", {}, row("adapter", "ours", score.mean, score.low, score.high), row("base", "theirs", score.base_mean, score.base_low, score.base_high)),
  );
}

function facts(card, score) {
  const recipe = Object.entries(card.recipe).filter(([name]) => name !== "name");
  const main = FIRST.filter((name) => name in card.recipe).map((name) => `${words(name)} ${text(card.recipe[name])}`);
  const run = [card.updates && count(card.updates, "update"), card.train_seconds && `${whole(card.train_seconds)} s`].filter(Boolean);
  const entries = [
    ["recipe", [card.recipe.name, main.join(", ")].filter(Boolean).join(": ")],
    ["trained on", `${count(card.data.train_rows, "row")} of ${card.data.source}`],
    ["made", `${day(card.created)}${run.length ? `, ${run.join(" in ")}` : ""}`],
  ];
  const more = [
    ["base", `${card.base} in ${card.precision}`],
    ["judged", score && `${score.data_source}; unparsable ${share(score.unparsable, score.items)}, of the base ${share(score.base_unparsable, score.items)}`],
    ["left out", `${whole(card.data.dropped_long)} too long, ${whole(card.data.dropped_overlap)} in the test split`],
    ["data", make("code", {}, card.data.fingerprint)],
    ["whole recipe", recipe.map(([name, value]) => `${words(name)} ${text(value)}`).join(", ")],
    ["seed", String(card.seed)],
    ["machine", card.hardware],
    ["code", card.git_commit ? make("code", {}, card.git_commit.slice(0, 12)) : "outside a checkout"],
    ["versions", Object.entries(card.packages).map((pair) => pair.join(" ")).join(", ")],
  ];
  return make("div", {}, list(entries, "first"), make("details", {}, make("summary", {}, "All of the card"), list(entries, "again"), list(more, "more")));
}

function list(entries, kind) {
  const told = entries.filter(([, value]) => value);
  return make("dl", { class: `facts ${kind}` }, told.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

const words = (name) => name.replaceAll("_", " ");
const text = (value) => (Array.isArray(value) ? value.join(", ") : value === null ? "none" : String(value));
