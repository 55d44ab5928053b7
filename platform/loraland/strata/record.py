"""An audit as it is stored and shown: strata with sizes, scores, examples and words, and a map.

Shapes only, for `audit.json`, the page and the API. NaN and infinity never enter; None means that
something is not known or was not measured. Knows no models and no storage.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from loraland.strata.groups import Mode

FORMAT = 1
ID = r"^[0-9a-f]{16}$"
Count = NonNegativeInt
Unit = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Rate(_Part):
    """A share of right answers with its interval (95 %, Wilson)."""

    mean: Unit
    low: Unit
    high: Unit
    items: Annotated[int, Field(ge=1)]


class Sizes(_Part):
    """Examples by split."""

    train: Count
    validation: Count
    test: Count


class TellingWord(_Part):
    """A word, or two neighbours, more frequent in a stratum than elsewhere in its superclass."""

    word: str
    z: float
    here: Unit  # share of the stratum's texts that have it
    rest: Unit


class Shown(_Part):
    """A held-out example near the middle of its stratum."""

    text: str | None  # None: not a text
    pixels: list[list[Unit]] | None = None  # of a grey image, row by row, 0 black
    label: str
    answer: str  # the likeliest label
    right: bool
    loss: Annotated[float, Field(ge=0)]  # nats
    subclass: str | None  # the true one, where it is known


class Overlap(_Part):
    """How well a stratum is a known subclass, on the training examples."""

    subclass: str
    precision: Unit  # share of the stratum that is in the subclass
    recall: Unit  # share of the subclass that is in the stratum
    prevalence: Unit  # of the subclass in its superclass


class Stratum(_Part):
    """A part of a superclass that was found."""

    number: Count
    name: str  # "label/1", counted within the superclass
    label: str  # of the superclass
    sizes: Sizes
    train: Rate | None  # on training examples
    test: Rate | None  # on held-out ones; None: there are none
    rest: Rate | None  # of the others of the superclass, held out
    loss: float | None  # mean, held out, nats
    words: list[TellingWord]
    examples: list[Shown]
    mean_image: list[list[Unit]] | None = None
    overlaps: list[Overlap]  # best first; empty where subclasses are not known


class Part(_Part):
    """A sub-cluster of the over-clustering, kept or merged back."""

    number: Count
    kept: bool
    reasons: list[str]


class Search(_Part):
    """Why a superclass has the strata it has."""

    label: str
    strata: Annotated[int, Field(ge=1)]
    scores: dict[str, float | None]  # k -> mean of the clusters' mean silhouettes
    floor: float
    whole_because: str | None
    parts: list[Part]


class Picture(_Part):
    """Held-out examples in two dimensions."""

    x: str  # what an axis is
    y: str
    points: list[tuple[float, float, int, bool]]  # x, y, stratum, right
    left_out: Count  # examples that are not drawn


class KnownGroup(_Part):
    """A subclass that is known, with its score."""

    name: str
    train: Count
    test: Rate | None


class Audit(_Part):
    """Whom a classifier fails."""

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=ID)]
    kind: Literal["language", "images"]
    model: str  # base/task@version, or the name of an image classifier
    task: str
    description: str
    features: str  # where they come from
    labels: list[str]
    sizes: Sizes
    overall: Rate
    worst: int | None  # number of the stratum with the lowest held-out score, where any has enough
    strata: list[Stratum]  # the worst first
    searches: list[Search]
    picture: Picture
    known: list[KnownGroup]
    settings: dict[str, Any]
    rests_on: dict[str, str]  # fingerprints and sources of what was looked at
    warnings: list[str]
    created: Annotated[str, Field(max_length=40)]  # ISO 8601, UTC


class AuditLine(_Part):
    """An audit in a list."""

    id: Annotated[str, Field(pattern=ID)]
    kind: Literal["language", "images"]
    model: str
    task: str
    strata: Count
    overall: Rate
    worst: Rate | None
    worst_name: str | None
    created: str


class Retrained(_Part):
    """How a classifier does on the strata of an audit: the audited one, or one trained after it."""

    format: Literal[1] = 1
    mode: Mode
    model: str
    overall: Rate
    strata: dict[int, Rate]  # by number; without those that have no held-out example
    known: dict[str, Rate]  # by the name of the subclass
    right: str = Field(pattern=r"^([0-9a-f]{2})*$")  # a bit for each held-out item, in their order
    created: Annotated[str, Field(max_length=40)]

    @property
    def worst_stratum(self) -> Rate | None:
        """Of the strata; an estimate of the worst subclass, where those are not known."""
        return min(self.strata.values(), key=lambda one: one.mean, default=None)

    @property
    def worst_known(self) -> Rate | None:
        """Of the known subclasses."""
        return min(self.known.values(), key=lambda one: one.mean, default=None)
