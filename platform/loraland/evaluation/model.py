"""Evaluates a published adapter by asking it and its base everything anew.

The same items as the stored score, so that the two can be held against each other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from loraland.adapters.card import Card
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import find_base, load_base
from loraland.errors import AdapterRejected
from loraland.evaluation.exam import Exam
from loraland.evaluation.generation import OnAnswer
from loraland.evaluation.judge import judge
from loraland.evaluation.published import Evaluation, newest_score
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split

MAX_ITEMS = 100  # of an adapter that has no score yet


def evaluate_model(
    name: str,
    storage: Storage,
    *,
    base: str | None = None,
    max_items: int | None = None,
    on_answer: OnAnswer | None = None,
) -> Evaluation:
    """Ask an adapter and its base every item anew, and put the score on the card.

    `base` is a path when the base is not in the catalogue. `max_items` defaults to the number of
    the stored score. Raises AdapterRejected when the base is not the one the adapter was trained
    on.
    """
    registry = Registry(storage)
    resolved = registry.resolve(name)
    card = registry.card(resolved)
    stored = newest_score(card)
    task = get_task(str(resolved.task))
    limit = max_items or (stored.items if stored else MAX_ITEMS)
    split = load_split(task, "test", limit=limit)
    loaded = load_base(find_base(base or card.base), card.precision)
    _require_base(card, resolved, loaded.fingerprint)
    prepare_for_inference(loaded)
    exam = Exam.of(task, split, card.base, card.base_fingerprint, card.precision)
    with tempfile.TemporaryDirectory(prefix="loraland-") as place:
        folder = registry.fetch(resolved, Path(place))
        version = str(resolved.version)
        known = stored is not None and stored.samples == exam.path(version)
        computed = judge(loaded, folder, version, exam, storage, fresh=known, on_answer=on_answer)
    if known:
        return Evaluation(str(resolved), computed, stored)
    registry.put_card(resolved, registry.card(resolved).with_score(computed))
    return Evaluation(str(resolved), computed, None)


def _require_base(card: Card, name: ModelName, fingerprint: str) -> None:
    if card.base_fingerprint != fingerprint:
        raise AdapterRejected(
            f"{name} was trained on a base '{card.base}' with fingerprint "
            f"{card.base_fingerprint[:12]}, the one here has {fingerprint[:12]}; use the same "
            "weights, or train again"
        )
