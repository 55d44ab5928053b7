"""Cells as trials of Ray Tune, which places them and retries those whose machine fails.

What a cell has done lies in our storage, not in Tune's experiment: a retried trial, or a new
experiment tomorrow, goes on from there. An error that would only come again is reported, not
retried.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback

from loraland import settings
from loraland.adapters.card import Score
from loraland.errors import InvalidConfiguration, LoraLandError, error_of
from loraland.matrix.cell import Cell, CellEvent, CellFailure, CellResult
from loraland.storage import Storage

RETRIES = 2  # of a trial whose process or machine was lost
REPORT_EVERY_S = 0.5  # of one cell; the last event of a stage is always reported

OnEvent = Callable[[CellEvent], None]


class Resources(NamedTuple):
    """What one trial occupies."""

    cpus: float
    gpus: float = 0


def default_resources(ray: Any, cpus: float | None = None, gpus: float | None = None) -> Resources:
    """A trial gets one GPU where there is one, and the free cores of the node that go with it.

    Raises InvalidConfiguration when no node could ever give what is asked.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    most_gpus = max(node.get("GPU", 0) for node in nodes)
    gpus = min(1, most_gpus) if gpus is None else gpus
    fitting = [node for node in nodes if node.get("GPU", 0) >= gpus]
    most_cpus = max((node.get("CPU", 0) for node in fitting), default=0)
    if not fitting or (cpus or 0) > most_cpus:
        raise InvalidConfiguration(
            f"{cpus or 1:g} CPUs and {gpus:g} GPUs are asked for one process; the largest node "
            f"here has {max(node.get('CPU', 0) for node in nodes):g} CPUs and {most_gpus:g} GPUs. "
            "Ask for less with --cpus and --gpus, or join a larger cluster (RAY_ADDRESS)"
        )
    if cpus is None:
        free = min(most_cpus, ray.available_resources().get("CPU", 0))
        shares = max(1, most_gpus // gpus) if gpus else 1
        cpus = max(1, int(free // shares))
    return Resources(cpus, gpus)


def run_cells(
    cells: Sequence[Cell],
    storage_uri: str,
    resources: Resources,
    on_event: OnEvent = lambda event: None,
) -> list[CellResult | CellFailure]:
    """Run cells as one experiment on the connected Ray cluster.

    Results in the order of the cells.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # one log is enough
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints even when told not to
    # Ctrl-C is for the caller, who stops what it started; Tune would turn it into a quiet early
    # return.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    where = tune.with_resources(train_cell, {"cpu": resources.cpus, "gpu": resources.gpus})
    places = _places(storage_uri)
    space = [
        {"index": index, "cell": cell.located().to_json(), "places": places, **resources._asdict()}
        for index, cell in enumerate(cells)
    ]
    tuner = Tuner(
        where,
        param_space={"job": tune.grid_search(space)},
        tune_config=TuneConfig(
            reuse_actors=True,  # the next cell finds torch and transformers imported
            trial_name_creator=lambda trial: _label(trial).replace("/", "-"),
            trial_dirname_creator=lambda trial: (
                f"{_label(trial).replace('/', '-')}-{trial.trial_id}"
            ),
        ),
        run_config=RunConfig(
            name=f"cells-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=_tune_storage(places[settings.STORAGE]),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[_Listener(on_event), JsonLoggerCallback()],
            verbose=0,
        ),
    )
    results = tuner.fit()
    by_index = {result.config["job"]["index"]: result for result in results}
    return [_outcome(cell.label, by_index[index]) for index, cell in enumerate(cells)]


def train_cell(config: dict[str, Any]) -> None:
    """The function trainable: one cell, end to end, in a process of its own."""
    job = config["job"]
    import torch

    from loraland.matrix.run import run_cell

    os.environ.update(job["places"])
    torch.set_num_threads(max(1, int(job["cpus"])))
    _free_memory()  # the process may have run another cell before
    cell, device = Cell.from_json(job["cell"]), None if job["gpus"] else "cpu"
    reporter = _Reporter()
    try:
        storage = Storage.open(settings.storage_uri())
        result = run_cell(cell, storage, reporter.report, device=device)
    except LoraLandError as error:
        tune.report({"error_code": error.code, "error": error.message})
    else:
        tune.report({"result": _result_to_json(result), "lift": result.score.lift})


def _places(storage_uri: str) -> dict[str, str]:
    """The caller's places for processes with another environment and another working directory."""
    named = {settings.STORAGE: storage_uri}
    for name in (settings.DATA, settings.CACHE):
        if value := os.environ.get(name):
            named[name] = value
    return {
        name: value if "://" in value else str(Path(value).expanduser().resolve())
        for name, value in named.items()
    }


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


class _Reporter:
    """Reports to Tune often enough to watch, seldom enough to cost nothing."""

    def __init__(self) -> None:
        self._last, self._stage = 0.0, ""

    def report(self, event: CellEvent) -> None:
        now = time.monotonic()
        is_edge = event.stage != self._stage or event.done == event.total
        if is_edge or event.validation_loss is not None or now - self._last >= REPORT_EVERY_S:
            self._last, self._stage = now, event.stage
            tune.report({"event": json.dumps(event)})


class _Listener(Callback):  # type: ignore[misc]  # Ray publishes no types
    """Passes the events of all trials on to the caller."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event

    def __reduce__(self) -> tuple[Any, ...]:
        """A silent listener.

        Tune pickles the experiment for a restore, which our storage makes needless.
        """
        return _Listener, (_ignore,)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "event" in result:
            self._on_event(CellEvent(*json.loads(result["event"])))


def _ignore(event: CellEvent) -> None:
    """Listen to nothing."""


def _outcome(label: str, result: Any) -> CellResult | CellFailure:
    metrics = result.metrics or {}
    if "result" in metrics:
        return _result_from_json(metrics["result"])
    if "error" in metrics:
        return CellFailure(label, error_of(metrics["error_code"], metrics["error"]))
    reason = str(result.error).strip().splitlines()[-1] if result.error else "it was interrupted"
    return CellFailure(
        label,
        LoraLandError(
            f"the trial of {label} ended without a result after {RETRIES} retries: {reason}"
        ),
    )


def _result_to_json(result: CellResult) -> str:
    return json.dumps(result._asdict() | {"score": result.score.model_dump(mode="json")})


def _result_from_json(text: str) -> CellResult:
    values = json.loads(text)
    score, warnings = Score(**values.pop("score")), tuple(values.pop("warnings"))
    return CellResult(**values, score=score, warnings=warnings)


def _label(trial: Any) -> str:
    return Cell.from_json(trial.config["job"]["cell"]).label


def _tune_storage(storage_uri: str) -> str:
    """Tune keeps its own tables beside ours.

    Behind a custom endpoint, which it cannot reach, on this machine.
    """
    if "://" not in storage_uri:
        return f"{Storage.open(storage_uri).root}/tune"
    if "?" in storage_uri:
        return str(settings.cache_folder() / "tune")
    return f"{storage_uri.rstrip('/')}/tune"
