// A cell in a drawer: its numbers, and the answers of adapter and base, what the adapter broke first.

import { ask } from "./api.js";
import { later, make } from "./dom.js";
import { bounds, count, day, OUTCOMES, plain, pValue, share, signed, SIGNS, span, VERDICTS } from "./format.js";

const AT_ONCE = 10;

// Opens the drawer; `linkOf` gives an address of the playground for a model and values, or null.
export function openCell(space, cell, linkOf, onClose) {
  const close = make("button", { type: "button", class: "quiet", "aria-label": "Close", onclick: () => dialog.close() }, "Close");
  const link = cell.result && linkOf(cell.result.model, null);
  const dialog = make("dialog", { class: "drawer", "aria-labelledby": "cell-title" },
    make("div", { class: "head" }, make("h2", { id: "cell-title" }, cell.task, make("small", {}, ` on ${cell.base}`)), close),
    make("div", { class: "body" },
      cell.state !== "done" && make("p", { class: "trouble" }, make("b", {}, cell.state), ` ${cell.reason ?? ""}`,
        cell.attempts ? ` (${count(cell.attempts, "attempt")}${cell.failed ? `, ${day(cell.failed)}` : ""})` : ""),
      cell.result && numbers(cell.result),
      link && make("p", {}, make("a", { href: link }, "Try it in the playground")),
      cell.result && samples(space, cell, linkOf)));
  dialog.addEventListener("close", () => { dialog.remove(); onClose(); });
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  dialog.showModal();
}

function numbers(result) {
  const mark = result.verdict && SIGNS[result.verdict] ? `${SIGNS[result.verdict]} ` : "";
  const report = result.published;
  const entries = [
    ["lift", [make("b", { class: result.verdict ?? "untested" }, mark, signed(result.lift.mean)), ` ${span(result.lift.low, result.lift.high)}`]],
    ["verdict", `${VERDICTS[result.verdict]}${result.p_value === null ? "" : `, p ${pValue(result.p_value)} after correction`}`],
    ["adapter", `${plain(result.score.mean)} (${bounds(result.score)})`],
    ["base", `${plain(result.base_score.mean)} (${bounds(result.base_score)})`],
    ["judged", `${result.metric} on ${count(result.items, "item")}${result.detectable === null ? "" : `, where a lift of ${plain(result.detectable)} would be found (80 % power)`}`],
    ["unparsable", `${share(result.unparsable, result.items)}, of the base ${share(result.base_unparsable, result.items)}${result.failures ? `; ${count(result.failures, "answer")} failed` : ""}`],
    ["marks", result.marks.join(", ")],
    ["report", report && `${plain(report.base)} to ${plain(report.tuned)}, lift ${signed(report.lift)}; GPT-4 ${plain(report.gpt4)}`],
    ["model", make("code", {}, result.model)],
  ];
  return make("dl", { class: "facts" }, entries.filter(([, told]) => told && told.length !== 0).map(([name, told]) => make("div", {}, make("dt", {}, name), make("dd", {}, told))));
}

function samples(space, cell, linkOf) {
  const list = make("div", { class: "list" });
  const status = make("output", { role: "status" }, "Reading the answers …");
  const more = make("button", { type: "button", hidden: true }, "Show more");
  const search = make("input", { type: "search", placeholder: "search in prompts and answers", "aria-label": "Search in the answers of this cell", maxlength: 200 });
  const buttons = make("div", { class: "outcomes", role: "group", "aria-label": "Outcome" });
  let outcome = null;
  let shown = 0;
  let turn = 0;

  async function read(again) {
    const mine = (turn += 1);
    const offset = again ? 0 : shown;
    const query = new URLSearchParams({ offset, limit: AT_ONCE, q: search.value, ...(outcome ? { outcome } : {}) });
    try {
      const page = await ask(`v1/spaces/${encodeURIComponent(space)}/cells/${cell.id}/samples?${query}`);
      if (mine !== turn) return;
      const nodes = page.data.map((pair) => sample(pair, cell, linkOf));
      if (again) list.replaceChildren(...nodes);
      else list.append(...nodes);
      shown = offset + nodes.length;
      if (!buttons.childElementCount) showButtons(page);
      more.hidden = shown >= page.matching;
      status.value = page.matching ? `${shown} of ${page.matching} shown` : "No answer is like that.";
    } catch (error) {
      if (mine === turn) status.value = error.message;
    }
  }

  function showButtons(page) {
    const all = [[null, "all", page.total], ...Object.entries(OUTCOMES).map(([key, name]) => [key, name, page.counts[key] ?? 0])];
    buttons.replaceChildren(...all.map(([key, name, number]) => make("button", {
      type: "button", "aria-pressed": String(key === null), disabled: number === 0, onclick: (event) => {
        outcome = key;
        for (const one of buttons.children) one.setAttribute("aria-pressed", String(one === event.currentTarget));
        read(true);
      },
    }, name, make("small", {}, ` ${number}`))));
  }

  search.addEventListener("input", later(250, () => read(true)));
  more.addEventListener("click", () => read(false));
  read(true);
  return make("section", { class: "samples", "aria-label": "Answers" }, make("h3", {}, "Answers"), buttons, make("div", { class: "tools" }, search, status), list, more);
}

function sample(pair, cell, linkOf) {
  const link = pair.values && linkOf(cell.result.model, pair.values);
  return make("article", { class: "sample" },
    make("h4", {}, make("b", {}, OUTCOMES[pair.outcome]), make("span", {}, `item ${pair.item}`), link && make("a", { href: link }, "Ask it again")),
    make("pre", { class: "asked", tabindex: 0, role: "region", "aria-label": `Prompt of item ${pair.item}` }, pair.prompt),
    make("div", { class: "sides" },
      make("div", {}, make("p", { class: "label" }, "expected"), make("pre", {}, pair.target)), side("adapter", pair.adapter), side("base", pair.base)));
}

function side(name, answer) {
  const label = make("p", { class: "label" }, `${name} `, make("b", { class: answer.right ? "better" : "worse" }, `${answer.right ? "✓" : "✗"} ${plain(answer.score, answer.score % 1 ? 2 : 0)}`),
    ` · ${count(answer.tokens, "token")}${answer.finish_reason === "length" ? " · cut off" : ""}`);
  const others = Object.entries(answer.secondary).map(([key, value]) => `${key} ${plain(value, 2)}`).join(", ");
  return make("div", {}, label, make("pre", {}, answer.failure === null ? answer.output : `no answer: ${answer.failure}`),
    answer.failure === null && answer.parsed === null && make("p", { class: "read" }, "not parsable"),
    answer.parsed !== null && answer.parsed !== answer.output && make("p", { class: "read" }, `read as: ${answer.parsed}`),
    others && make("p", { class: "read" }, others));
}
