// Points against price: the list as numbered dots, and what is usual in the first palate. The list says the same in words.

import { draw } from "./dom.js";

const WIDTH = 640;
const HEIGHT = 320;
const LEFT = 40;
const RIGHT = 18;
const TOP = 14;
const BOTTOM = 34;
const PRICES = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

export function chart(picks, palate, budget) {
  const priced = picks.filter((pick) => pick.price !== null);
  if (!priced.length) return null;
  const low = Math.min(...priced.map((pick) => pick.price)) / 1.4;
  const high = Math.max(...priced.map((pick) => pick.price), budget ?? 0) * 1.4;
  const usual = (palate?.usual ?? []).filter(([price]) => price >= low && price <= high);
  const points = [...priced.map((pick) => pick.quality), ...usual.map((one) => one[1])];
  const bottom = Math.floor(Math.min(...points) - 1);
  const top = Math.ceil(Math.max(...points) + 1);
  const x = (price) => LEFT + (Math.log(price / low) / Math.log(high / low)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - bottom) / (top - bottom)) * (HEIGHT - BOTTOM - TOP);
  const step = top - bottom > 12 ? 4 : 2;
  const levels = [];
  for (let level = Math.ceil(bottom / step) * step; level <= top; level += step) levels.push(level);
  const told = priced.map((pick) => `${pick.rank}: ${pick.quality.toFixed(0)} points at ${pick.price}`).join("; ");
  return draw("svg", { class: "chart", role: "img", "aria-label": `Points against price. ${told}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}` },
    levels.map((level) => [
      draw("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(level), y2: y(level) }),
      draw("text", { x: LEFT - 8, y: y(level) + 4, "text-anchor": "end" }, level),
    ]),
    PRICES.filter((price) => price >= low && price <= high).map((price) =>
      draw("text", { x: x(price), y: HEIGHT - 10, "text-anchor": "middle" }, price)),
    usual.length > 1 && draw("polyline", { class: "usual", points: usual.map(([price, value]) => `${x(price).toFixed(1)},${y(value).toFixed(1)}`).join(" ") }),
    budget && draw("line", { class: "budget", x1: x(budget), x2: x(budget), y1: TOP, y2: HEIGHT - BOTTOM }),
    [...priced].reverse().map((pick) =>
      draw("g", { class: pick.is_guess ? "dot guess" : "dot" },
        draw("title", {}, `${pick.rank}. ${pick.title}`),
        draw("circle", { cx: x(pick.price).toFixed(1), cy: y(pick.quality).toFixed(1), r: 9 }),
        draw("text", { x: x(pick.price).toFixed(1), y: (y(pick.quality) + 4).toFixed(1), "text-anchor": "middle" }, pick.rank))));
}

export function bar(theta, most) {
  return draw("svg", { viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("rect", { x: 0, y: 0, width: 100, height: 6 }),
    draw("rect", { class: "theta", x: 0, y: 0, width: (100 * theta) / most, height: 6 }));
}
