"""Judges one adapter against its base on the same held-out items, and keeps every answer.

Samples are stored under a key of all that made them, so that a base is asked once per task and
data, and a score can be computed again from storage alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraland.adapters.card import Score
from loraland.bases.loading import LoadedBase
from loraland.engine.making import make_engine
from loraland.engine.protocol import Engine
from loraland.engine.settings import EngineLimits
from loraland.engine.text import stop_token_ids
from loraland.evaluation.answering import Model, answer
from loraland.evaluation.samples import Sample, write_samples
from loraland.evaluation.scoring import regrade, require_gradable
from loraland.storage import Storage
from loraland.tasks.sources import Split
from loraland.tasks.task import Item, Task

FORMAT = 1  # raise when the same items would be put or cut differently
BATCH = 32  # rows of one forward pass
KV_TOKENS = 16_384  # of keys and values that are kept; whoever finds no room waits

OnAnswer = Callable[[int, int], None]  # answers so far, answers in all


@dataclass(frozen=True, slots=True)
class Exam:
    """The items that a model of one base is judged on, and where its samples go."""

    task: Task
    items: tuple[Item, ...]
    data_source: str
    data_fingerprint: str
    base_name: str
    base_fingerprint: str
    precision: str

    @classmethod
    def of(
        cls, task: Task, split: Split, base_name: str, base_fingerprint: str, precision: str
    ) -> Exam:
        """The exam of a task's held-out split for the models of a base at a precision."""
        items = tuple(task.for_split("test").item(row) for row in split.rows)
        return cls(
            task, items, split.source, split.fingerprint, base_name, base_fingerprint, precision
        )

    def stamp(self, version: Model) -> dict[str, Any]:
        """All that decides the answers of a model, but the engine's rounding."""
        return {
            "base": self.base_name,
            "base_fingerprint": self.base_fingerprint,
            "precision": self.precision,
            "task": self.task.name,
            "version": version,
            "data_fingerprint": self.data_fingerprint,
            "items": len(self.items),
            "prompts": hashlib.sha256(
                json.dumps([item.prompt for item in self.items]).encode()
            ).hexdigest(),
            "stop": list(self.task.stop),
            "max_new_tokens": self.task.max_new_tokens,
            "sampling": "greedy",
            "format": FORMAT,
        }

    def path(self, version: Model) -> str:
        """Where the samples of a model lie, below the storage root."""
        stamp = json.dumps(self.stamp(version), sort_keys=True).encode()
        key = hashlib.sha256(stamp).hexdigest()[:12]
        return f"samples/{self.base_name}/{self.task.name}/{version or 'base'}-{key}.parquet"

    def fresh_path(self, version: str, model: Model) -> str:
        """Where new answers go that leave the stored ones alone: other scores stand on those."""
        return f"{self.path(model).removesuffix('.parquet')}-again-{version}.parquet"


def judge(
    base: LoadedBase,
    folder: Path,
    version: str,
    exam: Exam,
    storage: Storage,
    *,
    fresh: bool = False,
    on_answer: OnAnswer | None = None,
) -> Score:
    """Ask the base and the adapter in `folder` every item, store the samples, and score them.

    A model whose samples are stored already is not asked again. `fresh` asks both, and stores the
    answers beside the others. Raises EngineFailed, EngineStopped; then nothing is stored. Raises
    MetricUnavailable or SandboxUnavailable, before any is asked, when answers could not be graded.
    """
    require_gradable(exam.task, exam.items)
    places: dict[Model, str] = {
        model: exam.fresh_path(version, model) if fresh else exam.path(model)
        for model in (None, version)
    }
    missing = [m for m, place in places.items() if fresh or not storage.exists(place)]
    if missing:
        found = asyncio.run(_ask(base, folder, version, exam, missing, on_answer))
        for model, samples in found.items():
            write_samples(storage, places[model], samples, exam.stamp(model))
    return regrade(exam.task, places[version], places[None], exam.data_source, storage)


async def _ask(
    base: LoadedBase,
    folder: Path,
    version: str,
    exam: Exam,
    models: Sequence[Model],
    on_answer: OnAnswer | None,
) -> dict[Model, list[Sample]]:
    total, done = len(models) * len(exam.items), 0

    def count() -> None:
        nonlocal done
        done += 1
        if on_answer is not None:
            on_answer(done, total)

    engine = _engine(base)
    try:
        stops = stop_token_ids(base.tokenizer, base.model)
        answers: dict[Model, list[Sample]] = {}
        # One model after the other: what it answers never depends on who else is asked. The base
        # comes first, before any adapter is put into its layers.
        for model in models:
            if model is not None:
                await engine.load(model, folder)
            answers[model] = await answer(
                engine, base.tokenizer, stops, exam.task, exam.items, model, count
            )
        return answers
    finally:
        await engine.close()


def _engine(base: LoadedBase) -> Engine:
    """An engine that takes any adapter; for a base without attention over blocks the plain one."""
    kv_tokens = max(KV_TOKENS, base.entry.context_tokens)
    limits = EngineLimits(rows=BATCH, waiting=100_000, slots=1, max_rank=512, kv_tokens=kv_tokens)
    return make_engine(base, limits, kind="any")
