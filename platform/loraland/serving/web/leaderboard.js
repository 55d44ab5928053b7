// The leaderboard: a space, its heat map, a filter, and the answers behind each field.

import { ask } from "./api.js";
import { MOST_CHARACTERS, readAddress, writeAddress } from "./address.js";
import { openCell } from "./cell.js";
import { find, later, make, setOptions, tell } from "./dom.js";
import { plain, signed, span, STEPS } from "./format.js";
import { heatTable, viewOf } from "./heat.js";

let board = null;
let served = new Set(); // models of this gateway
let sort = { key: null, descending: true };
let open = null; // id of the cell in the drawer

async function start() {
  const { data: spaces } = await ask("v1/spaces");
  const address = readAddress();
  // The first with anything to see, the widest look last: a space says more than everything at once.
  const [everything, ...named] = spaces;
  const best = [...named].sort((a, b) => b.results - a.results)[0];
  const usual = best?.results ? best.name : everything.name;
  const names = spaces.map((one) => one.name);
  const told = (one) => `${one.title} – ${one.problem ? "cannot be read" : `${one.results} of ${one.cells}`}`;
  setOptions(find("space"), spaces.map((one) => [one.name, told(one)]), names.includes(address.get("space")) ? address.get("space") : usual);
  find("filter").value = address.get("filter") ?? "";
  find("published").checked = address.get("report") === "1";
  find("legend").replaceChildren(...STEPS.map(([name, text]) => make("li", {}, make("span", { class: `swatch ${name}` }), text)));
  ask("v1/models").then(({ data }) => { served = new Set(data.map((one) => one.id)); }, () => {});
  await readBoard(address.get("category") ?? "");
  if (address.has("cell")) openById(address.get("cell"));
}

async function readBoard(category = "") {
  const space = find("space").value;
  const place = find("board");
  place.setAttribute("aria-busy", "true");
  place.replaceChildren(make("p", { class: "empty" }, "Reading results and samples; a large space takes some seconds the first time …"));
  for (const id of ["figures", "claims"]) find(id).replaceChildren();
  try {
    const found = await ask(`v1/spaces/${encodeURIComponent(space)}/leaderboard`);
    if (space !== find("space").value) return;
    board = found;
  } catch (error) {
    place.replaceChildren();
    throw error;
  } finally {
    place.setAttribute("aria-busy", "false");
  }
  sort = { key: null, descending: true };
  const categories = [...new Set(board.tasks.map((task) => task.category))];
  setOptions(find("category"), [["", "all"], ...categories.map((name) => [name, name])], categories.includes(category) ? category : "");
  find("published-field").hidden = !board.cells.some((cell) => cell.result?.published);
  showHead();
  show();
}

function showHead() {
  const all = board.means.find((one) => one.kind === "all");
  const older = board.left_out ? ` ${board.left_out} older results of the same base and task are left out.` : "";
  find("description").textContent = board.description + (board.description && !board.description.endsWith(".") ? "." : "") + older;
  const figure = (name, ...told) => make("div", {}, make("dt", {}, name), make("dd", {}, told));
  const small = (text) => make("span", {}, text);
  find("figures").replaceChildren(...[
    figure("cells finished", String(board.finished), small(` of ${board.cells.length}`)),
    all && figure("beat their base", String(all.better), small(` of ${all.cells}`)),
    all && figure("mean score", small(`${plain(all.base_score, 2)} → `), plain(all.score, 2)),
    all && figure("mean lift", signed(all.lift.mean, 2), small(` ${span(all.lift.low, all.lift.high)}`)),
  ].filter(Boolean));
  find("claims").replaceChildren(...board.claims.map((claim) => make("li", {}, `${claim}.`)));
}

function show() {
  const any = board.finished > 0;
  for (const id of ["tools", "hint", "legend"]) find(id).hidden = board.cells.length === 0;
  find("hint").hidden = find("legend").hidden = !any;
  const published = find("published").checked && !find("published-field").hidden;
  find("published-note").hidden = !published;
  const words = find("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const view = viewOf(board, { words, category: find("category").value, sort });
  keepAddress();
  if (board.cells.length === 0) return showEmpty();
  find("shown").value = `${view.tasks.length} of ${board.tasks.length} tasks, ${view.bases.length} of ${board.bases.length} bases`;
  if (view.tasks.length === 0 || view.bases.length === 0) {
    return find("board").replaceChildren(make("p", { class: "empty" }, "Nothing is like that. ", make("button", { type: "button", onclick: clearFilter }, "Show all")));
  }
  find("board").replaceChildren(heatTable(board, view, { sort, published, onSort: sortBy, onOpen: openNow }));
}

function showEmpty() {
  find("board").replaceChildren(make("div", { class: "empty" }, make("h2", {}, "Nothing is finished yet"),
    make("p", {}, "Cells show up here as they are finished. Four small ones, without a download:"),
    make("pre", {}, "loraland matrix run embedded")));
}

function clearFilter() {
  find("filter").value = find("category").value = "";
  show();
  find("filter").focus();
}

function sortBy(key) {
  const again = sort.key === key;
  const first = key !== "task"; // numbers begin with the greatest
  sort = again && sort.descending !== first ? { key: null, descending: true } : { key, descending: again ? !sort.descending : first };
  const at = [...find("board").querySelectorAll("thead button")].indexOf(document.activeElement);
  show();
  find("board").querySelectorAll("thead button")[at]?.focus();
}

function openNow(cell) {
  open = cell.id;
  keepAddress();
  openCell(board.space, cell, linkOf, () => {
    open = null;
    keepAddress();
    document.querySelector(`[data-cell="${CSS.escape(cell.id)}"]`)?.focus();
  });
}

function openById(id) {
  const cell = board?.cells.find((one) => one.id === id);
  if (cell && open === null) openNow(cell);
}

function linkOf(model, values) {
  if (!served.has(model)) return null;
  const entries = Object.entries(values ?? {}).map(([name, text]) => [`in.${name}`, text]);
  const base = model.split("/")[0];
  const hash = new URLSearchParams([["model", model], ["with", base], ...entries]).toString();
  return hash.length > MOST_CHARACTERS ? null : `${new URL("..", import.meta.url).pathname}#${hash}`;
}

function keepAddress() {
  writeAddress([["space", find("space").value], ["category", find("category").value], ["filter", find("filter").value],
    ["report", find("published").checked ? "1" : ""], ["cell", open]]);
}

async function guarded(work) {
  tell(null);
  try {
    await work();
  } catch (error) {
    tell(error);
  }
}

find("space").addEventListener("change", () => guarded(() => readBoard()));
find("category").addEventListener("change", () => show());
find("published").addEventListener("change", () => show());
find("filter").addEventListener("input", later(120, () => board && show()));
guarded(start);
