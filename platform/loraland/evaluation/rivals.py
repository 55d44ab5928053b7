"""Stored answers of a version and of its rival to the same items, graded anew; loads no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import SamplesMissing
from loraland.evaluation.comparison import same_items
from loraland.evaluation.published import newest_score
from loraland.evaluation.samples import Sample, read_samples
from loraland.evaluation.scoring import grade
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

Rival = ModelName | None  # a version, or None for the base


@dataclass(frozen=True, slots=True)
class Answers:
    """Graded answers of two models to the same items, and where they lie."""

    task: str
    ours: list[Sample]
    theirs: list[Sample]
    places: tuple[str, str]


def judged_answers(registry: Registry, candidate: ModelName, rival: Rival) -> Answers:
    """The answers that the candidate's newest score stands on, and the rival's to the same items.

    Raises SamplesMissing when the candidate was never judged, or the rival not on these items.
    """
    storage, score = registry.storage, newest_score(registry.card(candidate))
    if score is None:
        raise SamplesMissing(
            f"{candidate} was never judged; `loraland evaluate {candidate} --fresh` does it"
        )
    if rival is None:
        places = [score.base_samples]
    else:
        places = [other.samples for other in registry.card(rival).scores]
    ours = read_samples(storage, score.samples)[0]
    found = _to_the_same_items(ours, places, storage)
    if found is None:
        asked = rival or candidate
        raise SamplesMissing(
            f"{rival or candidate.base} was never asked the {len(ours)} items that {candidate} was "
            f"judged on; `loraland evaluate {asked} --fresh --max-items {len(ours)}` asks them"
        )
    return _graded(str(candidate.task), ours, found[1], (score.samples, found[0]))


def answers_on(task: str, storage: Storage, candidate: ModelName, rival: Rival) -> Answers:
    """The answers of both to the same items of another task.

    Raises UnknownTask, and SamplesMissing when there are none.
    """
    get_task(task)
    folder = f"samples/{candidate.base}/{task}"
    places = [f"{folder}/{file}" for file in storage.names(folder) if file.endswith(".parquet")]
    theirs = [place for place in places if _is_of(rival, place)]
    for place in places:
        if _is_of(candidate, place):
            ours = read_samples(storage, place)[0]
            if (found := _to_the_same_items(ours, theirs, storage)) is not None:
                return _graded(task, ours, found[1], (place, found[0]))
    raise SamplesMissing(
        f"no stored answers of {candidate} and of {rival or 'its base'} to the same items of task "
        f"'{task}' below {storage.describe(folder)}; ask both, or leave this guard out"
    )


def _to_the_same_items(
    ours: Sequence[Sample], places: Iterable[str], storage: Storage
) -> tuple[str, list[Sample]] | None:
    for place in places:
        theirs = read_samples(storage, place)[0]
        if same_items(ours, theirs):
            return place, theirs
    return None


def _graded(
    task: str, ours: Sequence[Sample], theirs: Sequence[Sample], places: tuple[str, str]
) -> Answers:
    known = get_task(task)
    return Answers(task, grade(known, ours), grade(known, theirs), places)


def _is_of(model: Rival, place: str) -> bool:
    named = model.version if model else "base"
    return place.rsplit("/", 1)[-1].startswith(f"{named}-")
