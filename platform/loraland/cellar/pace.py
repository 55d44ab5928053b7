"""How fast a person may ask, and how fast new people may come. Told the time; forgets the idle.

A bucket holds a sixth of a minute's requests, so that a page may send some at once. Each replica
counts by itself.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from loraland.errors import RateLimited
from loraland.serving.access.books import BURST_SHARE, Bucket

MOST_KNOWN = 50_000  # people whose bucket is kept; who was idle longest is forgotten, and may ask


class Pace:
    """Buckets by name, all of one size."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Let so many requests a minute through under each name."""
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def take(self, name: str) -> None:
        """Count one request. Raises RateLimited that says when to come again."""
        now = self._clock()
        bucket = self._buckets.pop(name, None)
        if bucket is None:
            capacity = max(1, self._per_minute // BURST_SHARE)
            bucket = Bucket(capacity, self._per_minute, capacity, now)
        self._buckets[name] = bucket
        if len(self._buckets) > MOST_KNOWN:
            self._buckets.popitem(last=False)
        if bucket.level(now) < 1 - 1e-9:
            told = RateLimited(f"{self._per_minute} requests a minute are possible; try later")
            told.retry_after_s = bucket.wait_s(1, now)
            raise told
        bucket.spend(1, now)
