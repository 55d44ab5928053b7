"""A search over fields of one cell's recipe, with Ray Tune; the best recipe is then run as a cell.

Each configuration is trained with the plain loop and judged by its validation loss; at each rung of
ASHA only the best go on. Started again, a search tells what was tried before as if it were tried
now, and trains the rest. Nothing is published but the cell with the best recipe.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from loraland import settings
from loraland.errors import InvalidConfiguration, LoraLandError, TrainingDiverged
from loraland.matrix.cell import Cell
from loraland.matrix.placement import Machines, Resources, places
from loraland.matrix.searched import SearchRecords, Tried, ordered, with_parameters
from loraland.matrix.space import Choice, Range, Search, Space
from loraland.matrix.trial import RETRIES, places_of, request, settle, tune_storage
from loraland.storage import Storage
from loraland.training.recipe import Recipe

LOSS = "validation_loss"
EVALUATIONS = "evaluations"


class SearchReport(NamedTuple):
    """What a search found."""

    best: Cell  # the cell of the space with the best recipe
    tried: list[Tried]  # the best first


def run_search(
    space: Space,
    storage_uri: str,
    resources: Resources,
    machines: Machines,
    callbacks: Sequence[Callback] = (),
) -> SearchReport:
    """Try configurations of a space with a `search`, as trials on the connected Ray cluster.

    Those that came to their end before, in a search that was killed or asked for fewer, are not
    trained again. Raises InvalidConfiguration for a space without a search, LoraLandError when no
    configuration could be trained.
    """
    search = space.search
    if search is None:
        raise InvalidConfiguration(f"space '{space.name}' has no search: give it a `search:` part")
    [cell] = space.cells
    records = SearchRecords.of(space, Storage.open(storage_uri))
    tried = records.closed(search.samples)
    if tried is None:
        tried = _try(space, search, records, storage_uri, resources, machines, callbacks)
        if tried[0].losses:
            records.close(tried, search.samples)
    if not tried[0].losses:
        raise LoraLandError(
            f"none of {len(tried)} configurations of {cell.label} could be trained; "
            f"the first said: {tried[0].error}"
        )
    return SearchReport(with_parameters(cell, tried[0].parameters), tried)


def _try(
    space: Space,
    search: Search,
    records: SearchRecords,
    storage_uri: str,
    resources: Resources,
    machines: Machines,
    callbacks: Sequence[Callback],
) -> list[Tried]:
    [cell] = space.cells
    known, environment = records.all(), places_of(storage_uri)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # it would end trials as if whole
    job = {
        "cell": cell.located().to_json(),
        "search": [space.name, records.key],
        "places": environment,
        "needs": resources._asdict(),
    }
    # Tune lets one trial of an algorithm wait at a time, so that one machine after the other would
    # come, unless it is told how many may run.
    at_once = min(search.samples, places(resources, machines)) if machines.grows else None
    tuner = Tuner(
        tune.with_resources(try_recipe, request),
        param_space={"job": job}
        | {name: _domain(name, values) for name, values in search.parameters.items()},
        tune_config=TuneConfig(
            metric=LOSS,
            mode="min",
            num_samples=search.samples,
            search_alg=_algorithm(search, cell.seed, known),
            scheduler=_scheduler(search),
            max_concurrent_trials=at_once,
        ),
        run_config=RunConfig(
            name=f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=tune_storage(environment[settings.STORAGE]),
            failure_config=FailureConfig(max_failures=RETRIES),
            callbacks=[_Keeper(records), *callbacks],
            verbose=0,
        ),
    )
    ended = [_ended(result) for result in tuner.fit()]
    kept = records.all()
    return ordered([*kept, *(one for one in ended if records.find(one.parameters) is None)])


def try_recipe(config: dict[str, Any]) -> None:
    """The function trainable: one configuration, which reports every evaluation."""
    job, parameters = config["job"], _parameters(config)
    os.environ.update(job["places"])
    storage = Storage.open(settings.storage_uri())
    if (known := SearchRecords(storage, *job["search"]).find(parameters)) is not None:
        for number, loss in enumerate(known.losses, start=1):
            tune.report({LOSS: loss, EVALUATIONS: number})
        if not known.losses:
            _report_failure(TrainingDiverged(known.error))
        return
    _train(with_parameters(Cell.from_json(job["cell"]), parameters), storage, settle(job))


def _train(cell: Cell, storage: Storage, device: str | None) -> None:
    from loraland.adapters.card import CurvePoint
    from loraland.matrix.arithmetic import training_products
    from loraland.matrix.work import Work
    from loraland.training.loop import train

    best, evaluations = float("inf"), 0

    def tell(point: CurvePoint, total: int) -> None:
        nonlocal best, evaluations
        if point.validation_loss is not None:
            best, evaluations = min(best, point.validation_loss), evaluations + 1
            tune.report({LOSS: best, EVALUATIONS: evaluations, "step": point.step})

    try:
        work = Work.prepare(cell, storage, lambda event: None, device)
        training, validation = work.examples()
        base = work.load_base()
        with (
            training_products(base),
            tempfile.TemporaryDirectory(prefix="loraland-") as place,
        ):
            train(
                base,
                training,
                validation,
                cell.recipe,
                Path(place) / "adapter",
                seed=cell.seed,
                on_update=tell,
            )
    except LoraLandError as error:  # a rate at which training diverges is a finding too
        if evaluations == 0:
            _report_failure(error)


def _report_failure(error: LoraLandError) -> None:
    tune.report({LOSS: float("inf"), EVALUATIONS: 0, "error": error.message, "code": error.code})


class _Keeper(Callback):  # type: ignore[misc]  # Ray publishes no types
    """Puts down each configuration that comes to its end, whether by itself or at a rung.

    One that failed for another reason than its recipe is left to be tried again.
    """

    def __init__(self, records: SearchRecords | None) -> None:
        self._records = records
        self._losses: dict[str, list[float]] = {}  # by trial

    def __reduce__(self) -> tuple[Any, ...]:
        """One that keeps nothing: Tune pickles the experiment for a restore that nobody needs."""
        return _Keeper, (None,)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        losses, number = self._losses.setdefault(trial.trial_id, []), result[EVALUATIONS]
        if number > 0:
            losses[number - 1 :] = [result[LOSS]]  # one that began again tells again

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        losses, last = tuple(self._losses.get(trial.trial_id, ())), trial.last_result or {}
        if self._records is not None and (losses or last.get("code") == TrainingDiverged.code):
            self._records.keep(Tried(_parameters(trial.config), losses, last.get("error", "")))


def _domain(name: str, values: Choice | Range) -> Any:
    """Choices travel as JSON: Optuna takes no lists."""
    if isinstance(values, Choice):
        return tune.choice([json.dumps(value) for value in values.choice])
    if Recipe.model_fields[name].annotation is int:
        kind = tune.lograndint if values.log else tune.randint
        return kind(int(values.low), int(values.high) + 1)
    return (tune.loguniform if values.log else tune.uniform)(values.low, values.high)


def _parameters(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: json.loads(value) if isinstance(value, str) else value
        for name, value in config.items()
        if name != "job"
    }


def _point(search: Search, parameters: dict[str, Any]) -> dict[str, Any]:
    """A configuration as `_domain` gives it."""
    return {
        name: json.dumps(value) if isinstance(search.parameters[name], Choice) else value
        for name, value in parameters.items()
    }


def _algorithm(search: Search, seed: int, known: Sequence[Tried]) -> Any:
    """What proposes. Optuna begins with what is known; random draws it again from its seed."""
    if search.algorithm == "random":
        return BasicVariantGenerator(random_state=seed)
    try:
        import optuna  # noqa: F401
        from ray.tune.search.optuna import OptunaSearch
    except ImportError:
        raise InvalidConfiguration(
            "this search proposes with Optuna, which is not installed: pip install optuna, or say "
            "`algorithm: random`"
        ) from None
    return OptunaSearch(
        metric=LOSS,
        mode="min",
        points_to_evaluate=[_point(search, one.parameters) for one in known],
        seed=seed + len(known),  # or the first new ones would be the first ones of before
    )


def _scheduler(search: Search) -> Any:
    if search.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr=EVALUATIONS,
        grace_period=search.grace_evaluations,
        reduction_factor=search.reduction_factor,
        max_t=1000,  # evaluations; recipes end before
    )


def _ended(result: Any) -> Tried:
    """What a trial says of itself, for those that were not put down."""
    error = (result.metrics or {}).get("error") or str(result.error or "it reported nothing")
    return Tried(_parameters(result.config or {}), (), error[-500:])
