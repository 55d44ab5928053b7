"use strict";
// Sorting, filtering and the sample browser. Text from outside only ever becomes text nodes.

const { outcomes: OUTCOMES, right: RIGHT } = JSON.parse(document.getElementById("words").textContent);
const AT_ONCE = 10; // samples that are shown before one asks for more

function make(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

// Tables that sort

function sortKey(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.v !== undefined) return Number(cell.dataset.v);
  return cell.classList.contains("n") ? null : cell.textContent.trim() || null;
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

function sortBy(table, column, sign) {
  const keyed = [...table.tBodies[0].rows].map((row) => [sortKey(row, column), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what is not known stays last
    return sign * compare(a, b);
  });
  table.tBodies[0].append(...keyed.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", "", head.textContent);
    button.type = "button";
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const first = head.classList.contains("n") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sortBy(table, column, order === "ascending" ? 1 : -1);
    });
  });
}

// The filter of the leaderboard

const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.getElementById("board").tBodies[0].rows];
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  filter.closest("[data-needs-script]").hidden = false;
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) row.hidden = !words.every((word) => texts.get(row).includes(word));
    const shown = rows.filter((row) => !row.hidden).length;
    document.getElementById("filtered").value = `${shown} of ${rows.length} adapters`;
  });
}

// Samples

function side(name, answer) {
  const isRight = answer.score >= RIGHT;
  const score = make("b", "", `${isRight ? "✓" : "✗"} ${answer.score}`);
  const label = make("span", "label", `${name} `, score, ` · ${answer.tokens} tokens`);
  if (answer.end === "length") label.append(" · cut off");
  const text = answer.failure === undefined ? answer.output : `no answer: ${answer.failure}`;
  const node = make("div", `answer ${isRight ? "right" : "wrong"}`, label, make("pre", "", text));
  if (answer.parsed === null) node.append(make("p", "parsed", "not parsable"));
  else if (answer.parsed !== undefined) node.append(make("p", "parsed", `read as: ${answer.parsed}`));
  const others = Object.entries(answer.secondary ?? {}).map(([key, value]) => `${key} ${value}`);
  if (others.length) node.append(make("p", "parsed", others.join(", ")));
  return node;
}

function sample(pair, item) {
  const head = make("h4", "", make("b", "", OUTCOMES[pair.outcome]), `item ${pair.number}`);
  const prompt = make("pre", "prompt", item.prompt);
  prompt.tabIndex = 0; // it scrolls when it is long
  prompt.setAttribute("role", "region");
  prompt.setAttribute("aria-label", `Prompt of item ${pair.number}`);
  const target = make("div", "answer", make("span", "label", "target"), make("pre", "", item.target));
  const sides = make("div", "sides", target, side("adapter", pair.adapter), side("base", pair.base));
  return make("article", "sample", head, prompt, sides);
}

function browser(place, pairs, items) {
  const total = Number(place.dataset.total);
  const texts = pairs.map((pair) => {
    const { prompt, target } = items[pair.item];
    const said = [pair.adapter, pair.base].flatMap((one) => [one.output, one.parsed, one.failure]);
    return [prompt, target, ...said].join("\n").toLowerCase();
  });
  const status = make("output", "");
  const list = make("div", "");
  const more = make("button", "more", "Show more");
  more.type = "button";
  const search = make("input", "");
  search.type = "search";
  search.placeholder = "search in prompts and answers";
  search.setAttribute("aria-label", "Search in the samples of this cell");
  let outcome = null;
  let limit = AT_ONCE;

  function show() {
    const word = search.value.toLowerCase();
    const found = pairs.filter(
      (pair, n) => (outcome === null || pair.outcome === outcome) && texts[n].includes(word),
    );
    list.replaceChildren(...found.slice(0, limit).map((pair) => sample(pair, items[pair.item])));
    more.hidden = found.length <= limit;
    status.value = `${Math.min(limit, found.length)} of ${found.length} shown; ` +
      (pairs.length < total ? `this file holds ${pairs.length} of ${total} pairs` : `${total} pairs in all`);
  }

  const buttons = [[null, "all", total], ...Object.entries(OUTCOMES).map(
    ([key, name]) => [key, name, Number(place.getAttribute(`data-${key.replace("_", "-")}`))],
  )].map(([key, name, count]) => {
    const button = make("button", "", `${name} ${count}`);
    button.type = "button";
    button.setAttribute("aria-pressed", String(key === null));
    button.addEventListener("click", () => {
      [outcome, limit] = [key, AT_ONCE];
      for (const one of buttons) one.setAttribute("aria-pressed", String(one === button));
      show();
    });
    return button;
  });
  search.addEventListener("input", () => { limit = AT_ONCE; show(); });
  more.addEventListener("click", () => { limit += AT_ONCE; show(); });
  place.append(make("div", "tools", ...buttons, search, status), list, more);
  show();
}

function itemsOf(task) {
  const holders = [...document.querySelectorAll("script[data-items]")];
  return JSON.parse(holders.find((one) => one.dataset.items === task).textContent);
}

for (const cell of document.querySelectorAll("details.cell")) {
  cell.addEventListener("toggle", () => {
    const place = cell.querySelector(".samples");
    if (!cell.open || place === null || place.childElementCount) return;
    const holder = document.getElementById(`answers-${place.dataset.cell}`);
    browser(place, JSON.parse(holder.textContent), itemsOf(cell.dataset.task));
  });
}

// A link to a cell opens it

function openTarget() {
  const body = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const cell = body && body.closest("details.cell");
  if (!cell) return;
  cell.open = true;
  cell.scrollIntoView();
  body.focus({ preventScroll: true });
}

addEventListener("hashchange", openTarget);
openTarget();
