// Figures of a moment from counters that only grow: rates between two answers of /v1/fleet.

export const KEPT = 60; // answers: two minutes

// The history of every replica and base, by name; each figure is null where it is not known.
export class History {
  #last = new Map();
  #series = new Map();

  // Take a replica's counters at a time in seconds; its figures now.
  add(name, stats, seconds) {
    const before = this.#last.get(name);
    this.#last.set(name, { stats, seconds });
    const passed = before ? seconds - before.seconds : 0;
    const grown = (field) => {
      if (!before || stats?.[field] === undefined || before.stats?.[field] === undefined) return null;
      const more = stats[field] - before.stats[field];
      return more < 0 ? null : more; // a replica that began anew
    };
    const [tokens, hits, misses] = ["generated_tokens", "hits", "misses"].map(grown);
    const asked = hits === null || misses === null ? null : hits + misses;
    return {
      tokensPerS: tokens === null || passed <= 0 ? null : tokens / passed,
      hits, misses,
      hitRate: asked ? hits / asked : null,
      busy: sum(stats?.running, stats?.waiting),
    };
  }

  // Put a figure into a series; the series, oldest first.
  push(name, value) {
    const series = this.#series.get(name) ?? [];
    series.push(value);
    if (series.length > KEPT) series.shift();
    this.#series.set(name, series);
    return series;
  }
}

// The sum of figures, null when none of them is known.
export function sum(...values) {
  const known = values.filter((value) => value !== null && value !== undefined);
  return known.length ? known.reduce((total, one) => total + one, 0) : null;
}
