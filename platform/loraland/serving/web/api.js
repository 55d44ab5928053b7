// Asks the gateway that sent the page, and no other host.

import { askForKey, storedKey } from "./key.js";

const ROOT = new URL("..", import.meta.url); // this module is ROOT/web/api.js

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status; // 0: no answer at all
    this.code = code;
    this.title = { 0: "No connection.", 401: "A key is needed.", 403: "Not allowed.", 429: "Too many requests." }[status];
  }
}

async function request(path, { body, signal }) {
  const headers = storedKey() === null ? {} : { authorization: `Bearer ${storedKey()}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    return await fetch(new URL(path, ROOT), {
      method: body === undefined ? "GET" : "POST",
      body: body === undefined ? undefined : JSON.stringify(body),
      headers, signal, cache: "no-store", referrerPolicy: "no-referrer", credentials: "same-origin",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", 0, "unreachable");
  }
}

async function errorOf(answer) {
  let told = {};
  try {
    told = (await answer.json()).error ?? {};
  } catch {
    // no JSON: the status says what there is to say
  }
  return new ApiError(told.message ?? `The server answered with status ${answer.status}.`, answer.status, told.code);
}

// An answer with a good status. A page that runs in the background does not ask for a key.
async function answered(path, options) {
  let answer = await request(path, options);
  while (answer.status === 401 && options.mayAsk !== false) {
    const error = await errorOf(answer);
    const reason = storedKey() === null ? "This server answers only with a key." : error.message;
    if ((await askForKey(reason)) === null) throw error;
    answer = await request(path, options);
  }
  if (!answer.ok) throw await errorOf(answer);
  return answer;
}

export async function ask(path, options = {}) {
  return (await answered(path, options)).json();
}

// The events of a stream: each one's JSON, until [DONE] or the end.
export async function* events(path, options) {
  const answer = await answered(path, options);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split("\n").filter((line) => line.startsWith("data:"));
        const data = lines.map((line) => line.slice(5).trimStart()).join("\n");
        if (data === "[DONE]") return;
        if (data) yield JSON.parse(data);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
