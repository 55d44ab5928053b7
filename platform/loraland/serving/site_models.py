"""What the web pages read, as JSON: tasks, cards, spaces, leaderboards and samples.

Shapes only. Scores lie in [0, 1] and lifts in [-1, 1]; null means unknown or not measured.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from loraland.adapters.card import DataStamp, Score
from loraland.evaluation.leaderboard import Verdict
from loraland.matrix.ledger import State
from loraland.report.excerpt import Outcome


class TaskLine(BaseModel):
    """A task of the catalogue."""

    name: str
    category: str
    description: str
    metric: str


class TaskList(BaseModel):
    """The catalogue."""

    object: Literal["list"] = "list"
    data: list[TaskLine]


class Example(BaseModel):
    """A held-out item."""

    values: dict[str, str]  # of the prompt's columns
    prompt: str
    target: str  # the expected answer


class TaskDetail(TaskLine):
    """A task as its held-out items are asked."""

    prompt: str  # template; {column} marks an input
    inputs: list[str]
    labels: list[str]  # the closed set of answers; empty when the answer is open
    stop: list[str]  # where an answer ends when it is judged
    max_new_tokens: int
    examples: list[Example]
    examples_from: Literal["judged", "folder", "generator"] | None  # None: there are none here


class CardView(BaseModel):
    """What is known of one version of an adapter, without its curve and canary."""

    model: str  # base/task@version
    base: str
    task: str
    version: str
    aliases: list[str]
    precision: str
    recipe: dict[str, Any]
    seed: int
    data: DataStamp
    scores: list[Score]  # the newest first
    updates: int | None  # optimiser steps of the run; None when the card has no curve
    best_step: int
    train_seconds: float | None
    hardware: str
    packages: dict[str, str]
    git_commit: str | None
    created: str  # ISO 8601, UTC


class SpaceLine(BaseModel):
    """A study."""

    name: str
    title: str
    description: str
    cells: int
    results: int  # cells that have one
    problem: str | None  # why it cannot be read


class SpaceList(BaseModel):
    """All studies."""

    object: Literal["list"] = "list"
    data: list[SpaceLine]


class Bounds(BaseModel):
    """A mean with its 95 % interval; bounds are null where there is none."""

    mean: float
    low: float | None
    high: float | None


class BoardCell(BaseModel):
    """One base on one task: what came out, or why nothing did."""

    id: str
    base: str
    task: str
    state: State
    reason: str | None  # of a cell that is not done
    attempts: int | None
    failed: str | None  # when, ISO 8601, UTC
    result: BoardResult | None  # a lost cell has one, too


class BoardResult(BaseModel):
    """The adapter of a cell against its base, on the same items."""

    model: str
    metric: str
    items: int
    score: Bounds
    base_score: Bounds
    lift: Bounds
    step: str  # of the colour scale, d-4 to d4
    p_value: float | None  # after correction; None without samples
    verdict: Verdict | None
    detectable: float | None  # least lift that this comparison finds, at 80 % power
    unparsable: int
    base_unparsable: int
    failures: int
    marks: list[str]
    published: Published | None  # what the LoRA Land report printed for this cell


class Published(BaseModel):
    """Figures of the LoRA Land report: other items, other parsers, tested against nothing."""

    tuned: float
    base: float
    lift: float
    step: str
    gpt4: float


class BoardMean(BaseModel):
    """Some cells together, each with the same weight."""

    kind: Literal["all", "base", "task", "category"]
    name: str
    cells: int
    score: float
    base_score: float
    lift: Bounds
    step: str
    better: int
    worse: int


class BoardTask(BaseModel):
    """A line of the heat map."""

    name: str
    category: str
    metric: str


class Board(BaseModel):
    """The leaderboard of a study."""

    space: str
    title: str
    description: str
    bases: list[str]
    tasks: list[BoardTask]
    finished: int  # cells with a result
    claims: list[str]
    cells: list[BoardCell]
    means: list[BoardMean]
    left_out: int  # older results of a base and task that a newer one stands for


class Answer(BaseModel):
    """What one model said to an item."""

    output: str  # cut in the middle when it is very long
    parsed: str | None  # how the grader read it; None when it could not
    score: float
    right: bool
    tokens: int
    finish_reason: str
    failure: str | None
    secondary: dict[str, float]


class SamplePair(BaseModel):
    """What adapter and base said to the same item."""

    item: int
    outcome: Outcome
    prompt: str  # cut in the middle when it is very long
    target: str
    values: dict[str, str] | None  # of the prompt's columns; None when they are very long
    adapter: Answer
    base: Answer


class SamplePage(BaseModel):
    """Some answers of a cell: those that the adapter broke come first."""

    object: Literal["list"] = "list"
    cell: str
    model: str
    total: int
    matching: int  # of the outcome and with the text asked for
    offset: int
    counts: dict[Outcome, int]  # of all
    data: list[SamplePair]


BoardCell.model_rebuild()
BoardResult.model_rebuild()
