"""The trials of a study as one experiment of Ray Tune: a trial per cell and seed.

What is done lies in storage, so that nothing is restored from Tune: a new experiment runs what is
missing, and a trial that is lost is begun anew.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from typing import Any

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner

from loraland import settings
from loraland.errors import LoraLandError
from loraland.matrix.trial import places_of, tune_storage
from loraland.recurrent.recipe import Study, Trial, left
from loraland.storage import Storage

RETRIES = 2  # of a trial whose process or machine was lost
ERROR = "error"

OnEvaluation = Callable[[str, int, float], None]  # cell and seed, updates, error


def run_trials(
    study: Study,
    storage_uri: str,
    on_evaluation: OnEvaluation = lambda *_: None,
    cpus: float = 1,
) -> list[str]:
    """Run what has no result on the connected cluster; what went wrong, a line each."""
    missing = left(study, Storage.open(storage_uri))
    if not missing:
        return []
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C is for the caller
    places = places_of(storage_uri)
    space = [
        {"study": study.model_dump(mode="json"), "cell": one.cell, "seed": one.seed}
        for one in missing
    ]
    tuner = Tuner(
        tune.with_resources(train_cell, {"cpu": cpus}),
        param_space={
            "job": tune.grid_search(space),
            "places": places,
            "threads": max(1, int(cpus)),
        },
        tune_config=TuneConfig(metric=ERROR, mode="min", reuse_actors=True),
        run_config=RunConfig(
            name=f"recurrent-{study.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=tune_storage(places[settings.STORAGE]),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[_Listener(on_evaluation)],
            verbose=0,
        ),
    )
    faults = []
    for result in tuner.fit():
        told = (result.metrics or {}).get("fault") or (
            str(result.error)[-300:] if result.error else ""
        )
        if told:
            job = result.config["job"]
            faults.append(f"{job['cell']} with seed {job['seed']}: {told}")
    return faults


def train_cell(config: dict[str, Any]) -> None:
    """The function trainable: one cell with one seed, its result put into storage."""
    import torch

    from loraland.recurrent.keeping import run_and_keep

    job = config["job"]
    os.environ.update(config["places"])
    torch.set_num_threads(config["threads"])
    trial = Trial(Study.model_validate(job["study"]), job["cell"], job["seed"])
    try:
        result = run_and_keep(
            trial,
            Storage.open(settings.storage_uri()),
            lambda updates, error: tune.report({ERROR: error, "updates": updates}),
        )
    except LoraLandError as error:  # it would only come again
        tune.report({ERROR: float("inf"), "updates": 0, "fault": error.message})
        return
    tune.report({ERROR: result.error, "updates": result.updates})


class _Listener(Callback):  # type: ignore[misc]  # Ray publishes no types
    """Passes evaluations on to the caller."""

    def __init__(self, on_evaluation: OnEvaluation) -> None:
        self._on_evaluation = on_evaluation

    def __reduce__(self) -> tuple[Any, ...]:
        """One that tells nobody: Tune pickles the experiment for a restore that nobody needs."""
        return _Listener, (_ignore,)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        job = trial.config["job"]
        self._on_evaluation(f"{job['cell']}-{job['seed']}", result["updates"], result[ERROR])


def _ignore(*_: Any) -> None:
    """Tell nobody."""
