"""What endpoints answered and what that cost, in storage, so that nothing is paid for twice.

    answers/<2 digits>/<key>.json          an answer, under a key of all that was sent
    endpoints/<name>/endpoint.json         what a name stands for; one name, one model
    endpoints/<name>/spent/<run>.json      the most that one run may have spent, written before

An answer is written as soon as it arrived. A killed run is counted at what it had set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraland.errors import InvalidConfiguration, StorageCorrupt
from loraland.evaluation.endpoint import Body, Endpoint
from loraland.evaluation.endpoint_budget import NOTHING, Budget, Spend, Usage, total
from loraland.evaluation.endpoint_replies import Reply
from loraland.storage import Storage

READERS = 16  # files that are read at once


class Answer(BaseModel):
    """A reply as it is kept. No key of an endpoint is ever in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    url: str
    api: str
    edition: str
    request: dict[str, Any]  # the body that was sent
    text: str
    finish_reason: str
    refusal: str | None
    model: str | None  # that the endpoint says it came from
    system_fingerprint: str | None
    created: int | None  # by the endpoint's clock
    received: str  # by ours, ISO 8601
    input_tokens: int | None = Field(ge=0)  # None: the endpoint did not say
    output_tokens: int | None = Field(ge=0)
    usd: Decimal | None  # at the prices of the settings; None: no prices
    ms: float  # of the attempt that succeeded

    @classmethod
    def of(
        cls,
        endpoint: Endpoint,
        body: Body,
        reply: Reply,
        usd: Decimal | None,
        received: str,
        ms: float,
    ) -> Answer:
        """What is kept of a reply to a body."""
        told = reply._asdict()
        usage = told.pop("usage") or (None, None)
        return cls(
            url=endpoint.url,
            api=endpoint.api,
            edition=endpoint.edition,
            request=body,
            **told,
            received=received,
            input_tokens=usage[0],
            output_tokens=usage[1],
            usd=usd,
            ms=ms,
        )

    @property
    def usage(self) -> Usage | None:
        """Tokens that were charged; None when the endpoint did not say."""
        if self.input_tokens is None or self.output_tokens is None:
            return None
        return Usage(self.input_tokens, self.output_tokens)


class Answers:
    """The kept answers of an endpoint, by the key of what was sent."""

    def __init__(self, storage: Storage, endpoint: Endpoint) -> None:
        self._storage, self._endpoint = storage, endpoint

    def keep(self, answer: Answer) -> None:
        """Write an answer, whole or not at all."""
        place = _place(self._endpoint.key(answer.request))
        self._storage.write_json(place, answer.model_dump(mode="json"))

    def known(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Those that are there. Raises StorageCorrupt."""
        wanted = list(keys)
        with ThreadPoolExecutor(READERS) as readers:
            found = readers.map(self._find, wanted)
            return {key: one for key, one in zip(wanted, found, strict=True) if one is not None}

    def _find(self, key: str) -> Answer | None:
        try:
            content = self._storage.read(_place(key))
        except FileNotFoundError:
            return None
        try:
            answer = Answer.model_validate_json(content)
        except ValidationError:
            answer = None
        if answer is None or self._endpoint.key(answer.request) != key:
            raise StorageCorrupt(
                f"{self._storage.describe(_place(key))} is not the answer that its name says; "
                "delete the file, and its question is asked again"
            )
        return answer


def _place(key: str) -> str:
    return f"answers/{key[:2]}/{key}.json"


def claim_name(storage: Storage, endpoint: Endpoint) -> None:
    """Bind the name of an endpoint to what it stands for.

    Raises InvalidConfiguration when it stands for another model already, or is a base's: samples
    of both would lie in one folder, and nobody could tell them apart.
    """
    place = f"endpoints/{endpoint.name}/endpoint.json"
    try:
        bound = storage.read_json(place)
    except FileNotFoundError:
        if storage.names(f"samples/{endpoint.name}"):
            raise InvalidConfiguration(
                f"samples of a base called '{endpoint.name}' are in {storage.uri} already; "
                "give the endpoint another name"
            ) from None
        storage.write_json(place, endpoint.identity)
        return
    except ValueError:
        bound = None
    if bound != endpoint.identity:
        known = bound if isinstance(bound, dict) else {}
        other = [name for name, value in endpoint.identity.items() if known.get(name) != value]
        raise InvalidConfiguration(
            f"the name '{endpoint.name}' stands for another {', '.join(other) or 'endpoint'} in "
            f"{storage.uri} ({place}); give this endpoint a name of its own"
        )


def spent_before(storage: Storage, name: str) -> Spend:
    """What all runs under a name may have spent at most. Raises StorageCorrupt."""
    folder = f"endpoints/{name}/spent"
    return total(_spend_in(storage, f"{folder}/{file}") for file in storage.names(folder))


def _spend_in(storage: Storage, place: str) -> Spend:
    try:
        found = storage.read_json(place)
        spend = Spend(Decimal(found["usd"]), int(found["tokens"]))
    except (ValueError, KeyError, TypeError, InvalidOperation):
        spend = None
    if spend is None or not spend.usd.is_finite() or spend.usd < 0 or spend.tokens < 0:
        raise StorageCorrupt(
            f"{storage.describe(place)} does not say what a run has spent; write "
            '{"usd": "0.00", "tokens": 0} into it with the true numbers'
        )
    return spend


class SpendBook:
    """What this run may have spent, on disk before it can be."""

    def __init__(self, storage: Storage, name: str, run: str, before: Spend) -> None:
        """`before` is what earlier runs spent; `run` names the file of this one."""
        self._storage, self._place = storage, f"endpoints/{name}/spent/{run}.json"
        self._before = before
        self._covered = NOTHING  # of this run, as the file says

    def covers(self, budget: Budget) -> bool:
        """Whether the file allows for all that is spent and reserved."""
        needed = budget.committed.less(self._before)
        return needed.usd <= self._covered.usd and needed.tokens <= self._covered.tokens

    def cover(self, budget: Budget, ahead: Spend) -> None:
        """Write what is committed and some more, so that not every request is a write."""
        covered = budget.clamp(budget.committed.plus(ahead)).less(self._before)
        self._write(Spend(max(covered.usd, Decimal(0)), max(covered.tokens, 0)))

    def close(self, budget: Budget) -> None:
        """Write what was spent in the end; what is still reserved may be charged, and counts."""
        if self._covered != NOTHING:
            self._write(budget.committed.less(self._before))

    def _write(self, spend: Spend) -> None:
        self._storage.write_json(self._place, {"usd": str(spend.usd), "tokens": spend.tokens})
        self._covered = spend
