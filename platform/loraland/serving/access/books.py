"""Counts what each key uses, and decides whether it may use more now.

Requests come from a bucket that holds ten seconds' worth. Tokens are held while an answer is made,
as many as it may become, and spent by what it became: in any span of time at most a minute's tokens
and the span's are spent, by answers that keep within what was held. A bucket begins empty, because
what was spent before these books were opened is not known. Told the time; knows no files or Ray.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

MINUTE_S, DAY_S = 60.0, 86_400
BURST_SHARE = 6  # requests that may come at once: a sixth of a minute's
_DUST = 1e-9  # what floating point may lose

Reason = Literal["requests", "tokens", "tokens_day", "concurrent", "too_large"]


class Allowance(NamedTuple):
    """What a key may use; None is no limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None  # a day in UTC
    concurrent: int | None = None  # requests under way

    @property
    def requests_burst(self) -> int:
        """Requests that may come at once; in any minute a sixth more than the limit may pass."""
        return max(1, (self.requests_per_minute or 0) // BURST_SHARE)

    @property
    def counts_requests(self) -> bool:
        """Whether a request must be counted."""
        return self.requests_per_minute is not None or self.concurrent is not None

    @property
    def counts_tokens(self) -> bool:
        """Whether tokens must be counted."""
        return self.tokens_per_minute is not None or self.tokens_per_day is not None


class Claim(NamedTuple):
    """What one request wants; asked again under the same id, it is the same claim."""

    id: str
    key: str
    requests: int  # spent at once
    tokens: int  # held until it is settled
    running: int  # 1 for a request under way, until it is settled
    lasts_s: float  # then it counts as settled with all of its tokens


class Room(NamedTuple):
    """What is left of a minute's limit."""

    limit: int
    remaining: int
    reset_s: float  # until the bucket is full, if nothing more comes


class Reply(NamedTuple):
    """The answer to a claim."""

    refused: Reason | None  # None: it may
    retry_after_s: float  # when it may come again; 0 where that is now, or never
    requests: Room | None
    tokens: Room | None
    life: str  # of these books; another one has forgotten what was held


class Limiter(Protocol):
    """Where a gateway asks whether a key may use more."""

    async def claim(self, claim: Claim, allowance: Allowance) -> Reply:
        """Hold what is claimed, or nothing of it.

        Raises LimitsUnavailable when that cannot be known.
        """
        ...

    def settle(self, claim: Claim, allowance: Allowance, tokens: int) -> None:
        """End a claim with the tokens that it took. Returns at once and never fails."""
        ...


class Bucket:
    """Refills steadily up to its capacity. May be overdrawn by what was spent unforeseen."""

    __slots__ = ("_at", "_level", "_per_s", "capacity")

    def __init__(self, capacity: int, per_minute: int, level: float, now: float) -> None:
        self.capacity, self._per_s = capacity, per_minute / MINUTE_S
        self._level, self._at = min(level, float(capacity)), now

    @classmethod
    def filling_since(cls, start: float, capacity: int, per_minute: int, now: float) -> Bucket:
        """One that was empty at `start`."""
        return cls(capacity, per_minute, (now - start) * per_minute / MINUTE_S, now)

    def level(self, now: float) -> float:
        """What is in it."""
        return min(float(self.capacity), self._level + max(0.0, now - self._at) * self._per_s)

    def spend(self, amount: int, now: float) -> None:
        """Take out of it, also more than is in it."""
        self._level, self._at = self.level(now) - amount, max(now, self._at)

    def wait_s(self, level: float, now: float) -> float:
        """Seconds until it holds `level`."""
        return max(0.0, level - self.level(now)) / self._per_s


class _Held(NamedTuple):
    tokens: int
    running: int
    until: float


class _Account:
    """One key."""

    def __init__(self, allowance: Allowance, started: float, now: float) -> None:
        a = self.allowance = allowance
        rpm, tpm = a.requests_per_minute, a.tokens_per_minute
        since = Bucket.filling_since
        self.requests = None if rpm is None else since(started, a.requests_burst, rpm, now)
        self.tokens = None if tpm is None else since(started, tpm, tpm, now)
        self.held: dict[str, _Held] = {}
        self.next_expiry = math.inf
        self.day, self.spent_today, self.promised = -1, 0, 0

    @property
    def held_tokens(self) -> int:
        return sum(held.tokens for held in self.held.values())

    def at(self, now: float, day: int) -> None:
        """Turn to this moment: a new day, claims that nobody settled."""
        if day > self.day:
            self.day, self.spent_today, self.promised = day, 0, 0
        if now < self.next_expiry:
            return
        for claim_id in [c for c, held in self.held.items() if held.until <= now]:
            self.spend(self.held.pop(claim_id).tokens, now)
        self.next_expiry = min((held.until for held in self.held.values()), default=math.inf)

    def hold(self, claim: Claim, now: float) -> None:
        if self.requests is not None and claim.requests:
            self.requests.spend(claim.requests, now)
        until = now + claim.lasts_s
        self.held[claim.id] = _Held(claim.tokens, claim.running, until)
        self.next_expiry = min(self.next_expiry, until)

    def spend(self, tokens: int, now: float) -> None:
        if self.tokens is not None:
            self.tokens.spend(tokens, now)
        self.spent_today += tokens

    def refusal(
        self, claim: Claim, now: float, rest_of_day_s: float
    ) -> tuple[Reason, float] | None:
        """Why a claim may not be, and when it may; None when it may."""
        a = self.allowance
        if claim.tokens > min(a.tokens_per_minute or math.inf, a.tokens_per_day or math.inf):
            return "too_large", 0.0
        running = sum(held.running for held in self.held.values())
        if a.concurrent is not None and claim.running and running >= a.concurrent:
            return "concurrent", 1.0
        if self.requests is not None and self.requests.level(now) < claim.requests - _DUST:
            return "requests", self.requests.wait_s(claim.requests, now)
        wanted = self.held_tokens + claim.tokens
        if a.tokens_per_day is not None and claim.tokens:
            if self.spent_today + claim.tokens > a.tokens_per_day:
                return "tokens_day", rest_of_day_s
            if self.spent_today + wanted > a.tokens_per_day:
                return "tokens_day", 1.0  # answers under way may leave some of what they hold
        if self.tokens is not None and claim.tokens and self.tokens.level(now) < wanted - _DUST:
            full = wanted > self.tokens.capacity
            return "tokens", 1.0 if full else self.tokens.wait_s(wanted, now)
        return None

    def rooms(self, now: float) -> tuple[Room | None, Room | None]:
        return (
            _room(self.requests, self.allowance.requests_per_minute, 0, now),
            _room(self.tokens, self.allowance.tokens_per_minute, self.held_tokens, now),
        )


def _room(bucket: Bucket | None, limit: int | None, held: int, now: float) -> Room | None:
    if bucket is None or limit is None:
        return None
    left = max(0, math.floor(bucket.level(now) - held + _DUST))
    return Room(limit, left, bucket.wait_s(bucket.capacity, now))


class Books:
    """All keys of one place that counts."""

    def __init__(self, clock: Callable[[], float], wall: Callable[[], float]) -> None:
        """`clock` gives seconds that never go back, `wall` seconds since 1970 in UTC."""
        self._clock, self._wall = clock, wall
        self._started = clock()
        self._accounts: dict[str, _Account] = {}
        self.life = uuid.uuid4().hex

    def claim(self, claim: Claim, allowance: Allowance) -> Reply:
        """Hold what is claimed, or nothing of it."""
        account, now = self._account(claim.key, allowance)
        refusal = None
        if claim.id not in account.held:
            refusal = account.refusal(claim, now, self._rest_of_day_s())
            if refusal is None:
                account.hold(claim, now)
        reason, retry_after_s = refusal or (None, 0.0)
        return Reply(reason, retry_after_s, *account.rooms(now), self.life)

    def settle(self, claim: Claim, allowance: Allowance, tokens: int, life: str) -> None:
        """End a claim of the books named `life` with the tokens that it really took.

        One that is not held any more was counted whole; one of other books is counted now.
        """
        account, now = self._account(claim.key, allowance)
        if account.held.pop(claim.id, None) is not None or life != self.life:
            account.spend(tokens, now)

    def restore(self, claim: Claim, allowance: Allowance) -> None:
        """Hold again, without asking, what other books have admitted."""
        account, now = self._account(claim.key, allowance)
        if claim.id not in account.held:
            account.hold(claim._replace(requests=0), now)

    def has_day(self, key: str) -> bool:
        """Whether it is known what a key spent today."""
        account = self._accounts.get(key)
        return account is not None and account.day >= self.today and account.promised > 0

    def begin_day(self, key: str, allowance: Allowance, spent: int) -> None:
        """Count `spent` tokens as spent today, because they may have been."""
        account, _ = self._account(key, allowance)
        account.spent_today += spent
        account.promised = max(account.promised, spent)

    def missing_promise(self, key: str, allowance: Allowance) -> int | None:
        """What should be written down as spent today before more is given out; None: enough is.

        A hundredth of the quota more than needed, so that it is written seldom.
        """
        account, _ = self._account(key, allowance)
        needed = account.spent_today + account.held_tokens
        if allowance.tokens_per_day is None or needed <= account.promised:
            return None
        ahead = needed + max(1, allowance.tokens_per_day // 100)
        return max(needed, min(ahead, allowance.tokens_per_day))

    def promised(self, key: str, tokens: int) -> None:
        """So many are written down as spent today."""
        self._accounts[key].promised = tokens

    @property
    def today(self) -> int:
        """Days since 1970, in UTC."""
        return int(self._wall() // DAY_S)

    def _rest_of_day_s(self) -> float:
        return DAY_S - self._wall() % DAY_S

    def _account(self, key: str, allowance: Allowance) -> tuple[_Account, float]:
        now = self._clock()
        account = self._accounts.get(key)
        if account is None:
            account = self._accounts[key] = _Account(allowance, self._started, now)
        account.at(now, self.today)
        return account, now
