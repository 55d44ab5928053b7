// A small line of the last minutes. The figure beside it says the same in words.

import { draw } from "./dom.js";

const WIDTH = 120;
const HEIGHT = 28;

// Values are oldest first, null where nothing is known; `most` is the top of the scale, if fixed.
export function sparkline(values, capacity, most = null) {
  const known = values.filter((value) => value !== null);
  const top = most ?? Math.max(1e-9, ...known);
  const x = (n) => ((n + capacity - values.length) * (WIDTH - 4)) / (capacity - 1) + 2;
  const y = (value) => HEIGHT - 3 - (Math.min(value, top) / top) * (HEIGHT - 6);
  const lines = [];
  let line = [];
  values.forEach((value, n) => {
    if (value === null) {
      lines.push(line);
      line = [];
    } else line.push(`${x(n).toFixed(1)},${y(value).toFixed(1)}`);
  });
  lines.push(line);
  const last = values.at(-1);
  return draw(
    "svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", height: HEIGHT, "aria-hidden": "true" },
    draw("line", { class: "ground", x1: 0, x2: WIDTH, y1: HEIGHT - 2.5, y2: HEIGHT - 2.5 }),
    lines.filter((one) => one.length > 1).map((one) => draw("polyline", { points: one.join(" ") })),
    last === null || last === undefined ? null : draw("line", { class: "now", x1: x(values.length - 1), x2: x(values.length - 1), y1: y(last), y2: y(last) }),
  );
}
