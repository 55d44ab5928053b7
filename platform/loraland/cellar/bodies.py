"""Requests and answers of the API as JSON; limits of what a request may hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from loraland.serving.bodies import Body

MOST_TOGETHER = 100  # events of one request
MOST_MS = 4_102_444_800_000  # the year 2100

# No colon: ids of ours have one (`shown:LIST:RANK`), so that nobody can take them first.
EventId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
BudgetKind = Literal["hard", "soft"]
ListId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,48}$")]


class EventBody(Body):
    """Something that a person did with an item, or saw of it."""

    id: EventId = Field(description="Made by the client; what is sent again under it counts once.")
    kind: Literal["clicked", "tasted", "liked", "disliked", "price_seen"]
    item: str = Field(min_length=1, max_length=200, description="The key of a wine.")
    at_ms: int | None = Field(
        None, ge=0, le=MOST_MS, description="Milliseconds since 1970; now, when left out."
    )
    list: ListId | None = Field(None, description="The list that it came of.")
    price: float | None = Field(
        None, gt=0, le=1e9, description="That was seen; with `price_seen`, and only there."
    )

    @property
    def conflicts(self) -> dict[str, str]:
        """A price belongs to `price_seen`."""
        if (self.price is not None) != (self.kind == "price_seen"):
            return {"price": "goes with kind 'price_seen', which needs it, and with no other"}
        return {}


class EventsBody(Body):
    """Events that belong together: all are kept, or none."""

    events: tuple[EventBody, ...] = Field(min_length=1, max_length=MOST_TOGETHER, strict=False)

    @property
    def conflicts(self) -> dict[str, str]:
        """What is wrong with each of them."""
        return {
            f"events.{at}.{name}": what
            for at, one in enumerate(self.events)
            for name, what in one.conflicts.items()
        }


class Answer(BaseModel):
    """Part of an answer."""

    model_config = ConfigDict(frozen=True)


class NewPerson(Answer):
    """Somebody new."""

    id: str
    token: str  # told once; send it as `Authorization: Bearer TOKEN`


class Counted(Answer):
    """What came of events."""

    new: int
    known: int  # had been sent before


class ModelName(Answer):
    """The model that an answer was made with."""

    name: str
    version: str
    items: int
    made_up: bool  # of made-up reviews
    cheapest: float | None  # None where no item has a price
    dearest: float | None


class CardView(Answer):
    """An item to like or not."""

    key: str
    title: str
    kind: str
    palate: str  # name
    palate_id: str
    words: list[str]  # of its reviews
    quality: float
    price: float | None


class Cards(Answer):
    """Items that tell palates apart, none of which the person has judged."""

    cards: list[CardView]
    model: ModelName


class PalateView(Answer):
    """A palate, and how much of it a person is."""

    id: str
    name: str
    words: list[str]  # most telling first
    items: int
    theta: float  # shares of all palates sum to 1
    preferred: bool
    usual: list[tuple[float, float]] | None  # price, points that are usual at it; None: no prices


class Palates(Answer):
    """All palates, the dearest first."""

    palates: list[PalateView]
    opinions: int  # that theta rests on, of this model's items
    notes: list[str]
    model: ModelName


class Why(Answer):
    """Why an item is in a list; words are those of its own reviews."""

    sentence: str
    shared: list[str]  # with what was liked
    typical: list[str]  # of its palate
    theta: float
    percentile: float | None  # of the palate's items that give no more for their price
    usual_price: float | None  # of such points in this palate


class PickView(Answer):
    """One recommended item."""

    rank: int
    key: str
    title: str
    maker: str
    kind: str
    quality: float
    price: float | None
    palate: str
    palate_id: str
    score: float
    value: float | None  # deviations above what is usual for the price
    why: Why
    is_guess: bool  # from the exploration slot
    propensity: float  # the chance that it was in this list
    quota: int  # places that its palate had


class Recommendations(Answer):
    """A list. It is in the store as shown before it is sent."""

    list: str  # its id
    picks: Sequence[PickView]
    notes: Sequence[str]
    model: ModelName


class Share(Answer):
    """How much an item is of a palate."""

    id: str
    name: str
    share: float


class Wine(Answer):
    """One item. The text of its reviews is not given out."""

    key: str
    title: str
    maker: str
    kind: str
    place: str
    quality: float
    price: float | None
    reviews: int
    words: list[str]
    palates: list[Share]  # the largest three
    verdict: str | None  # liked, disliked or tasted, by this person
    model: ModelName


class Found(Answer):
    """An item that was looked for, or judged."""

    key: str
    title: str
    verdict: str | None


class FoundList(Answer):
    """Items with what the person said of each."""

    items: list[Found]
    model: ModelName


class Health(Answer):
    """That the server answers."""

    status: Literal["ok"]
    model: ModelName
    version: str  # of the program
