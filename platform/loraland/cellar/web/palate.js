// The page: cards, palates, a list with its reasons. What the server says only ever becomes text.

import { bar, chart } from "./chart.js";
import { find, later, make, tell } from "./dom.js";
import { count, share } from "./format.js";
import { ask, forget, newId, tellEvents } from "./person.js";

const CARDS = 6;
const PICKS = 10;
const SHOWN_PALATES = 6;
const WORDS = { liked: "I like it", disliked: "Not for me", tasted: "Tasted it" };

const said = new Map(); // item -> what was said of it
let model = null;
let palates = null;
let pool = []; // cards that were not shown yet
let asking = null; // stops an older question for the list

async function guarded(work) {
  try {
    await work();
    tell(null);
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
  }
}

function figures(item) {
  const parts = [item.kind, `${Number(item.quality.toFixed(1))} points`];
  if (item.price !== null) parts.push(`costs ${Number(item.price.toFixed(2))}`);
  return make("p", { class: "figures" }, parts.filter(Boolean).join(" · "));
}

function words(shared, others = []) {
  return make("ul", { class: "words", "aria-label": "Words of its reviews" },
    shared.map((word) => make("li", { class: "shared" }, word)),
    others.filter((word) => !shared.includes(word)).map((word) => make("li", {}, word)));
}

// Buttons that say it, and keep what was said in view.
function verdict(item, kinds, list) {
  const group = make("div", { class: "verdict", role: "group", "aria-label": `Your word on ${item.title}` });
  const show = () => {
    for (const button of group.children) button.setAttribute("aria-pressed", said.get(item.key) === button.dataset.kind);
  };
  group.append(...kinds.map((kind) =>
    make("button", {
      type: "button", "data-kind": kind,
      onclick: () => guarded(async () => {
        await tellEvents([{ kind, item: item.key, ...(list ? { list } : {}) }]);
        said.set(item.key, kind);
        show();
        await Promise.all([showPalates(), showPicks(), showSaid()]);
      }),
    }, WORDS[kind])));
  show();
  return group;
}

async function showCards() {
  const place = find("cards");
  place.setAttribute("aria-busy", "true");
  if (!pool.length) pool = (await ask(`v1/cards?n=${4 * CARDS}`)).cards;
  const cards = pool.splice(0, CARDS);
  place.replaceChildren(...cards.map((card) =>
    make("li", { class: "card" }, make("h3", {}, card.title), figures(card), words([], card.words),
      verdict(card, ["liked", "disliked"]))));
  if (!cards.length) place.append(make("li", { class: "empty" }, "You have judged all of them."));
  place.removeAttribute("aria-busy");
}

function palateLine(palate, most) {
  return make("li", { class: palate.preferred ? "preferred" : null },
    make("span", { class: "name" }, palate.name, palate.preferred && make("span", { class: "unseen" }, " (preferred)")),
    make("span", { class: "share" }, share(palate.theta, 1)), bar(palate.theta, most),
    make("small", {}, palate.words.join(", ")));
}

async function showPalates() {
  const answer = await ask("v1/palates");
  ({ model, palates } = answer);
  const most = Math.max(...palates.map((palate) => palate.theta));
  find("palates").replaceChildren(...palates.slice(0, SHOWN_PALATES).map((palate) => palateLine(palate, most)));
  const rest = palates.slice(SHOWN_PALATES);
  const left = rest.reduce((sum, palate) => sum + palate.theta, 0);
  if (rest.length) {
    find("palates").append(make("li", {}, make("span", { class: "name" }, `${rest.length} others`), make("span", { class: "share" }, share(left, 1))));
  }
  find("basis").textContent = answer.opinions
    ? `From ${count(answer.opinions, "opinion")}. Bold: where the list comes from.`
    : "Nothing said yet: these are the shares of all wines.";
  find("origin").textContent = model.made_up ? "The wines and their reviews are made up." : "";
}

function reason(why) {
  const parts = [`From the palate “${why.palate}”`];
  if (why.percentile !== null) parts.push(`no worse value than ${why.percentile.toFixed(0)} % of it`);
  if (why.usual_price !== null) parts.push(`such points usually cost ${why.usual_price.toFixed(0)} there`);
  return parts.join("; ");
}

// What opening a line shows; that it was opened, and its price seen, is told.
function more(pick, list) {
  const place = make("div", { class: "more" });
  const open = () => guarded(async () => {
    if (place.hasChildNodes()) return;
    const seen = pick.price === null ? [] : [{ kind: "price_seen", item: pick.key, list, price: pick.price }];
    const [wine] = await Promise.all([ask(`v1/wines/${encodeURIComponent(pick.key)}`), tellEvents([{ kind: "clicked", item: pick.key, list }, ...seen])]);
    const palates = wine.palates.filter((one) => one.share >= 0.005).map((one) => `${one.name} ${share(one.share, 1)}`);
    place.replaceChildren(make("p", { class: "figures" },
      [wine.maker, wine.place, count(wine.reviews, "review"), `palates: ${palates.join("; ")}`].filter(Boolean).join(" · ")));
  });
  return make("details", { ontoggle: (event) => event.target.open && open() }, make("summary", {}, "More about it"), place);
}

function pickLine(pick, list) {
  return make("li", { class: "pick" },
    make("span", { class: "rank", "aria-hidden": "true" }, pick.rank),
    make("h3", {}, pick.title, " ", pick.is_guess && make("span", { class: "tag" }, "a guess")),
    figures(pick), make("p", { class: "why" }, reason({ ...pick.why, palate: pick.palate })),
    words(pick.why.shared, pick.why.typical), more(pick, list), verdict(pick, ["liked", "disliked", "tasted"], list));
}

// The slider is even in log price; its right end is no limit.
function budget() {
  const at = Number(find("budget").value);
  if (at >= 100 || !model || model.cheapest === null) return null;
  const price = model.cheapest * (model.dearest / model.cheapest) ** (at / 100);
  return price < 100 ? Math.ceil(price) : Math.ceil(price / 10) * 10;
}

function tellBudget() {
  const most = budget();
  const told = most === null ? "any price" : `up to ${most}`;
  find("budget-told").textContent = told;
  find("budget").setAttribute("aria-valuetext", told);
}

async function showPicks() {
  asking?.abort();
  asking = new AbortController();
  const place = find("picks");
  place.setAttribute("aria-busy", "true");
  const most = budget();
  const query = new URLSearchParams({ n: PICKS, objective: find("objective").value, list: newId() });
  if (most !== null) query.set("budget", most);
  const answer = await ask(`v1/recommendations?${query}`, { signal: asking.signal });
  place.replaceChildren(...answer.picks.map((pick) => pickLine(pick, answer.list)));
  place.removeAttribute("aria-busy");
  find("status").textContent = [`${count(answer.picks.length, "wine")}.`, ...answer.notes.map((note) => `${note[0].toUpperCase()}${note.slice(1)}.`)].join(" ");
  const first = palates?.find((palate) => palate.id === answer.picks[0]?.palate_id);
  const picture = chart(answer.picks, first, most);
  find("chart").replaceChildren(...(picture ? [picture] : []));
  find("chart-note").textContent = picture
    ? `Numbers are places in the list below; dashed: what is usual for the price in “${first?.name ?? ""}”.`
    : "No price is known.";
}

async function showSaid() {
  const answer = await ask("v1/opinions?n=50");
  for (const item of answer.items) said.set(item.key, item.verdict);
  find("opinions").textContent = answer.items.length ? `(${answer.items.length})` : "";
  find("said").replaceChildren(...answer.items.map((item) => make("li", {}, item.title, verdict(item, ["liked", "disliked"]))));
}

async function search() {
  const answer = await ask(`v1/wines?${new URLSearchParams({ q: find("words").value, n: 8 })}`);
  for (const item of answer.items) if (item.verdict) said.set(item.key, item.verdict);
  find("found").replaceChildren(...answer.items.map((item) => make("li", {}, item.title, verdict(item, ["liked", "disliked", "tasted"]))));
  if (!answer.items.length) find("found").append(make("li", { class: "empty" }, "No title holds all of these words."));
}

async function showAll() {
  await showPalates(); // first, because it knows the prices
  tellBudget();
  await Promise.all([showCards(), showPicks(), showSaid()]);
}

const pause = later(250, () => guarded(showPicks));
find("budget").addEventListener("input", () => { tellBudget(); pause(); });
find("objective").addEventListener("change", () => guarded(showPicks));
find("more").addEventListener("click", () => guarded(showCards));
find("wish").addEventListener("submit", (event) => event.preventDefault());
find("search").addEventListener("submit", (event) => { event.preventDefault(); guarded(search); });
find("forget").addEventListener("click", () => guarded(async () => {
  if (!confirm("Delete what you said, here and on the server?")) return;
  await forget();
  said.clear();
  pool = [];
  find("found").replaceChildren();
  await showAll();
}));
guarded(showAll);
