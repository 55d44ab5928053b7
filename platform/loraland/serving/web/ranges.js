// Scores with their intervals on one axis from 0 to 1; the numbers stand beside it.

import { draw } from "./dom.js";

// Marks are [kind, {mean, low, high}], drawn in their order; `ours` is blue and `theirs` grey.
export function ranges(...marks) {
  const at = (value) => `${(100 * Math.min(1, Math.max(0, value))).toFixed(2)}%`;
  return draw(
    "svg", { class: "track", height: 20, "aria-hidden": "true" },
    draw("line", { class: "axis", x1: "0%", x2: "100%", y1: "50%", y2: "50%" }),
    marks.map(([kind, { mean, low, high }]) => draw(
      "g", { class: kind },
      draw("line", { class: "span", x1: at(low), x2: at(high), y1: "50%", y2: "50%" }),
      draw("circle", { class: "mean", cx: at(mean), cy: "50%", r: 4.5 }),
    )),
  );
}
