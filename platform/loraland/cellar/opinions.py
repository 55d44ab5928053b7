"""Makes of a person's events what `palate` asks: liked, disliked, tasted, with ages. Pure.

A profile is never stored: it follows from events, which name items and no palates. So after a refit
it is simply computed again, and a palate that `palate.alignment` kept has its id still.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loraland.cellar.store import Opinion
from loraland.palate.model import PalateModel
from loraland.palate.preference import MOST_OPINIONS, Tastes

DAY_MS = 86_400_000


class Said(NamedTuple):
    """What a person said, of the items that a model knows."""

    tastes: Tastes
    verdicts: dict[str, str]  # item -> liked, disliked or tasted; the latest last
    notes: tuple[str, ...]


def said_of(opinions: Sequence[Opinion], model: PalateModel, now_ms: int) -> Said:
    """The latest word on each item counts; that it was tasted is no word against it.

    Items that left the catalogue are left out, and a note says how many.
    """
    latest: dict[str, Opinion] = {}
    for one in sorted(opinions, key=lambda opinion: opinion.at_ms):  # equal moments: as they came
        if one.kind != "tasted" or one.item not in latest:
            latest.pop(one.item, None)
            latest[one.item] = one
    known = [one for one in latest.values() if one.item in model.catalogue.index]
    notes = []
    if gone := len(latest) - len(known):
        notes.append(f"{gone} of {len(latest)} opinions are of items that are no longer there")
    known = known[-MOST_OPINIONS:]
    by = {
        kind: tuple(one.item for one in known if one.kind == kind)
        for kind in ("liked", "disliked", "tasted")
    }
    # Whole days, so that a list that is asked for again a moment later is the same.
    ages = {one.item: float(max(0, now_ms - one.at_ms) // DAY_MS) for one in known}
    tastes = Tastes(by["liked"], by["disliked"], by["tasted"], ages_days=ages)
    return Said(tastes, {one.item: one.kind for one in known}, tuple(notes))
