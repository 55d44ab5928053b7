// The playground: a category, an adapter, its prompt's columns, and the answers of several models.

import { ask } from "./api.js";
import { readAddress, writeAddress } from "./address.js";
import { cardView } from "./card.js";
import { Column } from "./column.js";
import { find, later, make, setOptions, tell } from "./dom.js";
import { count } from "./format.js";
import { FREE, partsOf, readModels } from "./models.js";
import { run } from "./running.js";

const MOST_MODELS = 4;
const FREE_TASK = { name: null, description: "", prompt: "{prompt}", inputs: ["prompt"], stop: [], max_new_tokens: 64, examples: [], examples_from: null };

let all = null; // the gateway's models
let adapter = null; // that is chosen; null: a base alone
let base = null;
let task = FREE_TASK;
let chosen = []; // ids of the models, in the order of their columns
let example = null;
let running = null; // AbortController of the run under way
const tasks = new Map();

// What stands in the form

const boxes = () => [...find("columns").querySelectorAll("textarea")];
const values = () => Object.fromEntries(boxes().map((box) => [box.name, box.value]));

// As `Task.render` does it; pairs of text and whether it was typed.
function pieces() {
  const known = values();
  return task.prompt.split(/(\{\w+\})/).filter(Boolean).map((part) => {
    const column = part.startsWith("{") ? part.slice(1, -1) : null;
    return column !== null && task.inputs.includes(column) ? [known[column] ?? "", true] : [part, false];
  });
}

const prompt = () => pieces().map(([text]) => text).join("");

function expected() {
  const given = values();
  return example !== null && Object.entries(example.values).every(([name, text]) => given[name] === text) ? example.target : null;
}

// Choosing

function chooseCategory(category, wanted = null) {
  const those = all.adapters.filter((one) => one.category === category);
  const groups = all.bases.map((name) => ({ label: name, options: those.filter((one) => one.base === name).map((one) => [one.name, one.task]) })).filter((group) => group.options.length);
  if (category === FREE) groups.push({ label: "without an adapter", options: all.bases.map((name) => [name, name]) });
  setOptions(find("category"), all.categories.map((name) => [name, name]), category);
  setOptions(find("adapter"), groups.length === 1 ? groups[0].options : groups);
  if (wanted !== null) find("adapter").value = wanted;
  return find("adapter").value;
}

async function chooseAdapter(name, version = null) {
  adapter = all.adapters.find((one) => one.name === name) ?? null;
  base = adapter?.base ?? name;
  find("version-field").hidden = adapter === null;
  if (adapter !== null) {
    const versions = adapter.versions.map((one) => [one.id, [one.version, ...one.aliases].join(" · ")]);
    setOptions(find("version"), versions, adapter.versions.some((one) => one.id === version) ? version : versions[0][0]);
  }
  const mine = adapter;
  const found = await readTask(mine);
  if (mine !== adapter) return; // another one was chosen meanwhile
  task = found;
  showTask();
}

async function readTask(of) {
  if (of === null || !of.inCatalogue) return FREE_TASK;
  if (!tasks.has(of.task)) tasks.set(of.task, await ask(`v1/tasks/${of.task}`));
  return tasks.get(of.task);
}

const chosenVersion = () => (adapter === null ? base : find("version").value);

async function showCard() {
  const place = find("card");
  place.replaceChildren();
  if (adapter === null) {
    place.append(make("p", { class: "soft about" }, "The base alone, on whatever prompt you type."));
    return;
  }
  const id = chosenVersion();
  const card = await ask(`v1/cards/${id}`);
  if (id === chosenVersion()) place.replaceChildren(cardView(card, task));
}

function showTask() {
  example = null;
  find("max").value = task.max_new_tokens;
  find("columns").replaceChildren(
    ...task.inputs.map((name) => make("label", { class: "field" }, name.replaceAll("_", " "),
      make("textarea", { name, rows: 2, spellcheck: "false", oninput: changed }))),
  );
  showExamples();
  showPrompt();
}

function showExamples() {
  const place = find("examples");
  place.hidden = task.examples.length === 0;
  const from = { judged: "Held-out items that the adapter was judged on", generator: "Held-out items of the task's generator", folder: "Held-out items of the local data" };
  place.replaceChildren(
    make("span", { id: "examples-label" }, from[task.examples_from] ?? ""),
    make("div", { role: "group", "aria-labelledby": "examples-label" }, task.examples.map((one, n) =>
      make("button", { type: "button", "aria-pressed": "false", "aria-label": `Example ${n + 1}`, onclick: () => useExample(n) }, String(n + 1)))),
  );
}

function useExample(number) {
  example = task.examples[number];
  for (const box of boxes()) box.value = example.values[box.name];
  changed();
}

function chooseModels(ids) {
  chosen = [...new Set(ids.filter((id) => all.ids.has(id)))].slice(0, MOST_MODELS);
  const main = chosenVersion();
  find("models").replaceChildren(...chosen.map((id) => {
    const { base: of, task: name, version } = partsOf(id);
    const remove = make("button", { type: "button", "aria-label": `Remove ${id}`, onclick: () => { chooseModels(chosen.filter((one) => one !== id)); changed(); } }, "×");
    return make("li", {}, make("span", { title: id }, name === null ? `${of} base` : name, version && make("small", {}, ` @${version.slice(0, 6)}`)), id !== main && remove);
  }));
  const left = [...all.bases, ...all.adapters.flatMap((one) => one.versions.map((version) => version.id))].filter((id) => !chosen.includes(id));
  const groups = all.bases.map((name) => ({ label: name, options: left.filter((id) => partsOf(id).base === name).map((id) => [id, labelOf(id)]) }));
  setOptions(find("add"), [["", "Add …"], ...groups.filter((group) => group.options.length)], "");
  find("add").hidden = chosen.length >= MOST_MODELS || left.length === 0;
}

function labelOf(id) {
  const { base: of, task: name, version } = partsOf(id);
  const aliases = all.adapters.flatMap((one) => one.versions).find((one) => one.id === id)?.aliases ?? [];
  return name === null ? `${of} (base)` : [name, version, ...aliases].join(" · ");
}

// Showing

function showPrompt() {
  find("prompt").replaceChildren(...pieces().map(([text, typed]) => make(typed ? "b" : "span", {}, text)));
  for (const box of boxes()) {
    box.style.height = "auto";
    box.style.height = `${Math.min(box.scrollHeight + 2, 260)}px`;
  }
  const number = task.examples.indexOf(example);
  find("examples").querySelectorAll("button").forEach((button, n) => button.setAttribute("aria-pressed", String(n === number && expected() !== null)));
}

function changed() {
  showPrompt();
  keepAddress();
  find("tokens").textContent = "";
  countTokens();
}

const countTokens = later(400, async () => {
  const text = prompt();
  if (text.trim() === "") return;
  try {
    const tokens = await ask("tokenize", { body: { inputs: text, adapter_id: base }, mayAsk: false });
    if (text === prompt()) find("tokens").textContent = count(tokens.length, "token");
  } catch {
    find("tokens").textContent = "token count unavailable";
  }
});

// The address

function keepAddress() {
  const own = boxes().filter((box) => box.value !== "").map((box) => [`in.${box.name}`, box.value]);
  const number = task.examples.indexOf(example);
  const rest = [
    ["model", chosenVersion()],
    ...chosen.filter((id) => id !== chosenVersion()).map((id) => ["with", id]),
    ["max", find("max").value], ["t", find("temperature").value], ["seed", find("seed").value],
  ];
  const input = number >= 0 && expected() !== null ? [["example", String(number + 1)], ...own] : own;
  const whole = writeAddress([...rest, ...input]);
  if (!whole) writeAddress(rest);
  return whole;
}

async function openAddress(address) {
  const { base: ofBase, task: ofTask } = partsOf(address.get("model") ?? "");
  const name = ofTask === null ? ofBase : `${ofBase}/${ofTask}`;
  const known = all.adapters.find((one) => one.name === name);
  if (address.has("model") && !known && !all.bases.includes(name)) {
    tell({ title: "Not here.", message: `This gateway has no model '${address.get("model")}'.` });
  }
  const category = known?.category ?? (all.bases.includes(name) ? FREE : all.categories[0]);
  await chooseAdapter(chooseCategory(category, known?.name ?? (all.bases.includes(name) ? name : null)) , address.get("model"));
  chooseModels([chosenVersion(), ...(address.has("model") ? address.getAll("with") : [base])]);
  for (const [id, key] of [["max", "max"], ["temperature", "t"], ["seed", "seed"]]) if (address.has(key)) find(id).value = address.get(key);
  example = task.examples[Number(address.get("example")) - 1] ?? null;
  const given = boxes().some((box) => address.has(`in.${box.name}`));
  if (!given && task.examples.length) useExample(0);
  for (const box of boxes()) if (address.has(`in.${box.name}`)) box.value = address.get(`in.${box.name}`);
  changed();
  await showCard();
}

// Running

async function runNow(event) {
  event.preventDefault();
  if (running || prompt().trim() === "") return;
  tell(null);
  const wishes = { prompt: prompt(), max_tokens: Number(find("max").value), temperature: Number(find("temperature").value) };
  if (find("seed").value !== "") wishes.seed = Number(find("seed").value);
  const target = expected();
  const columns = chosen.map((id) => new Column(id, { stops: task.stop, expected: target }));
  showExpected(target);
  find("answers").replaceChildren(...columns.map((column) => column.node));
  setRunning(new AbortController());
  try {
    await run(chosen, wishes, columns, running.signal);
    find("status").value = running.signal.aborted ? "Stopped." : `Done: ${columns.filter((c) => !c.node.classList.contains("failed")).length} of ${columns.length} answered.`;
  } catch (error) {
    find("answers").replaceChildren();
    find("expected").hidden = true;
    find("status").value = "";
    tell(error);
  } finally {
    setRunning(null);
  }
}

function showExpected(target) {
  find("expected").hidden = target === null;
  find("expected").replaceChildren(make("span", {}, "Expected answer"), make("pre", {}, target ?? ""));
}

function setRunning(controller) {
  running = controller;
  find("run").hidden = controller !== null;
  find("stop").hidden = controller === null;
  if (controller !== null) {
    find("status").value = "Running …";
    find("stop").focus();
  } else if (document.activeElement === document.body || document.activeElement === find("stop")) find("run").focus();
}

async function copyLink() {
  const whole = keepAddress();
  await navigator.clipboard.writeText(location.href);
  find("status").value = whole ? "The link is copied." : "The link is copied, without the inputs: they are too long for an address.";
}

// An empty registry

function showEmpty() {
  find("intro").replaceChildren(make("div", { class: "empty" },
    make("h2", {}, "No adapter yet"),
    make("p", {}, "Only the base answers here. An adapter that is trained shows up by itself, a second later and without a restart:"),
    make("pre", {}, `loraland train ${all.bases[0]} dates`)));
}

async function guarded(work) {
  try {
    await work();
  } catch (error) {
    tell(error);
  }
}

async function startAgain(work) {
  tell(null);
  await guarded(async () => {
    await work();
    chooseModels([chosenVersion(), base]);
    if (task.examples.length) useExample(0);
    else changed();
    await showCard();
  });
}

guarded(async () => {
  all = await readModels();
  if (all.adapters.length === 0) showEmpty();
  document.body.classList.add("ready");
  await openAddress(readAddress());
});

find("category").addEventListener("change", (event) => startAgain(() => chooseAdapter(chooseCategory(event.target.value))));
find("adapter").addEventListener("change", (event) => startAgain(() => chooseAdapter(event.target.value)));
find("version").addEventListener("change", () => guarded(async () => {
  chooseModels([chosenVersion(), ...chosen.filter((id) => partsOf(id).task === null)]);
  changed();
  await showCard();
}));
find("add").addEventListener("change", (event) => { chooseModels([...chosen, event.target.value]); changed(); });
for (const id of ["max", "temperature", "seed"]) find(id).addEventListener("input", keepAddress);
find("ask").addEventListener("submit", runNow);
find("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) find("ask").requestSubmit();
});
find("stop").addEventListener("click", () => running?.abort());
find("link").addEventListener("click", () => guarded(copyLink));
addEventListener("hashchange", () => guarded(() => openAddress(readAddress())));
