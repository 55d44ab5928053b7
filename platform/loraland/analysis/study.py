"""The LoRA Land report (arXiv 2405.00732) as data: 310 scores, two endpoints, 31 tasks, ten bases.

Holds what was printed and nothing that was computed. Knows no runs of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from loraland.analysis import data

DECIMALS = 3  # of every score in the report's tables


class StudyCell(NamedTuple):
    """One adapter of the report. Scores lie in [0, 1], higher is better for every metric."""

    task: str
    base: str
    tuned: float  # score of the adapter
    lift: float  # tuned minus the score of its base

    @property
    def untuned(self) -> float:
        """Score of the base alone."""
        return round(self.tuned - self.lift, DECIMALS)


class StudyTask(NamedTuple):
    """A task as the report describes it; lengths are of prompt and answer together."""

    name: str
    category: str
    metric: str
    min_tokens: int  # tiktoken tokens, like the next two
    p95_tokens: int
    max_tokens: int
    train_rows: int
    evaluated_on: str  # the split that the scores are from


class StudyBase(NamedTuple):
    """A base of the report."""

    name: str
    creator: str
    billion_parameters: float
    instruction_tuned: bool


class Printed(NamedTuple):
    """A line of the report's Table 4; None where the table has no number."""

    untuned: float
    tuned: float | None
    lift: float | None
    over_gpt4: float | None  # mean of tuned minus GPT-4
    above_base: int | None
    above_gpt4: int | None
    best_on: int | None  # tasks on which it is the best model of all


@dataclass(frozen=True, slots=True)
class Study:
    """Everything that the report printed, by name."""

    cells: tuple[StudyCell, ...]
    gpt4: Mapping[str, float]  # score by task
    gpt35: Mapping[str, float]
    tasks: Mapping[str, StudyTask]
    bases: Mapping[str, StudyBase]
    table4: Mapping[str, Printed]  # by model, and "average"

    def of_task(self, name: str) -> list[StudyCell]:
        """The ten adapters of a task."""
        return [cell for cell in self.cells if cell.task == name]

    def of_base(self, name: str) -> list[StudyCell]:
        """The 31 adapters of a base."""
        return [cell for cell in self.cells if cell.base == name]

    def over_gpt4(self, cell: StudyCell) -> float:
        """The adapter's score minus GPT-4's, exact to the printed decimals."""
        return round(cell.tuned - self.gpt4[cell.task], DECIMALS)


@cache
def load_study() -> Study:
    """The report's figures, from the files in `analysis/data`."""
    endpoints = data.rows("endpoints")
    return Study(
        cells=tuple(
            StudyCell(row["task"], row["base"], float(row["tuned"]), float(row["lift"]))
            for row in data.rows("cells")
        ),
        gpt4={row["task"]: float(row["gpt-4"]) for row in endpoints},
        gpt35={row["task"]: float(row["gpt-3.5-turbo"]) for row in endpoints},
        tasks={row["task"]: _task(row) for row in data.rows("tasks")},
        bases={row["base"]: _base(row) for row in data.rows("bases")},
        table4={row["model"]: _printed(row) for row in data.rows("table4")},
    )


def _task(row: dict[str, str]) -> StudyTask:
    return StudyTask(
        name=row["task"],
        category=row["category"],
        metric=row["metric"],
        min_tokens=int(row["min_tokens"]),
        p95_tokens=int(row["p95_tokens"]),
        max_tokens=int(row["max_tokens"]),
        train_rows=int(row["train"]),
        evaluated_on=row["evaluated_on"],
    )


def _base(row: dict[str, str]) -> StudyBase:
    size, instructed = float(row["billion_parameters"]), row["instruction_tuned"] == "1"
    return StudyBase(row["base"], row["creator"], size, instructed)


def _printed(row: dict[str, str]) -> Printed:
    def number(column: str) -> float | None:
        return float(row[column]) if row[column] else None

    def count(column: str) -> int | None:
        return int(row[column]) if row[column] else None

    return Printed(
        float(row["base"]),
        number("tuned"),
        number("lift"),
        number("over_gpt4"),
        count("above_base"),
        count("above_gpt4"),
        count("best_on"),
    )
