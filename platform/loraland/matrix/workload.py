"""How much a cell computes: examples, tokens, passes and floating-point operations.

From the recipe and from what is known of the data without reading it. Pure numbers; knows no
devices.
"""

from __future__ import annotations

import math
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, NamedTuple

import yaml

from loraland.bases.catalogue import Base
from loraland.matrix.cell import Cell
from loraland.tasks.catalogue import get_task
from loraland.tasks.rehearsal import rehearsal_rows, rehearsed
from loraland.tasks.sources import GENERATED_ROWS
from loraland.tasks.task import Task
from loraland.training.recipe import Recipe

JUDGED_TOGETHER = 32  # rows of one forward pass while judging (evaluation/generation.py)
SAMPLED_ROWS = 40  # of rehearsal rows, which are drawn to know their lengths
BYTES_PER_TOKEN = 4.0  # of short English text, for tokenizers that do not speak bytes


class Lengths(NamedTuple):
    """Of a task's examples, prompt and answer together, in tokens."""

    mean: float
    most: int
    answer: float  # mean of the answer alone
    source: str  # where the mean is from


class Work(NamedTuple):
    """What one cell computes."""

    train_rows: int  # without the validation rows
    updates: int
    examples: int  # that gradients are computed on, repeated ones counted
    tokens: int  # of those examples, padding not counted
    passes: int  # forward and backward, one per micro-batch
    validation_tokens: int  # forward only, over all evaluations
    validation_passes: int
    judged_tokens: int  # prompts that the adapter reads
    judged_steps: int  # passes that generate, for the adapter
    base_steps: int  # the same for the base, which may ramble to the end
    train_flops: float
    flops: float  # of everything, the base's answers included


@cache
def _known() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("lengths.yaml").read_text(encoding="utf-8")
    known: dict[str, dict[str, Any]] = yaml.safe_load(text)
    return known


def lengths_of(cell: Cell, base: Base) -> Lengths:
    """What is known of the lengths of a cell's examples, cut at what the recipe lets through.

    Without counted rows the mean is taken half way between the report's least length and its 95th
    percentile: where rows could be counted it lies at 0.26 to 0.75 of that way, the median of 13
    tasks at 0.50.
    """
    task = get_task(cell.task)
    limit = min(cell.recipe.max_length, base.context_tokens)
    if cell.data == "rehearsal":
        found = _drawn(task.name, base.tiny)
    else:
        facts = _known()[cell.task]
        mean, source = facts.get("mean"), "rows counted with the tokenizer of smollm2-135m"
        if mean is None:
            mean = (facts["least"] + facts["p95"]) / 2
            source = "estimated from the report's least and p95"
        found = Lengths(
            mean, facts["most"], facts.get("answer", min(task.max_new_tokens, mean) / 2), source
        )
    return found._replace(mean=min(found.mean, limit), most=min(found.most, limit))


@cache
def _drawn(name: str, in_bytes: bool) -> Lengths:
    """The tiny bases speak bytes: their lengths are known exactly."""
    task = rehearsed(get_task(name))
    items = [task.item(row) for row in islice(rehearsal_rows(task, "train"), SAMPLED_ROWS)]
    per_token = 1.0 if in_bytes else BYTES_PER_TOKEN
    answers = [len(item.target.encode()) / per_token + 1 for item in items]
    whole = [
        len(item.prompt.encode()) / per_token + a for item, a in zip(items, answers, strict=True)
    ]
    mean, answer = (sum(lengths) / len(items) for lengths in (whole, answers))
    return Lengths(mean, math.ceil(max(whole)), answer, f"{SAMPLED_ROWS} rehearsal rows")


def train_rows(cell: Cell) -> int:
    """Rows of the train split that the cell takes, validation included; as published."""
    task = get_task(cell.task)
    published = None if cell.data == "rehearsal" or task.splits is None else task.splits["train"]
    there = GENERATED_ROWS if published is None else published
    if published is None:  # generators have no end
        return cell.max_examples or there
    return min(cell.max_examples or there, there)


def work_of(cell: Cell, base: Base) -> Work:
    """What a cell computes when it neither stops early nor drops rows.

    Operations: 2 x parameters per token and forward pass; the backward pass of LoRA needs the
    gradient of the activations only, since the weights are frozen: as much again; recomputing
    activations (gradient checkpointing) costs a third forward pass. Attention over positions is
    left out (under a tenth below 2,000 tokens of a 7B), and so is that the output head is
    computed at supervised positions only.
    """
    recipe, lengths, task = cell.recipe, lengths_of(cell, base), get_task(cell.task)
    rows = train_rows(cell)
    held = max(1, min(recipe.validation_examples, rows // 5))
    training = max(1, rows - held)
    updates = recipe.updates(training)
    examples = examples_of(recipe, training)
    together = examples_per_pass(recipe, lengths.mean)
    evaluations = math.ceil(updates / recipe.evaluate_every)
    items = cell.max_items or _test_rows(task)
    batches = math.ceil(items / JUDGED_TOGETHER)
    steps = min(task.max_new_tokens, math.ceil(2 * lengths.answer))
    tokens = round(examples * lengths.mean)
    validation_tokens = round(evaluations * held * lengths.mean)
    judged = round(items * lengths.mean)
    answered = items * (steps + task.max_new_tokens)
    train_flops = sweeps(recipe) * 2.0 * base.parameters * tokens
    rest = 2.0 * base.parameters * (validation_tokens + 2 * judged + answered)
    return Work(
        train_rows=training,
        updates=updates,
        examples=examples,
        tokens=tokens,
        passes=math.ceil(examples / together),
        validation_tokens=validation_tokens,
        validation_passes=evaluations * math.ceil(held / together),
        judged_tokens=judged,
        judged_steps=batches * steps,
        base_steps=batches * task.max_new_tokens,
        train_flops=train_flops,
        flops=train_flops + rest,
    )


def sweeps(recipe: Recipe) -> int:
    """How often a training step goes through all weights: forward, backward, and recomputation."""
    return 3 if recipe.gradient_checkpointing else 2


def examples_of(recipe: Recipe, training: int) -> int:
    """Examples that a run of `training` rows sees, repeated ones counted."""
    epochs = None if recipe.max_epochs is None else round(recipe.max_epochs * training)
    return max(1, min(limit for limit in (recipe.examples_seen, epochs) if limit is not None))


def examples_per_pass(recipe: Recipe, tokens: float) -> int:
    """Examples of that length in one micro-batch (training/batches.py, padding not counted)."""
    most = min(recipe.micro_batch_examples, recipe.examples_per_update)
    return max(1, min(most, int(recipe.micro_batch_tokens // max(1.0, tokens))))


def _test_rows(task: Task) -> int:
    published = (task.splits or {}).get(task.evaluation_split)
    return published or GENERATED_ROWS
