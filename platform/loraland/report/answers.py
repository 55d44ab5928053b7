"""The sample browser's data as JSON that may stand inside a page. Pure.

Items are told once per task, since the cells of a task answer the same ones; every `<` is written
as an escape, so that no text of a model can end the element that it stands in.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from loraland.evaluation.samples import Sample
from loraland.report.content import CellPage
from loraland.report.excerpt import Pair, clipped


class Answers:
    """Shown items by task, and of each cell its answers to them."""

    def __init__(self, cells: Sequence[CellPage]) -> None:
        """Take the excerpts of all cells."""
        self._items: dict[str, dict[tuple[str, str], int]] = {}
        self._cells = {
            cell.id: self._rows(cell.row.task, cell.excerpt.shown)
            for cell in cells
            if cell.excerpt is not None
        }

    def tasks(self) -> dict[str, Markup]:
        """A JSON list per task: prompt and target of each item."""
        return {
            task: as_json(
                [{"prompt": clipped(prompt), "target": clipped(target)} for prompt, target in found]
            )
            for task, found in self._items.items()
        }

    def of_cell(self, cell_id: str) -> Markup:
        """A JSON list of a cell's pairs; `item` is a place in the list of its task."""
        return as_json(self._cells[cell_id])

    def _rows(self, task: str, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
        known = self._items.setdefault(task, {})
        return [
            {
                "item": known.setdefault((pair.ours.prompt, pair.ours.target), len(known)),
                "number": pair.ours.item,
                "outcome": pair.outcome,
                "adapter": _answer(pair.ours),
                "base": _answer(pair.theirs),
            }
            for pair in pairs
        ]


def as_json(value: Any) -> Markup:
    """JSON for an element of type application/json; reads back as it was."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c"))


def _answer(sample: Sample) -> dict[str, Any]:
    """One side; what is as usual is left out."""
    told: dict[str, Any] = {
        "output": clipped(sample.output),
        "score": round(sample.score, 4),
        "tokens": sample.tokens,
        "end": sample.finish_reason,
    }
    if sample.parsed != sample.output:
        told["parsed"] = None if sample.parsed is None else clipped(sample.parsed)
    if sample.failure is not None:
        told["failure"] = clipped(sample.failure)
    if sample.secondary:
        told["secondary"] = {name: round(value, 4) for name, value in sample.secondary.items()}
    return told
