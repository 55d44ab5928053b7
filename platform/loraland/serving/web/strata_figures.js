// The map of an audit, an interval from 0 to 1, and small grey images. The text beside says the same.

import { draw } from "./dom.js";
import { plain } from "./format.js";

const WIDTH = 640;
const HEIGHT = 380;
const LEFT = 14;
const BOTTOM = 44;
const TOP = 12;

// Points are [x, y, stratum, right]; those of the chosen stratum are drawn last.
export function strataMap(picture, chosen, name) {
  const points = [...picture.points].sort((a, b) => (a[2] === chosen) - (b[2] === chosen));
  const xs = points.map((point) => point[0]);
  const ys = points.map((point) => point[1]);
  const low = Math.min(0, ...xs);
  const high = Math.max(0, ...xs);
  const bottom = Math.min(0, ...ys);
  const top = Math.max(0, ...ys);
  const x = (value) => LEFT + ((value - low) / (high - low || 1)) * (WIDTH - 2 * LEFT);
  const y = (value) => HEIGHT - BOTTOM - ((value - bottom) / (top - bottom || 1)) * (HEIGHT - BOTTOM - TOP);
  const text = (at, line, anchor, content) => draw("text", { x: at, y: HEIGHT - line, "text-anchor": anchor }, content);
  const mark = ([across, up, stratum, right]) => {
    const kind = stratum === chosen ? "chosen" : undefined;
    if (right) return draw("circle", { class: kind, cx: x(across).toFixed(1), cy: y(up).toFixed(1), r: 3 });
    return draw("path", { class: kind, d: `M${(x(across) - 3).toFixed(1)} ${(y(up) - 3).toFixed(1)}l6 6m0-6l-6 6` });
  };
  const wrong = points.filter((point) => !point[3]).length;
  const inside = points.filter((point) => point[2] === chosen).length;
  const told = `${points.length} held-out items by margin, ${wrong} of them answered wrong; ${inside} are in stratum ${name}`;
  return draw("svg", { class: "map", role: "img", "aria-label": told, viewBox: `0 0 ${WIDTH} ${HEIGHT}` },
    draw("line", { class: "zero", x1: x(0), x2: x(0), y1: TOP, y2: HEIGHT - BOTTOM }),
    points.map(mark),
    text(LEFT, 24, "start", plain(low, 1)), text(x(0), 24, "middle", "0"), text(WIDTH - LEFT, 24, "end", plain(high, 1)),
    text(LEFT, 4, "start", "← wrong"), text(WIDTH - LEFT, 4, "end", "right →"));
}

export function track(rate) {
  const at = (value) => `${(100 * value).toFixed(1)}%`;
  return draw("svg", { class: "track", height: 22, "aria-hidden": "true" },
    draw("line", { class: "axis", x1: 0, x2: "100%", y1: "50%", y2: "50%" }),
    rate && draw("line", { class: "span", x1: at(rate.low), x2: at(rate.high), y1: "50%", y2: "50%" }),
    rate && draw("circle", { class: "mean", cx: at(rate.mean), cy: "50%", r: 4.5 }));
}

// Rows of numbers, 0 black to 1 white; equal neighbours of a row are one rectangle.
export function greyImage(pixels, told) {
  const parts = [];
  pixels.forEach((row, y) => {
    let start = 0;
    for (let x = 1; x <= row.length; x += 1) {
      if (x < row.length && row[x] === row[start]) continue;
      const level = Math.round(255 * row[start]);
      parts.push(draw("rect", { x: start, y, width: x - start, height: 1, fill: `rgb(${level} ${level} ${level})` }));
      start = x;
    }
  });
  return draw("svg", { class: "pixels", role: "img", "aria-label": told, viewBox: `0 0 ${pixels[0].length} ${pixels.length}`, "shape-rendering": "crispEdges" }, parts);
}
