// Asks the gateway that sent the page, and no other host.

import { ApiError, errorOf, send } from "./http.js";
import { askForKey, storedKey } from "./key.js";

export { ApiError };

function request(path, { body, signal }) {
  const headers = storedKey() === null ? {} : { authorization: `Bearer ${storedKey()}` };
  return send(path, { method: body === undefined ? "GET" : "POST", headers, body, signal, credentials: "same-origin" });
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
