// Numbers as people read them: the words and signs of `loraland report`.

export const NOTHING = "–";
const MINUS = "−"; // as wide as a plus

export const SIGNS = { better: "▲", worse: "▼" };
export const VERDICTS = { better: "better", worse: "worse", undecided: "undecided", null: "not tested" };
export const OUTCOMES = {
  broken: "base right, adapter wrong",
  mended: "base wrong, adapter right",
  both_wrong: "both wrong",
  both_right: "both right",
};
export const STEPS = [
  ["d-4", "−0.50 or less"], ["d-3", "−0.25"], ["d-2", "−0.10"], ["d-1", "−0.02"], ["d0", "about 0"],
  ["d1", "+0.02"], ["d2", "+0.10"], ["d3", "+0.25"], ["d4", "+0.50 or more"],
];

export function plain(value, digits = 3) {
  if (value === null || value === undefined) return NOTHING;
  return (Number(value.toFixed(digits)) + 0).toFixed(digits).replace("-", MINUS);
}

export function signed(value, digits = 3) {
  if (value === null || value === undefined) return NOTHING;
  const text = plain(value, digits);
  return text.startsWith(MINUS) ? text : `+${text}`;
}

// The bounds of an interval of lifts; empty when there is none.
export function span(low, high, digits = 2) {
  return low === null || high === null ? "" : `${signed(low, digits)} to ${signed(high, digits)}`;
}

export function bounds(interval, digits = 2) {
  return `${plain(interval.low, digits)} to ${plain(interval.high, digits)}`;
}

export function share(count, total) {
  if (!total) return NOTHING;
  const percent = (100 * count) / total;
  return `${percent > 0 && percent < 1 ? percent.toFixed(1) : percent.toFixed(0)} %`;
}

export function pValue(value) {
  if (value === null || value === undefined) return NOTHING;
  return value < 0.001 ? "< 0.001" : value.toFixed(3);
}

export function day(moment) {
  return `${moment.slice(0, 10)} ${moment.slice(11, 16)} UTC`;
}

export function whole(value) {
  return value === null || value === undefined ? NOTHING : Math.round(value).toLocaleString("en");
}

export function bytes(value) {
  if (value === null || value === undefined) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  let left = value;
  for (; left >= 1024 && power < units.length - 1; power += 1) left /= 1024;
  return `${power && left < 100 ? left.toFixed(1) : left.toFixed(0)} ${units[power]}`;
}

export function milliseconds(value) {
  if (value === null || value === undefined) return NOTHING;
  if (value >= 10_000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

export function count(number, one, many = `${one}s`) {
  return `${whole(number)} ${number === 1 ? one : many}`;
}
