"""Judges one adapter against its base on the same held-out items, and keeps every answer.

A column of two: what is not stored yet is asked as `generation` asks, graded when all answers are
there, and scored from storage. A base is asked once per task and data.
"""

from __future__ import annotations

from pathlib import Path

from loraland.adapters.card import Score
from loraland.bases.loading import LoadedBase
from loraland.evaluation.exam import Exam, Sitting
from loraland.evaluation.generation import OnAnswer, generate, left
from loraland.evaluation.parts import has_samples, merge
from loraland.evaluation.scoring import regrade, require_gradable
from loraland.storage import Storage

__all__ = ["Exam", "judge"]


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

    A model whose samples are stored already is not asked again, and one that was interrupted is
    asked the rest. `fresh` asks both, and stores the answers beside the others. Raises
    EngineFailed, EngineStopped; then there are no new samples. Raises MetricUnavailable or
    SandboxUnavailable, before any is asked, when answers could not be graded.
    """
    require_gradable(exam.task, exam.items)
    ours, theirs = (
        Sitting(exam, model, exam.fresh_path(version, model) if fresh else exam.path(model))
        for model in (version, None)
    )
    missing = [s for s in (theirs, ours) if fresh or not has_samples(s, storage)]
    if asked := left(missing, storage, fresh=True):
        for error in generate(base, asked, lambda _: folder, storage, on_answer).values():
            raise error
    for sitting in missing:
        merge(sitting, storage)
    return regrade(exam.task, ours.place, theirs.place, exam.data_source, storage)
