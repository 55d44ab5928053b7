"""Measures how fast this machine trains a base, so that a forecast need not assume it."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from loraland.adapters.card import CurvePoint
from loraland.errors import LoraLandError, SourceUnavailable
from loraland.matrix.arithmetic import training_products
from loraland.matrix.cell import Cell
from loraland.matrix.hardware import Probe, device_names, write_probe
from loraland.matrix.work import Work
from loraland.storage import Storage
from loraland.training.loop import train

WARM_UP = 1  # updates before the clock counts


def measure(cell: Cell, storage: Storage, updates: int) -> Probe:
    """Train some updates of a cell with the plain loop, keep the speed in storage, publish nothing.

    Without the task's data made-up rows of its shape are used, and the note says so.
    """
    work = _prepare(cell, storage, updates)
    training, validation = work.examples()
    points: list[CurvePoint] = []
    with tempfile.TemporaryDirectory(prefix="loraland-") as place:
        base = work.load_base()
        with training_products(base):
            train(
                base,
                training,
                validation[:1],
                work.cell.recipe,
                Path(place) / "adapter",
                seed=cell.seed,
                on_update=lambda point, total: points.append(point),
            )
    counted = points[WARM_UP:-1] or points[-1:]  # the last one evaluates too
    before = points[WARM_UP - 1] if len(points) > WARM_UP + 1 else None
    tokens = counted[-1].tokens - (before.tokens if before else 0)
    seconds = counted[-1].seconds - (before.seconds if before else 0.0)
    if seconds <= 0:
        raise LoraLandError(
            "the updates were too short to be measured; ask for more with --updates"
        )
    rows = "made-up rows" if work.cell.data == "rehearsal" else "its own rows"
    probe = Probe(
        base=work.entry.name,
        device=_device(base.device),
        tokens_per_s=tokens / seconds,
        note=f"{cell.task} from {rows}, {cell.recipe.precision}, {datetime.now(UTC).date()}",
    )
    write_probe(storage, probe)
    return probe


def _prepare(cell: Cell, storage: Storage, updates: int) -> Work:
    wanted = (updates + WARM_UP + 1) * cell.recipe.examples_per_update
    changes: dict[str, Any] = {
        "examples_seen": wanted,
        "max_epochs": None,
        "evaluate_every": 10**6,
        "checkpoint_every": 10**6,
        "patience": 10**6,
    }
    short = replace(
        cell,
        recipe=cell.recipe.model_copy(update=changes),
        max_examples=min(cell.max_examples or 10**9, max(20, 2 * wanted)),
        max_items=1,
    )
    try:
        return Work.prepare(short, storage, lambda event: None, None)
    except SourceUnavailable:
        made_up = replace(short, data="rehearsal")
        return Work.prepare(made_up, storage, lambda event: None, None)


def _device(place: torch.device) -> str:
    """The name of this device in hardware.yaml."""
    if place.type == "cpu":
        return "cpu"
    full = torch.cuda.get_device_name(place)
    known = [name for name in device_names() if all(part in full for part in name.split("-"))]
    return max(known, key=len, default=full)
