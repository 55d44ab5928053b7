// How every page asks the server that sent it, and what goes wrong on the way.

const ROOT = new URL("..", import.meta.url); // this module is ROOT/web/http.js

const TITLES = { 0: "No connection.", 401: "A key is needed.", 403: "Not allowed.", 429: "Too many requests." };

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status; // 0: no answer at all
    this.code = code;
    this.title = TITLES[status];
  }
}

// The answer, whatever its status; what becomes JSON is sent with its type.
export async function send(path, { method, headers = {}, body, signal, credentials }) {
  const given = body === undefined ? {} : { "content-type": "application/json" };
  try {
    return await fetch(new URL(path, ROOT), {
      method, signal, credentials,
      headers: { ...headers, ...given },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store", referrerPolicy: "no-referrer",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?", 0, "unreachable");
  }
}

export async function errorOf(answer) {
  let told = {};
  try {
    told = (await answer.json()).error ?? {};
  } catch {
    // no JSON: the status says what there is to say
  }
  return new ApiError(told.message ?? `The server answered with status ${answer.status}.`, answer.status, told.code);
}
