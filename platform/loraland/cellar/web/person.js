// Who asks: a random token that this browser keeps. Asks the server that sent the page, and no other.

const ROOT = new URL("..", import.meta.url); // this module is ROOT/web/person.js
const NAME = "grapevine-token";

export class ApiError extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status; // 0: no answer at all
    this.code = code;
    this.title = { 0: "No connection.", 429: "Too many requests." }[status];
  }
}

let token = localStorage.getItem(NAME);

async function request(path, { method = "GET", body, signal } = {}) {
  const headers = token === null ? {} : { authorization: `Bearer ${token}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  try {
    return await fetch(new URL(path, ROOT), {
      method, headers, signal,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store", referrerPolicy: "no-referrer", credentials: "omit",
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

// One at a time, so that two questions at once do not make two people.
let becoming = null;
function become() {
  becoming ??= (async () => {
    const answer = await request("v1/people", { method: "POST" });
    if (!answer.ok) throw await errorOf(answer);
    token = (await answer.json()).token;
    localStorage.setItem(NAME, token);
  })().finally(() => { becoming = null; });
  return becoming;
}

// The JSON of an answer. Somebody whom the server no longer knows becomes somebody new.
export async function ask(path, options) {
  if (token === null) await become();
  const asked = token;
  let answer = await request(path, options);
  if (answer.status === 401) {
    if (token === asked) token = null;
    if (token === null) await become();
    answer = await request(path, options);
  }
  if (!answer.ok) throw await errorOf(answer);
  return answer.status === 204 ? null : answer.json();
}

// 128 random bits. (randomUUID is not there on a page without TLS.)
export function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Tells what happened. An id of its own lets it be sent again and count once.
export async function tellEvents(events) {
  const body = { events: events.map((one) => ({ id: newId(), at_ms: Date.now(), ...one })) };
  try {
    return await ask("v1/events", { method: "POST", body });
  } catch (error) {
    if (error.status !== 0 && error.status !== 503) throw error;
    await new Promise((resolve) => setTimeout(resolve, 1000));
    return ask("v1/events", { method: "POST", body });
  }
}

export async function forget() {
  if (token !== null) await ask("v1/people/me", { method: "DELETE" });
  token = null;
  localStorage.removeItem(NAME);
}
