"""Answers a person: joins what the store knows of them with the model, and keeps what was shown.

Every method blocks (database, arrays) and may run on any thread. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from loraland import __version__
from loraland.cellar import bodies
from loraland.cellar.following import Follower
from loraland.cellar.opinions import Said, said_of
from loraland.cellar.store import NewEvent, Store, now_ms
from loraland.errors import InvalidRequest
from loraland.palate.explain import telling_of
from loraland.palate.model import PalateModel
from loraland.palate.onboarding import MOST_CARDS, Card, first_cards, next_card
from loraland.palate.preference import profile
from loraland.palate.recommend import Pick, recommend
from loraland.palate.scoring import Wish
from loraland.palate.spreading import quotas

AHEAD_MS = 300_000  # that a client's clock may be ahead of ours
CURVE_POINTS = 16  # of a palate's usual points, for pictures


class _Known(NamedTuple):
    """A person beside the model of this moment."""

    model: PalateModel
    said: Said


class Host:
    """What the routes ask for."""

    def __init__(self, store: Store, follower: Follower) -> None:
        """Answer with the follower's model; keep people and events in the store."""
        self._store, self._follower = store, follower

    def add_person(self) -> bodies.NewPerson:
        """Somebody new."""
        return bodies.NewPerson(**self._store.add_person()._asdict())

    def person_of(self, token: str) -> str:
        """See `Store.person_of`."""
        return self._store.person_of(token)

    def forget(self, person: str) -> None:
        """See `Store.forget`."""
        self._store.forget(person)

    def health(self) -> bodies.Health:
        """That a model is loaded."""
        model = self._follower.current()
        return bodies.Health(status="ok", model=self._name(model), version=__version__)

    def record(self, person: str, sent: bodies.EventsBody) -> bodies.Counted:
        """Keep what a client saw happen. Raises UnknownItem, InvalidRequest, EventConflict."""
        model, now = self._follower.current(), now_ms()
        model.catalogue.positions(one.item for one in sent.events)
        found = self._store.append(person, [_event(model, one, now) for one in sent.events])
        return bodies.Counted(**found._asdict())

    def cards(self, person: str, count: int) -> bodies.Cards:
        """The item whose answer would tell most, then some that are far from each other."""
        model, said = self._known(person)
        cards: list[Card] = []
        if said.verdicts and (best := next_card(model, said.tastes)) is not None:
            cards.append(best)
        for card in first_cards(model, MOST_CARDS):
            if card.key not in said.verdicts and all(card.key != one.key for one in cards):
                cards.append(card)
        found = [_card(model, card) for card in cards[:count]]
        return bodies.Cards(cards=found, model=self._name(model))

    def palates(self, person: str) -> bodies.Palates:
        """All palates with the person's shares."""
        model, said = self._known(person)
        them = profile(model, said.tastes)
        order = np.argsort(-them.theta, kind="stable").tolist()
        return bodies.Palates(
            palates=[
                bodies.PalateView(
                    id=model.palates[at].id,
                    name=model.palates[at].name,
                    words=list(model.palates[at].terms[:8]),
                    items=model.palates[at].items,
                    theta=float(them.theta[at]),
                    preferred=at in them.preferred and them.evidence > 0,
                    usual=_usual(model, at),
                )
                for at in order
            ],
            opinions=len(said.verdicts),
            notes=[*said.notes, *them.notes],
            model=self._name(model),
        )

    def recommend(self, person: str, wish: Wish, list_id: str | None) -> bodies.Recommendations:
        """A list, which is kept as shown with its propensities before it is given out.

        Under the same list id and with the same opinions it is the same list, and counts once.
        Raises InvalidRequest for a wish that cannot be met, EventConflict for a list id that was
        given to another list.
        """
        model, said = self._known(person)
        list_id = list_id or secrets.token_hex(16)
        shelf = recommend(model, said.tastes, replace(wish, seed=_seed(person, list_id)))
        places = quotas(shelf.profile.theta, shelf.profile.preferred, wish.count)
        picks = [
            _pick(rank, pick, places.get(int(model.palate[model.catalogue.index[pick.key]]), 0))
            for rank, pick in enumerate(shelf.picks, start=1)
        ]
        self._store.append(person, _shown(picks, list_id, model.version))
        notes = [*said.notes, *shelf.notes]
        return bodies.Recommendations(
            list=list_id, picks=picks, notes=notes, model=self._name(model)
        )

    def wine(self, person: str, key: str) -> bodies.Wine:
        """One item. Raises UnknownItem."""
        model, said = self._known(person)
        [place] = model.catalogue.positions([key]).tolist()
        shares, c = model.membership[place], model.catalogue
        largest = np.argsort(-shares, kind="stable")[:3].tolist()
        return bodies.Wine(
            key=key,
            title=c.titles[place],
            maker=c.makers[place],
            kind=c.kinds[place],
            place=c.places[place],
            quality=float(c.quality[place]),
            price=_price(float(c.price[place])),
            reviews=int(c.reviews[place]),
            words=list(telling_of(model, place)),
            palates=[
                bodies.Share(
                    id=model.palates[at].id, name=model.palates[at].name, share=float(shares[at])
                )
                for at in largest
            ],
            verdict=said.verdicts.get(key),
            model=self._name(model),
        )

    def search(self, person: str, words: str, count: int) -> bodies.FoundList:
        """Items by words of their titles."""
        model, said = self._known(person)
        keys = [model.catalogue.keys[place] for place in model.catalogue.search(words, count)]
        return self._found(model, said, keys)

    def opinions(self, person: str, count: int) -> bodies.FoundList:
        """What the person judged, the latest first."""
        model, said = self._known(person)
        return self._found(model, said, list(said.verdicts)[::-1][:count])

    def _known(self, person: str) -> _Known:
        model = self._follower.current()
        return _Known(model, said_of(self._store.opinions(person), model, now_ms()))

    def _found(self, model: PalateModel, said: Said, keys: Sequence[str]) -> bodies.FoundList:
        items = [
            bodies.Found(
                key=key,
                title=model.catalogue.titles[model.catalogue.index[key]],
                verdict=said.verdicts.get(key),
            )
            for key in keys
        ]
        return bodies.FoundList(items=items, model=self._name(model))

    def _name(self, model: PalateModel) -> bodies.ModelName:
        prices = model.catalogue.price[model.catalogue.has_price]
        return bodies.ModelName(
            name=self._follower.name,
            version=model.version,
            items=len(model.catalogue),
            made_up=model.facts.get("source", {}).get("kind") == "generator",
            cheapest=float(prices.min()) if len(prices) else None,
            dearest=float(prices.max()) if len(prices) else None,
        )


def _event(model: PalateModel, one: bodies.EventBody, now: int) -> NewEvent:
    at_ms = now if one.at_ms is None else one.at_ms
    if at_ms > now + AHEAD_MS:
        raise InvalidRequest(
            f"event '{one.id}' is {(at_ms - now) / 1000:.0f} s ahead of this server's clock; "
            "leave at_ms out to take the server's time"
        )
    place = model.catalogue.index[one.item]
    return NewEvent(
        event_id=one.id,
        kind=one.kind,
        item=one.item,
        at_ms=at_ms,
        model_version=model.version,
        palate=model.palates[int(model.palate[place])].id,
        list_id=one.list,
        price=one.price,
    )


def _shown(picks: Sequence[bodies.PickView], list_id: str, version: str) -> list[NewEvent]:
    now = now_ms()
    return [
        NewEvent(
            event_id=f"shown:{list_id}:{pick.rank}",
            kind="shown",
            item=pick.key,
            at_ms=now,
            model_version=version,
            palate=pick.palate_id,
            list_id=list_id,
            rank=pick.rank,
            quota=pick.quota,
            propensity=pick.propensity,
            price=pick.price,
        )
        for pick in picks
    ]


def _seed(person: str, list_id: str) -> int:
    """Of the exploration: the same for a list that is asked for again, unlike any other."""
    digest = hashlib.sha256(f"{person} {list_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _pick(rank: int, pick: Pick, quota: int) -> bodies.PickView:
    why = pick.why
    return bodies.PickView(
        rank=rank,
        key=pick.key,
        title=pick.title,
        maker=pick.maker,
        kind=pick.kind,
        quality=pick.quality,
        price=pick.price,
        palate=pick.palate_name,
        palate_id=pick.palate_id,
        score=pick.score,
        value=pick.value,
        why=bodies.Why(
            sentence=why.sentence,
            shared=list(why.shared),
            typical=list(why.typical),
            theta=why.theta,
            percentile=why.percentile,
            usual_price=why.usual_price,
        ),
        is_guess=pick.is_guess,
        propensity=pick.propensity,
        quota=quota,
    )


def _card(model: PalateModel, card: Card) -> bodies.CardView:
    return bodies.CardView(
        key=card.key,
        title=card.title,
        kind=model.catalogue.kinds[model.catalogue.index[card.key]],
        palate=card.palate_name,
        palate_id=card.palate_id,
        words=list(card.words),
        quality=card.quality,
        price=card.price,
    )


def _usual(model: PalateModel, palate: int) -> list[tuple[float, float]] | None:
    """Points that are usual at some prices, from the lowest to the highest."""
    if not model.catalogue.has_price.any():
        return None
    logs, points = model.curves.log_prices, model.curves.quality_at[palate]
    chosen = np.unique(np.linspace(0, len(logs) - 1, CURVE_POINTS).astype(int))
    return [(float(math.exp(logs[at])), float(points[at])) for at in chosen]


def _price(price: float) -> float | None:
    return price if math.isfinite(price) else None
