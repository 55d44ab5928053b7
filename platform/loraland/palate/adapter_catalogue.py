"""Adapters as a catalogue: which of them for this text, at this cost?

The text of an adapter is what its task asks (description, prompt, labels), its quality the score
or lift on its card, its price the parameters of its base, or what its training took. The same
palates, curves and lists as for wines. Told cards; reads no registry and loads no weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import numpy as np

from loraland.adapters.card import Card, Score
from loraland.bases.catalogue import get_base
from loraland.errors import DataRefused, InvalidRequest, UnknownBase, UnknownTask
from loraland.palate.catalogue import Catalogue
from loraland.palate.features import FeatureSettings
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.model import PalateModel
from loraland.palate.preference import Tastes, TasteSettings
from loraland.palate.pricing import PricingSettings
from loraland.palate.recommend import Pick, recommend
from loraland.palate.scoring import ListSettings, Wish
from loraland.tasks.catalogue import get_task

Cost = Literal["parameters", "tokens", "seconds"]
COSTS: tuple[Cost, ...] = get_args(Cost)
UNITS = {
    "parameters": "million parameters of the base",
    "tokens": "thousand tokens trained",
    "seconds": "seconds of training",
}
Quality = Literal["score", "lift"]

LEAST_ADAPTERS = 4
NEAR = 0.1  # cosine of a text and a task's, below which an adapter is no answer
# The text decides: palates of a few dozen adapters are coarse, and nobody wants variety of bases.
_TASTE = TasteSettings(prior=0.2)
_LIST = ListSettings(
    beta=4.0, diversity=1.0, per_maker=100, per_kind=100, quota=False, explore=0.0, taste=_TASTE
)


class AdapterPick(NamedTuple):
    """An adapter that may answer."""

    model: str  # base/task@version
    nearness: float  # cosine of the text and the adapter's task, 0..1
    pick: Pick  # quality in points (100 times the card's), price in UNITS of the cost


def catalogue_of_cards(
    cards: Iterable[Card], cost: Cost = "parameters", quality: Quality = "lift"
) -> Catalogue:
    """One item per judged card; others are left out. Raises DataRefused with fewer than four."""
    judged = [(card, score) for card in cards if (score := _newest(card)) is not None]
    names = [str(card.name) for card, _ in judged]
    if len(judged) < LEAST_ADAPTERS:
        raise DataRefused(
            f"{len(judged)} adapters have a score; at least {LEAST_ADAPTERS} are needed to compare "
            "(`loraland train` and `loraland matrix run` make some)"
        )
    points = [100 * (s.lift if quality == "lift" else s.mean) for _, s in judged]
    return Catalogue(
        keys=tuple(names),
        titles=tuple(names),
        texts=tuple(task_text(card.task) for card, _ in judged),
        makers=tuple(card.base for card, _ in judged),
        kinds=tuple(card.task for card, _ in judged),
        places=("",) * len(judged),
        critics=("",) * len(judged),
        quality=np.asarray(points, dtype=np.float64),
        price=np.asarray([_cost(card, cost) for card, _ in judged]),
        reviews=np.asarray([score.items for _, score in judged], dtype=np.int64),
    )


def task_text(name: str) -> str:
    """What a task asks, as one text; of a task that is not in the catalogue only its name."""
    plain = name.replace("-", " ").replace("_", " ")
    try:
        task = get_task(name)
    except UnknownTask:
        return plain
    labels = " ".join(task.labels[:40])
    return " ".join((plain, task.category, task.description, task.prompt, labels))


def fit_adapters(catalogue: Catalogue, seed: int = 0) -> PalateModel:
    """Palates of adapters: kinds of work. Raises DataRefused where tasks share no words."""
    kinds = len(set(catalogue.texts))
    k = int(np.clip(round(math.sqrt(kinds)), 2, max(2, len(catalogue) // 2)))
    settings = FitSettings(
        k=k,
        seed=seed,
        features=FeatureSettings(lexicon=0.0, without_names=False),
        pricing=PricingSettings(floor=0.0, prior_reviews=0.0),
    )
    return fit(catalogue, settings)


def choose_adapters(model: PalateModel, text: str, wish: Wish | None = None) -> list[AdapterPick]:
    """The adapters whose work is nearest to a text and best for its cost, best first.

    None where no adapter's task is near. Raises InvalidRequest for an empty text and for a wish
    that cannot be met.
    """
    if not text.strip():
        raise InvalidRequest("an empty text; give a prompt, or words that describe the work")
    place = model.features.place_text(text)
    shelf = recommend(model, Tastes(text=text), wish or Wish(count=5), _LIST)
    found = []
    for pick in shelf.picks:
        nearness = float(model.places[model.catalogue.index[pick.key]] @ place)
        if nearness >= NEAR:
            found.append(AdapterPick(pick.key, nearness, pick))
    return found


def _newest(card: Card) -> Score | None:
    return max(card.scores, key=lambda score: score.created, default=None)


def _cost(card: Card, cost: Cost) -> float:
    """NaN where the card or the catalogue does not say, and for a cost of nothing."""
    if cost == "parameters":
        try:
            return get_base(card.base).parameters / 1e6
        except UnknownBase:
            return math.nan
    last = card.curve[-1] if card.curve else None
    if last is None:
        return math.nan
    return (last.tokens / 1e3 if cost == "tokens" else last.seconds) or math.nan
