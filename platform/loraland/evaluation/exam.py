"""What a model is asked, and where its answers lie: one task's held-out items for models of a base.

The key of a place covers all that decides the answers, so that nobody is asked twice and data,
prompts or precision that changed lead elsewhere. Knows no model in memory, no engine and no Ray.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from loraland.tasks.sources import Split
from loraland.tasks.task import Item, Task

FORMAT = 1  # raise when the same items would be put or cut differently

Model = str | None  # the version of an adapter, or None for the base


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


@dataclass(frozen=True, slots=True)
class Sitting:
    """One model before one exam."""

    exam: Exam
    model: Model
    place: str  # where its samples go, below the storage root; no two sittings share one

    @classmethod
    def of(cls, exam: Exam, model: Model) -> Sitting:
        """The sitting whose samples everybody looks for."""
        return cls(exam, model, exam.path(model))

    @property
    def stamp(self) -> dict[str, Any]:
        """See `Exam.stamp`."""
        return self.exam.stamp(self.model)

    @property
    def label(self) -> str:
        """Short enough for a message."""
        return f"{self.model or 'the base'} on {self.exam.base_name}/{self.exam.task.name}"
