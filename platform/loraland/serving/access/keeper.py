"""The books of all gateways, and what must outlive them: the tokens spent today.

Before more of a day's quota is given out than is written down, a little more than that is written
down; books that are opened again take it for spent. So a quota is never exceeded, and a death costs
a key a hundredth of it at most, beside what was under way. Knows storage, not Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from loraland.errors import StorageUnavailable
from loraland.serving.access.books import Allowance, Books, Claim, Reply
from loraland.storage import Storage

QUOTAS = "access/quotas"  # KEY.json: {"day": days since 1970, "tokens": at most spent in it}


class Keeper:
    """Books with a memory; one for each storage."""

    def __init__(
        self,
        storage: Storage,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Remember in `storage` what was spent of a day's quota."""
        self._storage, self._books = storage, Books(clock, wall)
        self._writing: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)  # by key

    async def claim(self, claim: Claim, allowance: Allowance) -> Reply:
        """See `Books.claim`. Raises StorageUnavailable, and then nothing is held."""
        by_day = bool(allowance.tokens_per_day and claim.tokens)
        try:
            if by_day:
                await self._open_day(claim.key, allowance)
            reply = self._books.claim(claim, allowance)
            if by_day and reply.refused is None:
                await self._promise(claim.key, allowance)
            return reply
        except OSError as error:
            self._books.settle(claim, allowance, 0, self._books.life)
            raise StorageUnavailable(f"quotas cannot be kept: {error}") from error

    async def settle(self, claim: Claim, allowance: Allowance, tokens: int, life: str) -> None:
        """See `Books.settle`."""
        if not (allowance.tokens_per_day and claim.tokens):
            self._books.settle(claim, allowance, tokens, life)
            return
        try:
            await self._open_day(claim.key, allowance)
        finally:
            self._books.settle(claim, allowance, tokens, life)
        await self._promise(claim.key, allowance)

    async def restore(self, claims: Sequence[tuple[Claim, Allowance]]) -> None:
        """See `Books.restore`."""
        for claim, allowance in claims:
            self._books.restore(claim, allowance)

    async def _open_day(self, key: str, allowance: Allowance) -> None:
        async with self._writing[key]:
            if self._books.has_day(key):
                return
            spent = await asyncio.to_thread(self._written, key)
            self._books.begin_day(key, allowance, spent)

    async def _promise(self, key: str, allowance: Allowance) -> None:
        async with self._writing[key]:  # in order, so that a smaller number never comes last
            tokens = self._books.missing_promise(key, allowance)
            if tokens is None:
                return
            promise = {"day": self._books.today, "tokens": tokens}
            await asyncio.to_thread(self._storage.write_json, _path(key), promise)
            self._books.promised(key, tokens)

    def _written(self, key: str) -> int:
        try:
            found = self._storage.read_json(_path(key))
            day, tokens = int(found["day"]), int(found["tokens"])
        except FileNotFoundError:
            return 0
        except (ValueError, TypeError, KeyError) as error:
            raise OSError(f"{self._storage.describe(_path(key))} is damaged; delete it") from error
        return tokens if day >= self._books.today else 0


def _path(key: str) -> str:
    return f"{QUOTAS}/{key}.json"
