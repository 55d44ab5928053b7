"""A search over fields of one cell's recipe, with Ray Tune; the best recipe is then run as a cell.

Each configuration is trained with the plain loop and judged by its validation loss; at each rung of
ASHA only the best go on. Nothing is published but the cell with the best recipe.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ray import tune
from ray.tune import RunConfig, TuneConfig, Tuner
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from loraland import settings
from loraland.errors import InvalidConfiguration, LoraLandError
from loraland.matrix.cell import Cell
from loraland.matrix.space import Choice, Range, Search, Space
from loraland.matrix.trial import Resources, free_memory, places_of, request, tune_storage
from loraland.storage import Storage
from loraland.training.recipe import Recipe, get_recipe

LOSS = "validation_loss"


class Tried(NamedTuple):
    """One configuration."""

    parameters: dict[str, Any]
    validation_loss: float | None  # the best; None: it failed before the first evaluation
    evaluations: int
    error: str = ""


class SearchReport(NamedTuple):
    """What a search found."""

    best: Cell  # the cell of the space with the best recipe
    tried: list[Tried]  # the best first


def run_search(space: Space, storage_uri: str, resources: Resources) -> SearchReport:
    """Try configurations of a space with a `search`, as trials on the connected Ray cluster.

    The table is kept as ``spaces/<name>/search.json``. Raises InvalidConfiguration for a space
    without a search, LoraLandError when no configuration could be trained.
    """
    search = space.search
    if search is None:
        raise InvalidConfiguration(f"space '{space.name}' has no search: give it a `search:` part")
    [cell] = space.cells
    places = places_of(storage_uri)
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    job = {"cell": cell.located().to_json(), "places": places, **resources._asdict()}
    tuner = Tuner(
        tune.with_resources(try_recipe, request),
        param_space={"job": job}
        | {name: _domain(name, values) for name, values in search.parameters.items()},
        tune_config=TuneConfig(
            metric=LOSS,
            mode="min",
            num_samples=search.samples,
            search_alg=_algorithm(search, cell.seed),
            scheduler=_scheduler(search),
        ),
        run_config=RunConfig(
            name=f"{space.name}-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}",
            storage_path=tune_storage(places[settings.STORAGE]),
            verbose=0,
        ),
    )
    tried = sorted(
        (_tried(result) for result in tuner.fit()),
        key=lambda one: (one.validation_loss is None, one.validation_loss or 0.0),
    )
    Storage.open(storage_uri).write_json(
        f"spaces/{space.name}/search.json", {"tried": [one._asdict() for one in tried]}
    )
    if tried[0].validation_loss is None:
        raise LoraLandError(
            f"none of {len(tried)} configurations of {cell.label} could be trained; "
            f"the first said: {tried[0].error}"
        )
    return SearchReport(_with(cell, tried[0].parameters), tried)


def try_recipe(config: dict[str, Any]) -> None:
    """The function trainable: one configuration, which reports every evaluation."""
    job = config["job"]
    import torch

    from loraland.adapters.card import CurvePoint
    from loraland.matrix.work import Work
    from loraland.training.loop import train

    os.environ.update(job["places"])
    torch.set_num_threads(max(1, int(job["cpus"])))
    free_memory()
    parameters = _parameters(config)
    best, evaluations = float("inf"), 0

    def tell(point: CurvePoint, total: int) -> None:
        nonlocal best, evaluations
        if point.validation_loss is not None:
            best, evaluations = min(best, point.validation_loss), evaluations + 1
            tune.report({LOSS: best, "evaluations": evaluations, "step": point.step})

    try:
        cell = _with(Cell.from_json(job["cell"]), parameters)
        storage = Storage.open(settings.storage_uri())
        device = None if job["gpus"] else "cpu"
        work = Work.prepare(cell, storage, lambda event: None, device)
        training, validation = work.examples()
        with tempfile.TemporaryDirectory(prefix="loraland-") as place:
            train(
                work.load_base(),
                training,
                validation,
                cell.recipe,
                Path(place) / "adapter",
                seed=cell.seed,
                on_update=tell,
            )
    except LoraLandError as error:  # a rate at which training diverges is a finding too
        if evaluations == 0:
            tune.report({LOSS: float("inf"), "evaluations": 0, "error": error.message})


def _with(cell: Cell, parameters: dict[str, Any]) -> Cell:
    """The cell under a changed recipe. Raises InvalidConfiguration."""
    name, fields = cell.recipe.name, cell.recipe.model_dump(exclude={"name"})
    changed = get_recipe("report", **(fields | parameters)).model_copy(update={"name": name})
    return replace(cell, recipe=changed)


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


def _algorithm(search: Search, seed: int) -> Any:
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
    return OptunaSearch(metric=LOSS, mode="min", seed=seed)


def _scheduler(search: Search) -> Any:
    if search.scheduler == "none":
        return None
    return ASHAScheduler(
        time_attr="evaluations",
        grace_period=search.grace_evaluations,
        reduction_factor=search.reduction_factor,
        max_t=1000,  # evaluations; recipes end before
    )


def _tried(result: Any) -> Tried:
    metrics = result.metrics or {}
    loss = metrics.get(LOSS, float("inf"))
    error = metrics.get("error") or (str(result.error) if result.error else "")
    return Tried(
        _parameters(result.config or {}),
        loss if loss < float("inf") else None,
        metrics.get("evaluations", 0),
        error[-500:],
    )
