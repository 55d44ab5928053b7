// The API key: asked for when the server wants one, kept in this tab and nowhere else.

import { find, make } from "./dom.js";

const PLACE = "loraland-key";
let asking = null; // the question that is open, for all who wait for its answer

export function storedKey() {
  return sessionStorage.getItem(PLACE);
}

function keep(key) {
  if (key) sessionStorage.setItem(PLACE, key);
  else sessionStorage.removeItem(PLACE);
  showButton();
}

function showButton() {
  const button = find("key");
  if (button) button.hidden = storedKey() === null;
}

// The key that was typed, or null.
export function askForKey(reason) {
  asking ??= question(reason).finally(() => { asking = null; });
  return asking;
}

function question(reason) {
  const input = make("input", {
    type: "password", id: "key-input", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-note",
  });
  const forget = make("button", { type: "button", class: "quiet" }, "Forget the key");
  const cancel = make("button", { type: "button" }, "Cancel");
  const form = make(
    "form", { method: "dialog" },
    make("h2", { id: "key-title" }, "API key"),
    make("p", { class: "soft" }, reason),
    make("label", { class: "field", for: "key-input" }, "Key", input),
    make("p", { class: "note", id: "key-note" }, "It is kept in this browser tab until that is closed, and sent to this server only."),
    make("div", { class: "run" }, make("button", { type: "submit", class: "primary", value: "use" }, "Use this key"), cancel, storedKey() && forget),
  );
  const dialog = make("dialog", { class: "small", "aria-labelledby": "key-title" }, form);
  document.body.append(dialog);
  return new Promise((resolve) => {
    cancel.addEventListener("click", () => dialog.close(""));
    forget.addEventListener("click", () => { keep(null); dialog.close(""); });
    dialog.addEventListener("close", () => {
      const key = dialog.returnValue === "use" ? input.value.trim() : "";
      if (key) keep(key);
      dialog.remove();
      resolve(key || null);
    });
    dialog.showModal();
  });
}

showButton();
find("key")?.addEventListener("click", async () => {
  if (await askForKey("Another key for this tab.")) location.reload();
});
