"""The card of an adapter: what it was made of, how well it does, a canary to recognise it by.

A card is data for people and machines, stored as `card.json` beside the weights; the registry
takes it as the manifest of a version. NaN and infinity never enter a card. Knows nothing of
folders or storage.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from loraland.adapters.names import ModelName, is_part, is_version

Precision = Literal["fp32", "bf16", "nf4"]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


def utc_now() -> str:
    """The present moment as cards write it: ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _utc(text: str) -> str:
    moment = datetime.fromisoformat(text)
    if moment.utcoffset() != timedelta(0):
        raise ValueError(f"'{text}' is not in UTC; write it as 2026-01-31T12:00:00+00:00")
    return text


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataStamp(_Part):
    """The examples a run was trained on."""

    fingerprint: Text  # hash of the rows in their order
    source: Text  # "folder", "hub" or "generator", with the place
    train_rows: PositiveInt
    validation_rows: NonNegativeInt
    dropped_long: NonNegativeInt  # rows left out because they exceed the token limit
    dropped_overlap: NonNegativeInt = 0  # rows left out because their prompt is in the test split


class CurvePoint(_Part):
    """The state of a run after one optimiser step."""

    step: NonNegativeInt
    tokens: NonNegativeInt  # of prompts and answers since the start
    train_loss: float  # nats per supervised token, mean over examples
    validation_loss: float | None  # nats per supervised token; None when it was not measured here
    learning_rate: NonNegativeFloat
    seconds: NonNegativeFloat  # of training since the start, resumed parts added up


class Canary(_Part):
    """A prompt and the first logits after it, by which a loaded adapter is recognised.

    The three lists over tokens have one entry per token of `top_ids`.
    """

    prompt_ids: list[NonNegativeInt] = Field(min_length=1)
    top_ids: list[NonNegativeInt] = Field(min_length=1)  # the adapter's likeliest, best first
    logits: list[float]  # the adapter's, at top_ids
    base_logits: list[float]  # the base's, at top_ids
    max_difference: NonNegativeFloat  # max |adapter - base| over the whole vocabulary

    @model_validator(mode="after")
    def _lists_agree(self) -> Self:
        if not len(self.top_ids) == len(self.logits) == len(self.base_logits):
            raise ValueError("top_ids, logits and base_logits differ in length")
        return self


class SecondaryScore(_Part):
    """A score beside the headline, of adapter and base on the same items.

    Some are means over answers, 0 to 1, with intervals; some are of all answers together, on a
    scale of their own (a correlation: -1 to 1), without. None where a score is not defined.
    """

    value: float | None  # of the adapter
    low: float | None
    high: float | None
    base_value: float | None
    base_low: float | None
    base_high: float | None
    lift: float | None  # value - base_value
    lift_low: float | None  # paired interval
    lift_high: float | None


class Score(_Part):
    """What an adapter and its base reach on the same held-out items, with intervals.

    Counts are of items. Means are of the task's metric, 0 (worst) to 1 (best); an answer that
    failed or that its parser refuses counts as 0.
    """

    metric: Text  # a name in tasks/grading.py
    items: PositiveInt  # answered by both, the same items
    mean: float  # of the adapter
    low: float
    high: float
    base_mean: float
    base_low: float
    base_high: float
    lift: float  # mean - base_mean
    lift_low: float  # paired interval
    lift_high: float
    unparsable: NonNegativeInt  # of the adapter's answers
    base_unparsable: NonNegativeInt
    failures: NonNegativeInt  # answers of either that did not come (error, timeout)
    secondary: dict[str, SecondaryScore] = Field(default_factory=dict)  # by name
    confidence: float = Field(gt=0, lt=1)  # of all intervals, e.g. 0.95
    samples: str  # path of the adapter's samples (Parquet) below the storage root
    base_samples: str  # path of the base's samples
    data_source: Text  # where the items are from
    created: Annotated[str, Field(max_length=40)]  # ISO 8601, UTC

    _created = field_validator("created")(_utc)

    @model_validator(mode="after")
    def _numbers_agree(self) -> Self:
        for name in ("", "base_", "lift_"):
            low, high = getattr(self, f"{name}low"), getattr(self, f"{name}high")
            if low > high:
                raise ValueError(f"{name}low {low} is above {name}high {high}")
        if abs(self.lift - (self.mean - self.base_mean)) > 1e-6:
            raise ValueError(
                f"lift {self.lift} is not mean {self.mean} - base_mean {self.base_mean}"
            )
        if max(self.unparsable, self.base_unparsable) > self.items:
            raise ValueError(f"more unparsable answers than items ({self.items})")
        return self


class Card(_Part):
    """The manifest of one version of an adapter."""

    format: Literal[1] = 1
    base: str  # name in the catalogue of bases
    base_fingerprint: Text  # of the weights and config that it was trained on
    hub_id: str  # of the base, for other programs; empty when it is on no hub
    precision: Precision  # of the base during training
    task: str
    version: str  # first 12 hex digits of the content hash
    recipe: dict[str, Any]  # JSON values only
    seed: int
    data: DataStamp
    curve: list[CurvePoint]
    best_step: NonNegativeInt  # whose weights these are
    canary: Canary
    scores: list[Score] = Field(default_factory=list)
    packages: dict[str, str]  # name -> version
    git_commit: str | None  # None outside a repository
    git_dirty: bool | None
    hardware: Text  # e.g. "1 x NVIDIA H200" or "2 CPU cores AVX2"
    created: Annotated[str, Field(max_length=40)]  # ISO 8601, UTC

    _created = field_validator("created")(_utc)

    @field_validator("base", "task")
    @classmethod
    def _legal_part(cls, text: str) -> str:
        if not is_part(text):
            raise ValueError(f"'{text[:80]}' cannot be a part of a model name")
        return text

    @field_validator("version")
    @classmethod
    def _legal_version(cls, text: str) -> str:
        if not is_version(text):
            raise ValueError(f"'{text[:80]}' is not a version (12 hex digits)")
        return text

    @field_validator("recipe")
    @classmethod
    def _plain_json(cls, recipe: dict[str, Any]) -> dict[str, Any]:
        try:
            plain: dict[str, Any] = json.loads(json.dumps(recipe, allow_nan=False))
        except TypeError as error:
            raise ValueError(f"the recipe holds more than JSON values: {error}") from error
        return plain

    @property
    def name(self) -> ModelName:
        """`base/task@version`."""
        return ModelName(self.base, self.task, version=self.version)

    def with_score(self, score: Score) -> Card:
        """This card with a score in place of any of the same metric on the same data source."""
        others = [
            old
            for old in self.scores
            if (old.metric, old.data_source) != (score.metric, score.data_source)
        ]
        return self.model_copy(update={"scores": [*others, score]})

    def to_json(self) -> bytes:
        """The content of card.json, keys sorted, so that equal cards are equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True, allow_nan=False)
        return (text + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes) -> Card:
        """Read the content of card.json. Raises ValueError that lists all that is wrong."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            faults = [
                f"{'.'.join(map(str, fault['loc'])) or 'card'}: {fault['msg']}"
                for fault in error.errors(include_url=False, include_input=False)
            ]
            raise ValueError("; ".join(faults)) from error
