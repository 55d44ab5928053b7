"""What a study leaves in storage, without a model: records, cards, samples of made-up answers."""

from __future__ import annotations

import hashlib
import random
from typing import Any

import yaml

from loraland.adapters.card import Canary, Card, CurvePoint, DataStamp
from loraland.errors import TrainingDiverged
from loraland.evaluation.samples import Sample, write_samples
from loraland.evaluation.scoring import score as score_of
from loraland.matrix.cell import Cell, CellResult
from loraland.matrix.ledger import COLLAPSED, Ledger
from loraland.matrix.space import Space, parse_space
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

HOSTILE = (
    '</script><script>document.title = "taken"</script><img src=x onerror="document.title=1">'
    "<!-- <script> \" ' & \u2028 \u202e ``` | {{ 7 * 7 }} </textarea></pre>"
)
MOMENT = "2026-11-01T12:00:00+00:00"


def space_of(bases: list[str], tasks: list[str] | str, **more: Any) -> Space:
    values = {"name": "made-up", "description": "Answers that no model gave", "recipe": "quick"}
    return parse_space(yaml.safe_dump(values | {"bases": bases, "tasks": tasks} | more), "here")


def version_of(cell: Cell) -> str:
    return hashlib.sha256(cell.label.encode()).hexdigest()[:12]


def finish(
    storage: Storage,
    cell: Cell,
    outcomes: str,
    *,
    marks: tuple[str, ...] = (),
    text: str = "",
    updates: int = 30,
) -> None:
    """What a judged cell leaves. `outcomes` has two letters per item, base then adapter: R, W or U
    for an answer that is right, wrong or unparsable, such as `RW` for a broken one.
    """
    asked = [outcomes[n : n + 2] for n in range(0, len(outcomes), 2)]
    theirs = [_sample(cell.task, n, one[0], text) for n, one in enumerate(asked)]
    ours = [_sample(cell.task, n, one[1], text) for n, one in enumerate(asked)]
    folder, version = f"samples/{cell.base_name}/{cell.task}", version_of(cell)
    places = (f"{folder}/{version}-x.parquet", f"{folder}/base-x.parquet")
    stamp = {"data_fingerprint": f"items of {cell.task}"}
    for place, samples in zip(places, (ours, theirs), strict=True):
        write_samples(storage, place, samples, stamp)
    score = score_of(get_task(cell.task), ours, theirs, *places, "folder:/data")
    card = _card(cell, version, updates)
    place = f"adapters/{cell.base_name}/{cell.task}/versions/{version}/card.json"
    storage.write(place, card.with_score(score).to_json())
    result = CellResult(cell.label, f"{cell.label}@{version}", score, "runs/1", True, ())
    Ledger(storage).record_result(cell, result, seconds=90.5, marks=marks)


def fabricate(storage: Storage, space: Space, items: int = 40, text: str = "") -> None:
    """All cells of a space but the last two: one failed, one was never run."""
    draw = random.Random(0)
    *finished, failed, _ = space.cells
    for number, cell in enumerate(finished):
        base, tuned = draw.uniform(0.1, 0.6), draw.uniform(0.3, 0.95)
        outcomes = "".join(
            ("R" if draw.random() < base else draw.choice("WU"))
            + ("R" if draw.random() < tuned else "W")
            for _ in range(items)
        )
        marks = (COLLAPSED,) if number == 1 else ()
        finish(storage, cell, outcomes, marks=marks, text=text)
    error = TrainingDiverged(f"the loss became NaN at update 7 {text}".strip())
    Ledger(storage).record_failure(failed, error, attempts=3)


def _sample(task: str, number: int, letter: str, text: str) -> Sample:
    target = f"answer {number}"
    output = {"R": target, "W": f"not {target}", "U": "???"}[letter] + text
    prompt = f"Question {number} of {task}: what follows from the passage?{text}\nAnswer:"
    return Sample(
        item=number,
        prompt=prompt,
        target=target,
        row="{}",
        output=output,
        parsed=None if letter == "U" else output,
        score=float(letter == "R"),
        failure=None,
        finish_reason="stop",
        prompt_tokens=20,
        tokens=4 if letter == "R" else 9,
        ms=12.0,
        secondary={"rouge": 1.0 if letter == "R" else 0.25},
    )


def _card(cell: Cell, version: str, updates: int) -> Card:
    curve = [
        CurvePoint(
            step=step,
            tokens=100 * step,
            train_loss=0.2 + 3.0 / step,
            validation_loss=0.3 + 2.0 / step if step % 10 == 0 else None,
            learning_rate=1e-4,
            seconds=3.0 * step,
        )
        for step in range(1, updates + 1)
    ]
    return Card(
        base=cell.base_name,
        base_fingerprint="f" * 64,
        hub_id="",
        precision="nf4",
        task=cell.task,
        version=version,
        recipe=cell.recipe.model_dump(mode="json"),
        seed=0,
        data=DataStamp(
            fingerprint=hashlib.sha256(cell.task.encode()).hexdigest(),
            source="folder:/data",
            train_rows=192,
            validation_rows=16,
            dropped_long=2,
        ),
        curve=curve,
        best_step=min(20, updates),
        canary=Canary(
            prompt_ids=[1], top_ids=[2], logits=[1.0], base_logits=[0.0], max_difference=1.0
        ),
        packages={"python": "3.11.9", "torch": "2.13.0"},
        git_commit="0123456789abcdef",
        git_dirty=False,
        hardware="2 cores",
        created=MOMENT,
    )
