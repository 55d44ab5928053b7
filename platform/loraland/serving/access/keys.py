"""API keys: how they are made, what is kept of them, and how one is recognised.

A key is `loraland-ID-SECRET`: the id may be logged, the secret is 256 random bits of which only a
SHA-256 is kept. A slow hash would protect secrets that can be guessed; these cannot, and it would
cost time in every request. Knows no files and no HTTP.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator

from loraland.serving.access.books import Allowance
from loraland.serving.access.permission import EVERYTHING, check_pattern

_KEY = re.compile(r"loraland-([0-9a-f]{16})-([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()  # compared when there is no record


class KeyRecord(BaseModel):
    """What is kept of a key. Never changed once written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[0-9a-f]{16}$")
    name: str = Field(min_length=1, max_length=100)  # whose key it is, for people
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)  # of the secret, in hex
    models: tuple[str, ...] = (EVERYTHING,)  # patterns, see `permission`
    admin: bool = False  # may change what is served
    requests_per_minute: int | None = Field(default=None, ge=1)
    tokens_per_minute: int | None = Field(default=None, ge=1)  # prompt and answer
    tokens_per_day: int | None = Field(default=None, ge=1)  # of a day in UTC
    concurrent: int | None = Field(default=None, ge=1)  # requests under way
    created: AwareDatetime
    expires: AwareDatetime | None = None

    @field_validator("models")
    @classmethod
    def _patterns(cls, models: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in models:
            check_pattern(pattern)
        return models

    @property
    def allowance(self) -> Allowance:
        """The limits of this key."""
        return Allowance(
            self.requests_per_minute, self.tokens_per_minute, self.tokens_per_day, self.concurrent
        )

    def has_expired(self, now: datetime | None = None) -> bool:
        """Whether its time is over."""
        return self.expires is not None and (now or datetime.now(UTC)) >= self.expires


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only moment when its secret is known."""

    record: KeyRecord
    text: str = field(repr=False)  # what a client sends: `Authorization: Bearer TEXT`


@dataclass(frozen=True, slots=True)
class Presented:
    """A key as a client sent it."""

    id: str
    secret: str = field(repr=False)


def make_key(name: str, **fields: object) -> NewKey:
    """A new random key; `fields` are those of KeyRecord.

    Raises pydantic's ValidationError, also for a pattern that is none.
    """
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    known = {"id": key_id, "name": name, "sha256": _digest(secret), "created": datetime.now(UTC)}
    record = KeyRecord.model_validate(known | fields)
    return NewKey(record, f"loraland-{key_id}-{secret}")


def read_key(text: str) -> Presented | None:
    """The parts of a key, None when the text has not the form of one."""
    match = _KEY.fullmatch(text)
    return Presented(*match.groups()) if match else None


def is_genuine(presented: Presented, record: KeyRecord | None) -> bool:
    """Whether the secret is that of the record; takes as long when it is not, or there is none."""
    kept = _NOBODY if record is None else record.sha256
    same = hmac.compare_digest(_digest(presented.secret), kept)
    return same and record is not None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
