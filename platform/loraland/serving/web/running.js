// Streams the answers of several models to one prompt: all in the same batch, each into its column.

import { ApiError, events } from "./api.js";

// Resolves when all have ended; a column that fails leaves the others alone.
export async function run(models, wishes, columns, signal) {
  try {
    if (models.length === 1) await alone(models[0], wishes, columns[0], signal);
    else await together(models, wishes, columns, signal);
  } catch (error) {
    if (error.name === "AbortError") columns.forEach((column) => column.stop());
    else if (columns.every((column) => !column.ended && !column.answer) && error instanceof ApiError) throw error;
    else fail(columns, error.message);
    return;
  }
  fail(columns, "The stream ended before the answer did.");
}

function fail(columns, message) {
  for (const column of columns) if (!column.ended) column.fail(message);
}

async function together(models, wishes, columns, signal) {
  for await (const event of events("v1/compare", { body: { models, ...wishes, stream: true }, signal })) {
    if (event.index === undefined && event.error) throw new ApiError(event.error.message, 500, event.error.code);
    const column = columns[event.index];
    if (!column) continue;
    if (event.error) column.fail(event.error.message);
    else {
      if (event.text) column.push(event.text);
      if (event.finish_reason) column.end(event);
    }
  }
}

// A comparison needs two models; one alone goes through OpenAI's own path, timed here.
async function alone(model, wishes, column, signal) {
  const began = performance.now();
  const body = { model, ...wishes, stream: true, stream_options: { include_usage: true } };
  let first = null;
  let reason = null;
  let usage = null;
  for await (const event of events("v1/completions", { body, signal })) {
    if (event.error) throw new ApiError(event.error.message, 500, event.error.code);
    const [choice] = event.choices;
    if (choice?.text) {
      first ??= performance.now();
      column.push(choice.text);
    }
    reason = choice?.finish_reason ?? reason;
    usage = event.usage ?? usage;
  }
  if (reason === null) return;
  const seconds = first === null ? 0 : (performance.now() - first) / 1000;
  const later = (usage?.completion_tokens ?? 0) - 1;
  column.end({ finish_reason: reason, usage: usage ?? undefined, ttft_ms: first === null ? null : first - began, tokens_per_s: later > 0 && seconds > 0 ? later / seconds : null });
}
