"""Groups of cells as trials of Ray Tune, which places them and retries those whose machine fails.

What a cell has done lies in our storage, not in Tune's experiment: a retried trial, or a new
experiment tomorrow, goes on from there. An error that would only come again is reported, not
retried.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.logger import JsonLoggerCallback

from loraland import settings
from loraland.adapters.card import Score
from loraland.errors import LoraLandError, StorageUnavailable, error_of
from loraland.matrix.cell import FAILED, FINISHED, Cell, CellEvent, CellFailure, CellResult
from loraland.matrix.group import Group, Outcome, grouped, run_group
from loraland.matrix.hardware import GIB
from loraland.matrix.ledger import Ledger
from loraland.matrix.placement import Resources, default_resources
from loraland.storage import Storage

if TYPE_CHECKING:
    from loraland.training.parallel import Devices

__all__ = ["Resources", "default_resources", "run_cells", "run_groups"]

RETRIES = 2  # of a trial whose process or machine was lost
STORAGE_PAUSES_S = (5, 15, 40, 60, 120)  # before a trial asks again for storage that was lost
WAITING_BYTES = 500 << 20  # that a trial needs while its workers train
REPORT_EVERY_S = 0.5  # of one cell; the last event of a stage is always reported

OnEvent = Callable[[CellEvent], None]


def run_cells(
    cells: Sequence[Cell],
    storage_uri: str,
    resources: Resources,
    on_event: OnEvent = lambda event: None,
) -> list[CellResult | CellFailure]:
    """Run each cell by itself, as one experiment on the connected Ray cluster.

    Results in the order of the cells.
    """
    groups = grouped(cells, retry_collapsed=False)
    return run_groups(groups, storage_uri, [resources] * len(groups), on_event)


def run_groups(
    groups: Sequence[Group],
    storage_uri: str,
    resources: Sequence[Resources],
    on_event: OnEvent = lambda event: None,
    *,
    name: str = "cells",
    at_once: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[CellResult | CellFailure]:
    """Run groups as one experiment, a trial each, with the resources of the same place.

    `at_once` bounds the trials that run, for groups whose workers occupy more than their trial.

    Results of all cells, in their order. What a cell has done by then lies in storage with its
    record, so that a killed experiment is not restored: a new one runs what is missing.
    """
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # one log is enough
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints even when told not to
    # Ctrl-C is for the caller, who stops what it started; Tune would turn it into a quiet early
    # return.
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    # A state that nobody restores, written after each of hundreds of trials, costs minutes.
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    # What became of a trial is told by us; the traceback lies in its folder.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    places = places_of(storage_uri)
    space = [
        {"index": index, "group": group.to_json(), "places": places, "needs": needs._asdict()}
        for index, (group, needs) in enumerate(zip(groups, resources, strict=True))
    ]
    tuner = Tuner(
        tune.with_resources(train_group, request),
        param_space={"job": tune.grid_search(space)},
        tune_config=TuneConfig(
            reuse_actors=len(set(resources)) == 1,  # the next finds torch and all else imported
            max_concurrent_trials=at_once,
            trial_name_creator=lambda trial: _label(trial).replace("/", "-"),
            trial_dirname_creator=lambda trial: (
                f"{_label(trial).replace('/', '-')}-{trial.trial_id}"
            ),
        ),
        run_config=RunConfig(
            name=f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=tune_storage(places[settings.STORAGE]),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[_Listener(on_event), JsonLoggerCallback(), *callbacks],
            verbose=0,
        ),
    )
    results = tuner.fit()
    by_index = {result.config["job"]["index"]: result for result in results}
    storage = Storage.open(storage_uri)
    return [
        outcome
        for index, group in enumerate(groups)
        for outcome in _outcomes(group, by_index[index], storage)
    ]


def request(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    """What the trial of a configuration occupies; one with workers only waits for them."""
    job = config["job"]
    if job.get("group", {}).get("devices", 1) > 1:
        return tune.PlacementGroupFactory([{"memory": WAITING_BYTES}])
    return tune.PlacementGroupFactory([Resources(**job["needs"]).bundle()])


def train_group(config: dict[str, Any]) -> None:
    """The function trainable: the cells of one group, end to end, in a process of its own."""
    job = config["job"]
    group, device = Group.from_json(job["group"]), settle(job)
    reporter = _Reporter()
    outcomes: dict[str, dict[str, Any]] = {}

    def work() -> None:
        storage = Storage.open(settings.storage_uri())
        ended: Iterable[Outcome]
        if group.devices > 1:
            ended = _with_workers(job, group, storage, reporter)
        else:
            ended = run_group(group, storage, reporter.report, device=device)
        for cell, found, marks in ended:
            outcomes[cell.id] = _to_json(found)
            reporter.finish(cell, found, marks)

    try:
        _outlast_lost_storage(work)
    except LoraLandError as error:  # of all that are left
        for cell in group.cells:
            outcomes.setdefault(cell.id, _to_json(CellFailure(cell.label, error)))
    tune.report({"outcomes": json.dumps(outcomes)})


def _with_workers(
    job: dict[str, Any], group: Group, storage: Storage, reporter: _Reporter
) -> list[Outcome]:
    """Train on several devices; then one of them checks, publishes and judges, as a task."""
    import ray

    from loraland.matrix.run import train_on_workers

    for cell in group.cells:
        train_on_workers(cell, storage, reporter.report, _workers(job, group))
        reporter.report(CellEvent(cell.label, "judge", 0, 0))
    needs = Resources(**job["needs"])
    task = ray.remote(_finish).options(
        num_cpus=needs.cpus,
        num_gpus=needs.gpus,
        memory=needs.memory_gib * GIB or None,
        accelerator_type=needs.accelerator,
        scheduling_strategy="DEFAULT",  # not our place
    )
    ended: list[Outcome] = ray.get(task.remote(job))
    return ended


def _finish(job: dict[str, Any]) -> list[Outcome]:
    """What is left of a group whose training is done."""
    group, device = Group.from_json(job["group"]), settle(job)
    storage, workers = Storage.open(settings.storage_uri()), _workers(job, group)
    return list(run_group(group, storage, _ignore, device=device, workers=workers))


def _workers(job: dict[str, Any], group: Group) -> tuple[Devices, Any]:
    from loraland.training.parallel import Devices

    needs = Resources(**job["needs"])
    devices = Devices(group.devices, needs.cpus, needs.gpus, needs.accelerator)
    return devices, group.strategy


def _outlast_lost_storage(work: Callable[[], None]) -> None:
    """Begin again what begins where it was, some times, while storage cannot be reached.

    Raises StorageUnavailable when it does not come back, and at once when its disk is full.
    """
    for pause_s in (*STORAGE_PAUSES_S, None):
        try:
            return work()
        except OSError as error:
            if isinstance(error, LoraLandError):
                raise
            if pause_s is None or error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageUnavailable(
                    f"storage {settings.storage_uri()} cannot be used: {error}; mend that and run "
                    "the space again, it goes on where it was"
                ) from error
            time.sleep(pause_s)
    raise AssertionError("the last round ends above")


def places_of(storage_uri: str) -> dict[str, str]:
    """The caller's settings for processes with another environment and working directory."""
    named = {settings.STORAGE: storage_uri}
    for name in (settings.DATA, settings.CACHE):
        if value := os.environ.get(name):
            named[name] = value
    found = {
        name: value if "://" in value else str(Path(value).expanduser().resolve())
        for name, value in named.items()
    }
    allowed = os.environ.get(settings.RUN_CODE)  # programs may there what they may here
    return found if allowed is None else found | {settings.RUN_CODE: allowed}


def settle(job: dict[str, Any]) -> str | None:
    """Make this process ready for a job; returns the device that its base goes to.

    It may have run another job before, whose memory is let go of.
    """
    import torch

    from loraland.matrix.run import free_memory

    os.environ.update(job["places"])
    needs = Resources(**job["needs"])
    torch.set_num_threads(max(1, int(needs.cpus)))
    free_memory()
    return None if needs.gpus else "cpu"


class _Reporter:
    """Reports to Tune often enough to watch, seldom enough to cost nothing."""

    def __init__(self) -> None:
        self._last, self._stage = 0.0, ""

    def report(self, event: CellEvent) -> None:
        """Tell where a cell stands; numbers stand apart, for loggers such as MLflow."""
        now = time.monotonic()
        is_edge = event.stage != self._stage or event.done == event.total
        if is_edge or event.validation_loss is not None or now - self._last >= REPORT_EVERY_S:
            self._last, self._stage = now, event.stage
            numbers: dict[str, float] = {"step": event.done} if event.stage == "train" else {}
            losses = {"train_loss": event.loss, "validation_loss": event.validation_loss}
            numbers |= {name: loss for name, loss in losses.items() if loss is not None}
            tune.report({"event": json.dumps(event), **numbers})

    def finish(self, cell: Cell, found: CellResult | CellFailure, marks: Sequence[str]) -> None:
        """Tell what became of a cell."""
        if isinstance(found, CellFailure):
            event = CellEvent(cell.label, FAILED, 1, 1, note=found.error.message)
            numbers = {}
        else:
            event = CellEvent(cell.label, FINISHED, 1, 1, note=", ".join(marks))
            numbers = {"score": found.score.mean, "lift": found.score.lift}
        tune.report({"event": json.dumps(event), **numbers})


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


def _outcomes(group: Group, result: Any, storage: Storage) -> list[CellResult | CellFailure]:
    """What a trial told, and for cells that it took down with it a failure, with its record."""
    told = json.loads((result.metrics or {}).get("outcomes", "{}"))
    found = {cell_id: _from_json(values) for cell_id, values in told.items()}
    lost = [cell for cell in group.cells if cell.id not in found]
    if not lost:
        return [found[cell.id] for cell in group.cells]
    ledger = Ledger(storage)
    kept = ledger.results(lost)  # of those that ended before the trial was lost
    reason = str(result.error).strip().splitlines()[-1] if result.error else "it was interrupted"
    for cell in lost:
        if (record := kept.get(cell.id)) is not None:
            found[cell.id] = record.result()
            continue
        error = LoraLandError(
            f"the trial of {group.label} ended without a result after {RETRIES} retries: {reason}"
        )
        ledger.record_failure(cell, error, attempts=RETRIES + 1)
        found[cell.id] = CellFailure(cell.label, error)
    return [found[cell.id] for cell in group.cells]


def _to_json(found: CellResult | CellFailure) -> dict[str, Any]:
    if isinstance(found, CellFailure):
        return {"cell": found.cell, "code": found.error.code, "message": found.error.message}
    return found._asdict() | {"score": found.score.model_dump(mode="json")}


def _from_json(values: dict[str, Any]) -> CellResult | CellFailure:
    if "code" in values:
        return CellFailure(values["cell"], error_of(values["code"], values["message"]))
    score, warnings = Score(**values["score"]), tuple(values["warnings"])
    return CellResult(**(values | {"score": score, "warnings": warnings}))


def _label(trial: Any) -> str:
    return Group.from_json(trial.config["job"]["group"]).label


def tune_storage(storage_uri: str) -> str:
    """Tune keeps its own tables beside ours.

    Behind a custom endpoint, which it cannot reach, on this machine.
    """
    if "://" not in storage_uri:
        return f"{Storage.open(storage_uri).root}/tune"
    if "?" in storage_uri:
        return str(settings.cache_folder() / "tune")
    return f"{storage_uri.rstrip('/')}/tune"
