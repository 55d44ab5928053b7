"""The figures of the LoRA Land report as columns beside ours. Knows no runs and no storage."""

from __future__ import annotations

from loraland.analysis.study import load_study
from loraland.evaluation.leaderboard import Overlay


def report_figures() -> list[Overlay]:
    """Its adapters, their bases and GPT-4, for all its cells; a board takes those it has."""
    study = load_study()
    places = {(cell.base, cell.task): cell for cell in study.cells}
    return [
        Overlay("report base", {place: cell.untuned for place, cell in places.items()}),
        Overlay("report tuned", {place: cell.tuned for place, cell in places.items()}),
        Overlay("report gpt-4", {place: study.gpt4[place[1]] for place in places}),
    ]
