"""Who stays in an engine: adapters that Serve gave a seat, and those that are pinned.

Serve's cache of models knows no pins and takes seats by age; here a pinned adapter outlives that.
Told what Serve and admins do; knows neither.
"""

from __future__ import annotations

from typing import Any

from loraland.errors import InvalidRequest, UnknownModel


class Seats:
    """The adapters of one engine. Lives on its event loop."""

    def __init__(self, engine: Any) -> None:
        """Keep adapters of `engine` (any `Engine`; pins need one with `pin`)."""
        self._engine = engine
        self._seated: set[str] = set()
        self._pinned: set[str] = set()

    @property
    def pinned(self) -> frozenset[str]:
        """The versions that are pinned here."""
        return frozenset(self._pinned)

    def take(self, version: str) -> None:
        """Serve gave it a seat."""
        self._seated.add(version)

    async def leave(self, version: str) -> None:
        """Serve took its seat; without a pin it leaves the engine after its last answer."""
        self._seated.discard(version)
        if version not in self._pinned:
            await self._engine.unload(version)

    def pin(self, version: str) -> None:
        """Keep one that the engine holds. Raises UnknownModel, InvalidRequest."""
        self._set(version, True)
        self._pinned.add(version)

    async def unpin(self, version: str) -> None:
        """Let it go like any other. One that is not pinned, or not held, is fine."""
        self._pinned.discard(version)
        try:
            self._set(version, False)
        except UnknownModel:
            return
        if version not in self._seated:
            await self._engine.unload(version)

    async def unload(self, version: str) -> None:
        """Out of the engine after its last answer, pinned or not; the next request loads it."""
        self._pinned.discard(version)
        await self._engine.unload(version)

    def _set(self, version: str, pinned: bool) -> None:
        if not hasattr(self._engine, "pin"):
            raise InvalidRequest(
                "the reference engine has no slots to pin adapters in; serve with engine=batched"
            )
        self._engine.pin(version, pinned)
