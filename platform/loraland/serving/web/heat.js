// The matrix as a table with colours: a row per task, a column per base, means at the edges.

import { make } from "./dom.js";
import { bounds, plain, pValue, SIGNS, signed, span, VERDICTS, whole } from "./format.js";
import { ranges } from "./ranges.js";

const MARKS = { collapsed: "collapsed run", retried: "second run at a gentler rate" };

// What a view shows of a board: the tasks and bases left by a filter, in an order.
export function viewOf(board, { words, category, sort }) {
  const named = (name) => words.filter((word) => name.toLowerCase().includes(word));
  const ofBases = words.filter((word) => board.bases.some((base) => base.toLowerCase().includes(word)));
  const bases = board.bases.filter((base) => ofBases.every((word) => named(base).includes(word)));
  const places = new Map(board.cells.map((cell) => [`${cell.base} ${cell.task}`, cell]));
  const at = (base, task) => places.get(`${base} ${task.name}`);
  const text = (task) => [task.name, task.category, task.metric, ...bases.flatMap((base) => tagsOf(at(base, task)))].join(" ").toLowerCase();
  const tasks = board.tasks.filter((task) => {
    const rest = words.filter((word) => !ofBases.includes(word));
    return (category === "" || task.category === category) && rest.every((word) => text(task).includes(word));
  });
  return { bases, tasks: sorted(tasks, bases, at, sort), at };
}

const tagsOf = (cell) => (cell ? [cell.state, ...(cell.result?.marks ?? []), VERDICTS[cell.result?.verdict ?? null]] : []);

function sorted(tasks, bases, at, { key, descending }) {
  if (key === null) return tasks;
  if (key === "task") return tasks.toSorted((a, b) => (descending ? -1 : 1) * a.name.localeCompare(b.name, "en"));
  const measures = {
    score: (task) => at(bases[0], task)?.result?.score.mean,
    base: (task) => at(bases[0], task)?.result?.base_score.mean,
    items: (task) => at(bases[0], task)?.result?.items,
    mean: (task) => mean(bases.map((base) => at(base, task)?.result?.lift.mean).filter((lift) => lift !== undefined)),
  };
  const measure = measures[key] ?? ((task) => at(key.replace("lift of ", ""), task)?.result?.lift.mean);
  return tasks.toSorted((a, b) => {
    const [one, other] = [measure(a), measure(b)];
    if (one === undefined || other === undefined) return (one === undefined) - (other === undefined); // unknown ones last
    return (descending ? -1 : 1) * (one - other);
  });
}

const mean = (numbers) => (numbers.length ? numbers.reduce((sum, one) => sum + one, 0) / numbers.length : undefined);

export function heatTable(board, view, { sort, published, onSort, onOpen }) {
  const { bases, tasks, at } = view;
  const several = bases.length > 1;
  const means = new Map(board.means.map((one) => [`${one.kind} ${one.name}`, one]));
  const head = (key, name, kind = "") => {
    const order = sort.key === key ? (sort.descending ? "descending" : "ascending") : undefined;
    return make("th", { scope: "col", class: kind, "aria-sort": order }, make("button", { type: "button", onclick: () => onSort(key) }, name));
  };
  const heads = [head("task", "task"), !several && [head("base", "base", "n"), head("score", "adapter", "n"), make("th", { scope: "col", class: "range" }, make("span", { class: "unseen" }, "both on an axis from 0 to 1"))],
    bases.map((base) => head(`lift of ${base}`, several ? broken(base) : "lift", "field-head")),
    several && head("mean", bases.length === board.bases.length ? "all bases" : "bases shown", "field-head"), !several && [make("th", { scope: "col", class: "n" }, "p"), head("items", "items", "n")]];
  const rows = tasks.map((task) => {
    const only = several ? null : at(bases[0], task)?.result;
    const shown = bases.map((base) => at(base, task)?.result?.lift.mean).filter((lift) => lift !== undefined);
    return make("tr", {},
      make("th", { scope: "row" }, task.name, make("small", {}, task.category, make("span", { class: "metric" }, ` · ${task.metric}`))),
      !several && [number(only?.base_score), number(only?.score), make("td", { class: "range" }, only && ranges(["theirs", only.base_score], ["ours", only.score]))],
      bases.map((base) => field(at(base, task), published, onOpen)),
      several && meanField(bases.length === board.bases.length ? means.get(`task ${task.name}`) : null, mean(shown)),
      !several && [make("td", { class: "n soft" }, pValue(only?.p_value)), make("td", { class: "n soft" }, whole(only?.items))]);
  });
  const whole_ = tasks.length === board.tasks.length && tasks.length > 1;
  const foot = whole_ && several && make("tfoot", {}, make("tr", {}, make("th", { scope: "row" }, "all tasks"),
    bases.map((base) => meanField(means.get(`base ${base}`))), meanField(bases.length === board.bases.length ? means.get("all all") : null)));
  const label = several ? "Lift over the base, a row per task and a column per base" : `Scores and lifts of the adapters of ${bases[0]}`;
  const table = make("table", { class: several ? "heat" : "heat single", "aria-label": label },
    make("thead", {}, make("tr", {}, heads.flat())), make("tbody", {}, rows), foot);
  rove(table);
  return table;
}

// A name that may break after its hyphens, so that columns stay narrow.
const broken = (name) => name.split("-").flatMap((part, n) => (n ? ["-", make("wbr"), part] : [part]));

const number = (interval) => make("td", { class: "n" }, interval ? [plain(interval.mean, 2), " ", make("small", {}, bounds(interval))] : "–");

function field(cell, published, onOpen) {
  if (!cell) return make("td", {});
  const { result, state } = cell;
  const told = result
    ? `lift ${signed(result.lift.mean)}, ${span(result.lift.low, result.lift.high)}, ${VERDICTS[result.verdict]}`
    : `${state}: ${cell.reason}`;
  const marks = [...(result?.marks ?? []), ...(state === "done" || !result ? [] : [state])];
  const label = [`${cell.base} on ${cell.task}: ${told}`, ...marks.map((mark) => MARKS[mark] ?? mark)].join(", ");
  const inside = result
    ? [make("b", {}, signed(result.lift.mean, 2), result.verdict && SIGNS[result.verdict] ? ` ${SIGNS[result.verdict]}` : "", marks.length ? make("sup", {}, "†") : null),
       make("small", {}, span(result.lift.low, result.lift.high)),
       published && make("small", { class: "report" }, result.published ? `report ${signed(result.published.lift, 2)}` : "report –")]
    : [make("span", { class: "state" }, state)];
  const kind = result ? `field ${result.step}` : `field gap ${state}`;
  return make("td", {}, make("button", { type: "button", class: kind, "aria-label": label, title: label, tabindex: -1, "data-cell": cell.id, onclick: () => onOpen(cell) }, inside));
}

function meanField(known, fallback) {
  if (known) return make("td", { class: "mean" }, make("b", {}, signed(known.lift.mean, 2)), make("small", {}, span(known.lift.low, known.lift.high)));
  return make("td", { class: "mean" }, fallback === undefined ? "" : make("b", {}, signed(fallback, 2)));
}

// One stop for the Tab key; arrows move between fields.
function rove(table) {
  const grid = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll("button.field")]).filter((row) => row.length);
  if (grid.length) grid[0][0].tabIndex = 0;
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  table.addEventListener("keydown", (event) => {
    const row = grid.findIndex((fields) => fields.includes(event.target));
    const move = moves[event.key];
    if (row < 0 || !move) return;
    const target = grid[row + move[0]]?.[grid[row].indexOf(event.target) + move[1]];
    event.preventDefault();
    target?.focus();
  });
  table.addEventListener("focusin", (event) => {
    if (!event.target.matches("button.field")) return;
    for (const one of grid.flat()) one.tabIndex = one === event.target ? 0 : -1;
  });
}
