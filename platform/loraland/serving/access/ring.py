"""Which key a client has shown: asks storage seldom, and believes nothing for long.

One listing every two seconds says which keys hold, so that guessed ids read nothing; a record never
changes and is read once. While storage cannot be reached, the last listing stands for a minute.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from loraland.errors import InvalidKey, LoraLandError, StorageUnavailable
from loraland.serving.access.keys import KeyRecord, Presented, is_genuine, read_key
from loraland.serving.access.permission import Caller
from loraland.serving.access.store import KeyStore

logger = logging.getLogger(__name__)

BELIEVED_S = 2.0  # until a new or revoked key is seen
STALE_S = 60.0  # that a listing stands while there is no newer one

# One text whatever is wrong, so that it tells nothing about keys.
REFUSED = (
    "no valid API key; send `Authorization: Bearer KEY`. "
    "Whoever runs this server makes one with `loraland keys create NAME`"
)


class KeyRing:
    """The keys that hold, as a gateway knows them."""

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.monotonic) -> None:
        """Look keys up in `store`."""
        self._store, self._clock = store, clock
        self._ids: frozenset[str] = frozenset()
        self._listed_at: float | None = None
        self._records: dict[str, KeyRecord] = {}
        self._listing = asyncio.Lock()

    async def caller(self, text: str | None) -> Caller:
        """Who shows this key. Raises InvalidKey, StorageUnavailable."""
        presented = read_key(text) if text else None
        if presented is None:
            raise InvalidKey(REFUSED)
        record = await self._record(presented)
        if not is_genuine(presented, record) or record is None:
            raise InvalidKey(REFUSED)
        if record.has_expired():
            raise InvalidKey(f"key {record.id} expired at {record.expires}; ask for a new one")
        return Caller(record.id, record.models, record.admin, record.allowance)

    async def _record(self, presented: Presented) -> KeyRecord | None:
        await self._list()
        if presented.id not in self._ids:
            return None
        if presented.id not in self._records:
            try:
                record = await asyncio.to_thread(self._store.read, presented.id)
            except FileNotFoundError:
                return None  # revoked since it was listed
            except LoraLandError as error:
                logger.error("a key cannot be used: %s", error.message)
                return None
            except OSError as error:
                raise _unreachable(error) from error
            self._records[presented.id] = record
        return self._records[presented.id]

    async def _list(self) -> None:
        async with self._listing:
            now = self._clock()
            if self._listed_at is not None and now < self._listed_at + BELIEVED_S:
                return
            try:
                self._ids = await asyncio.to_thread(self._store.ids)
            except OSError as error:
                if self._listed_at is None or now >= self._listed_at + STALE_S:
                    raise _unreachable(error) from error
                logger.warning("keys cannot be listed, the last listing stands: %s", error)
                return
            self._listed_at = now
            self._records = {i: r for i, r in self._records.items() if i in self._ids}


def _unreachable(error: OSError) -> StorageUnavailable:
    logger.error("keys cannot be read: %s", error)
    return StorageUnavailable("keys cannot be checked now, the storage does not answer; retry")
