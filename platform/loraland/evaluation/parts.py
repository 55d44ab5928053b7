"""Answers on their way to samples: kept in parts as they come, graded when all of them are there.

    parts/<base>/<task>/<model>-<key>/<number>-<writer>.parquet     ungraded, in the form of samples

A part is written whole or not at all, so a kill loses what was not yet put into one. Any number of
processes may write parts of one sitting; of two answers to an item one is taken. Needs no model.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from loraland.errors import SamplesMissing, StorageCorrupt
from loraland.evaluation.exam import Sitting
from loraland.evaluation.samples import Sample, read_samples, row_of, write_samples
from loraland.evaluation.scoring import grade
from loraland.storage import Storage

logger = logging.getLogger(__name__)

FOLDER = "parts"
GROWS = ("items", "prompts", "data_fingerprint")  # of a stamp, when more items are asked


def parts_folder(sitting: Sitting) -> str:
    """Where the parts of a sitting lie, below the storage root."""
    return f"{FOLDER}/{sitting.place.removeprefix('samples/').removesuffix('.parquet')}"


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Writes parts under names that no other writer takes."""

    storage: Storage
    _name: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    _numbers: count[int] = field(default_factory=lambda: count(1))

    def write(self, sitting: Sitting, samples: Sequence[Sample]) -> None:
        """Keep ungraded answers; they are there when this returns."""
        path = f"{parts_folder(sitting)}/{next(self._numbers):06}-{self._name}.parquet"
        write_samples(self.storage, path, samples, sitting.stamp)


def has_samples(sitting: Sitting, storage: Storage) -> bool:
    """Whether the samples of a sitting are there, whole, and answer its very items in order."""
    samples = _read(storage, sitting.place, sitting)
    prompts = [item.prompt for item in sitting.exam.items]
    return samples is not None and [sample.prompt for sample in samples] == prompts


def kept_answers(sitting: Sitting, storage: Storage) -> dict[int, Sample]:
    """The answers in parts, by item. A part that cannot be read is as if it were not there."""
    folder, items = parts_folder(sitting), sitting.exam.items
    found: dict[int, Sample] = {}
    for name in storage.names(folder):
        for sample in _read(storage, f"{folder}/{name}", sitting) or ():
            if 0 <= sample.item < len(items) and items[sample.item].prompt == sample.prompt:
                found.setdefault(sample.item, sample)
    return found


def borrow(sitting: Sitting, storage: Storage, writer: PartWriter) -> int:
    """Keep for a sitting what its model answered before in an exam of other items; how many.

    The same prompt put to the same model in the same way has the same answer: when more items are
    asked, those of the shorter exam are not asked again.
    """
    items, kept = sitting.exam.items, kept_answers(sitting, storage)
    known = _answers_elsewhere(sitting, storage) if len(kept) < len(items) else {}
    lent = [
        replace(known[item.prompt], item=index, target=item.target, row=row_of(item))
        for index, item in enumerate(items)
        if index not in kept and item.prompt in known
    ]
    if lent:
        writer.write(sitting, lent)
    return len(lent)


def merge(sitting: Sitting, storage: Storage) -> None:
    """Grade the kept answers of a sitting and store them as its samples; then the parts go.

    Raises SamplesMissing while items are unanswered, MetricUnavailable or SandboxUnavailable where
    answers cannot be graded; the parts stay then.
    """
    kept, asked = kept_answers(sitting, storage), len(sitting.exam.items)
    if len(kept) < asked:
        raise SamplesMissing(
            f"{asked - len(kept)} of {asked} items were not answered yet by {sitting.label}; "
            "`loraland generate SPACE` asks them"
        )
    graded = grade(sitting.exam.task, [kept[index] for index in range(asked)])
    write_samples(storage, sitting.place, graded, sitting.stamp)
    drop_parts(sitting, storage)


def drop_parts(sitting: Sitting, storage: Storage) -> None:
    """Remove parts that are needed no more; none is fine."""
    storage.delete_folder(parts_folder(sitting))


def _answers_elsewhere(sitting: Sitting, storage: Storage) -> dict[str, Sample]:
    """What the model answered in other exams of the task, by prompt."""
    folder, own = sitting.place.rsplit("/", 1)
    found: dict[str, Sample] = {}
    for name in storage.names(folder):
        if name != own and name.startswith(f"{sitting.model or 'base'}-"):
            for sample in _read(storage, f"{folder}/{name}", sitting, may_differ=GROWS) or ():
                found.setdefault(sample.prompt, sample)
    return found


def _read(
    storage: Storage, path: str, sitting: Sitting, may_differ: Sequence[str] = ()
) -> list[Sample] | None:
    """Samples that were made as the sitting's; None when there are none, or none that are whole."""
    try:
        samples, stamp = read_samples(storage, path)
    except SamplesMissing:
        return None
    except StorageCorrupt as error:
        logger.info("%s", error.message)
        return None
    differs = {name for name, value in sitting.stamp.items() if stamp.get(name) != value}
    return samples if differs <= set(may_differ) else None
