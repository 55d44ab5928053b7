"""Synthetic adapters for load tests: published like real ones, recognisable, removed afterwards.

They are twins of one random adapter (`adapters/made_up.py`), so one canary is measured and all
answer alike. Their tasks are called loadtest-000, loadtest-001 and so on.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from loraland.adapters.card import Canary, Card, DataStamp, utc_now
from loraland.adapters.folder import content_hash, version_of
from loraland.adapters.made_up import write_random_adapter
from loraland.adapters.names import LATEST, ModelName
from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase
from loraland.errors import InvalidConfiguration, UnknownModel
from loraland.lora.weights import linears_of
from loraland.training.effect import measure_canary

PREFIX = "loadtest-"
MOST_ADAPTERS, MOST_RANK, LEAST_RANK = 1000, 256, 4  # ranks below have too few twins
CANARY_PROMPT = (5, 9, 77, 11)


@contextmanager
def synthetic_adapters(
    registry: Registry,
    base: LoadedBase,
    count: int,
    *,
    rank: int = 8,
    seed: int = 0,
    keep: bool = False,
    on_made: Callable[[int], None] = lambda _: None,
) -> Iterator[list[ModelName]]:
    """Publish `count` adapters for `base`; they are deleted at the end, unless kept.

    The same arguments give the same versions, so a killed run is cleaned up by the next one. A
    real adapter of another version under one of their names is left as it is, its `latest` too.
    `on_made` is told how many there are. Raises InvalidConfiguration for numbers out of range.
    """
    check_synthetic(count, rank)
    made: list[ModelName] = []
    try:
        for name in _published(registry, base, count, rank, seed):
            made.append(name)
            on_made(len(made))
        del base  # gigabytes, perhaps, while the server needs them
        yield made
    finally:
        if not keep:
            for name in made:
                _remove(registry, name)


def check_synthetic(count: int, rank: int) -> None:
    """Raises InvalidConfiguration for numbers out of range."""
    if not 1 <= count <= MOST_ADAPTERS:
        raise InvalidConfiguration(f"{count} synthetic adapters; give 1 to {MOST_ADAPTERS}")
    if not LEAST_RANK <= rank <= MOST_RANK:
        raise InvalidConfiguration(
            f"rank {rank} of synthetic adapters; give {LEAST_RANK} to {MOST_RANK}"
        )


def _published(
    registry: Registry, base: LoadedBase, count: int, rank: int, seed: int
) -> Iterator[ModelName]:
    linears, canary = linears_of(base.model), None
    for number in range(count):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "adapter"
            write_random_adapter(folder, linears, rank=rank, seed=seed, twin=number)
            if canary is None:
                canary = measure_canary(base, folder, CANARY_PROMPT)
            card = _card(base, f"{PREFIX}{number:03d}", folder, canary, rank, seed)
            free = LATEST not in registry.aliases(card.base, card.task)
            yield registry.publish(folder, card, (LATEST,) if free else ())


def _card(base: LoadedBase, task: str, folder: Path, canary: Canary, rank: int, seed: int) -> Card:
    return Card(
        base=base.entry.name,
        base_fingerprint=base.fingerprint,
        hub_id=base.entry.hub_id,
        precision=base.precision,
        task=task,
        version=version_of(content_hash(folder)),
        recipe={"rank": rank, "synthetic": True},
        seed=seed,
        data=DataStamp(
            fingerprint="none", source="synthetic: random weights, trained on nothing",
            train_rows=1, validation_rows=0, dropped_long=0,
        ),
        curve=[],
        best_step=0,
        canary=canary,
        packages={},
        git_commit=None,
        git_dirty=None,
        hardware="none",
        created=utc_now(),
    )  # fmt: skip


def _remove(registry: Registry, name: ModelName) -> None:
    """Delete a version with the aliases that point at it; one that is gone is gone."""
    for alias, version in registry.aliases(name.base, str(name.task)).items():
        if version == name.version:
            with suppress(UnknownModel):
                registry.unalias(ModelName(name.base, name.task, alias))
    with suppress(UnknownModel):
        registry.delete(name)
