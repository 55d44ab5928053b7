"""Remembers for a moment why loads failed, so that nobody tries the same again at once.

Told of versions, reasons and times; knows nothing of slots, files or clocks: `now` is the
caller's, in seconds, and never goes back.
"""

from __future__ import annotations

import math


class Refusals:
    """The loads that failed a moment ago, by version; also of versions that were forgotten."""

    def __init__(self, seconds: float) -> None:
        """Each failure is remembered for `seconds`."""
        self._seconds = seconds
        self._failed: dict[str, tuple[str, float]] = {}  # version -> reason, when

    def note(self, version: str, reason: str, now: float) -> None:
        """A load has failed. What is over by now is forgotten."""
        self._failed = {
            other: failure
            for other, failure in self._failed.items()
            if now - failure[1] < self._seconds
        }
        self._failed[version] = (reason, now)

    def clear(self, version: str) -> None:
        """A load has succeeded."""
        self._failed.pop(version, None)

    def reason(self, version: str, now: float) -> str | None:
        """Why the last load failed, as long as that is remembered."""
        reason, when = self._failed.get(version, (None, -math.inf))
        return reason if now - when < self._seconds else None
