"""The line that a benchmark prints: what was measured, when, on what machine, by which code.

Also keeps the figures of repeated rounds. Knows nothing of what they mean.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from loraland.matrix.provenance import git_state, hardware, package_versions


def report(benchmark: str, found: Mapping[str, Any], out: Path | None = None) -> None:
    """Print one JSON line, and write it to `out` too. What is in `found` comes last, and wins."""
    line = json.dumps(
        {
            "benchmark": benchmark,
            "date": datetime.now(UTC).date().isoformat(),
            "commit": git_state(),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "versions": package_versions(),
            **found,
        }
    )
    if out is not None:
        out.write_text(line + "\n")
    print(line)


class Figures:
    """Named figures, one of each for every round."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def note(self, name: str, value: float) -> None:
        """Keep a figure, and show it on the way."""
        self.values.setdefault(name, []).append(value)
        print(f"{name} {value:.1f}", file=sys.stderr, flush=True)

    def summary(self, ratios: Mapping[str, tuple[str, str]], rounds: int) -> dict[str, Any]:
        """Medians of all values, and of the rounds' ratios of means, those that can be had.

        Every round has as many values of a figure as any other.
        """
        return {
            **{name: round(statistics.median(v), 1) for name, v in self.values.items()},
            "rounds": rounds,
            "ratios": {
                name: round(self._ratio(over, under, rounds), 3)
                for name, (over, under) in ratios.items()
                if over in self.values and under in self.values
            },
            "all": {name: [round(v, 1) for v in values] for name, values in self.values.items()},
        }

    def _ratio(self, over: str, under: str, rounds: int) -> float:
        return statistics.median(
            statistics.mean(self._of_round(over, i, rounds))
            / statistics.mean(self._of_round(under, i, rounds))
            for i in range(rounds)
        )

    def _of_round(self, name: str, number: int, rounds: int) -> list[float]:
        each = len(self.values[name]) // rounds
        return self.values[name][number * each : (number + 1) * each]
