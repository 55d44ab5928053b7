"""Runs a trial and keeps what came out, with what made it. Knows no Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from loraland.matrix.provenance import git_state, hardware, package_versions
from loraland.recurrent.recipe import Trial
from loraland.recurrent.training import Result, run_trial
from loraland.storage import Storage


def run_and_keep(
    trial: Trial, storage: Storage, on_evaluation: Callable[[int, float], None] | None = None
) -> Result:
    """The result, which lies in storage when this returns. Raises TrainingDiverged."""
    result = run_trial(trial, on_evaluation)
    record: dict[str, Any] = {
        **result._asdict(),
        "study": trial.study.name,
        "cell": trial.cell,
        "seed": trial.seed,
        "problem": trial.study.problem.model_dump(),
        "net": trial.study.cells[trial.cell].model_dump(),
        "training": trial.study.training.model_dump(),
        "threads": torch.get_num_threads(),
        "commit": git_state(),
        "hardware": hardware(),
        "versions": package_versions(),
    }
    storage.write_json(trial.place, record)
    return result
