// Who asks: a random token that this browser keeps. Asks the server that sent the page, and no other.

import { errorOf, send } from "./http.js";

const NAME = "grapevine-token";

let token = localStorage.getItem(NAME);

function request(path, { method = "GET", body, signal } = {}) {
  const headers = token === null ? {} : { authorization: `Bearer ${token}` };
  return send(path, { method, headers, body, signal, credentials: "omit" });
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
