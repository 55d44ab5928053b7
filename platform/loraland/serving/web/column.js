// One model's answer as it streams in. An answer counts up to the task's stop, as it is judged; what
// a model says after that is shown in grey.

import { make } from "./dom.js";
import { count, milliseconds } from "./format.js";
import { partsOf } from "./models.js";

const ENDS = { stop: "ended by itself", length: "cut off at max tokens", cancelled: "stopped" };

export class Column {
  #raw = "";
  #counted = document.createTextNode("");
  #after = document.createTextNode("");
  #ended = false;

  constructor(model, { stops, expected }) {
    this.stops = stops;
    this.expected = expected;
    const { base, task, version } = partsOf(model);
    this.label = task === null ? base : task;
    this.text = make("pre", { tabindex: 0, role: "region", "aria-label": `Answer of ${model}`, "aria-busy": "true" },
      make("span", {}, this.#counted), make("span", { class: "after" }, this.#after), make("span", { class: "caret", "aria-hidden": "true" }));
    this.verdict = make("p", { class: "verdict" });
    this.numbers = make("p", { class: "numbers" }, "waiting …");
    this.copy = make("button", { type: "button", class: "quiet", "aria-label": `Copy the answer of ${model}`, onclick: () => this.#copy() }, "Copy");
    this.node = make(
      "article", { class: task === null ? "answer" : "answer ours" },
      make("div", { class: "head" }, make("h2", {}, this.label, " ", make("small", {}, task === null ? "base" : version ? `@${version}` : "")), this.copy),
      this.text, this.verdict, this.numbers,
    );
  }

  get ended() {
    return this.#ended;
  }

  get answer() {
    return this.#counted.data;
  }

  push(text) {
    if (!this.#raw) this.numbers.textContent = "answering …";
    this.#raw += text;
    const said = this.#raw.trimStart(); // white space before the first word is dropped for every model alike
    const ends = this.stops.map((stop) => said.indexOf(stop)).filter((place) => place >= 0);
    const end = ends.length ? Math.min(...ends) : said.length;
    this.#counted.data = said.slice(0, end);
    this.#after.data = said.slice(end);
  }

  end({ finish_reason: reason, usage, ttft_ms: ttft, tokens_per_s: speed }) {
    this.#finish();
    const tokens = usage?.completion_tokens;
    const told = [
      ttft === undefined || ttft === null ? null : `first token ${milliseconds(ttft)}`,
      speed === undefined || speed === null ? null : `${speed.toFixed(speed < 10 ? 1 : 0)} tokens/s`,
      tokens === undefined ? null : count(tokens, "token"),
      ENDS[reason] ?? reason,
    ];
    this.numbers.replaceChildren(...told.filter(Boolean).map((one) => make("span", {}, one)));
    if (!this.#raw.trim()) this.verdict.replaceChildren(make("span", { class: "neutral" }, "an empty answer"));
    else if (this.expected !== null) this.#compare();
  }

  fail(message) {
    this.#finish();
    this.node.classList.add("failed");
    this.verdict.replaceChildren(make("b", {}, "No answer. "), message);
    this.numbers.textContent = "";
  }

  stop() {
    if (this.#ended) return;
    this.#finish();
    this.numbers.textContent = "stopped";
  }

  #finish() {
    this.#ended = true;
    this.node.classList.add("done");
    this.text.setAttribute("aria-busy", "false");
  }

  #compare() {
    const same = this.answer.trim() === this.expected.trim();
    this.node.classList.add(same ? "same" : "other");
    this.verdict.replaceChildren(make("span", { class: same ? "better" : "neutral" }, same ? "✓ the expected answer" : "✗ not the expected text"));
  }

  async #copy() {
    await navigator.clipboard.writeText(this.answer);
    this.copy.textContent = "Copied";
    setTimeout(() => { this.copy.textContent = "Copy"; }, 1500);
  }
}
