// Makes elements. Text from outside only ever becomes text nodes and attributes.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value") node.value = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function find(id) {
  return document.getElementById(id);
}

// Options [value, text], or {label, options} for a group.
export function setOptions(select, options, chosen) {
  const option = ([value, text]) => make("option", { value, selected: value === chosen }, text);
  select.replaceChildren(
    ...options.map((one) =>
      Array.isArray(one) ? option(one) : make("optgroup", { label: one.label }, one.options.map(option)),
    ),
  );
  if (chosen !== undefined && chosen !== null) select.value = chosen;
}

export function later(ms, work) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...given), ms);
  };
}

// Puts a trouble where a page shows them; null takes it away.
export function tell(error) {
  const place = find("trouble");
  if (!error) return place.replaceChildren();
  place.replaceChildren(make("p", { class: "trouble" }, make("b", {}, error.title ?? "That did not work."), " ", error.message));
}
