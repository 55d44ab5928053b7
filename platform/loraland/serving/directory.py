"""From the names that clients write to the versions that answer them, with a short memory.

Knows which bases this application serves and what the registry holds; knows no HTTP and no
replicas. Reading storage blocks, so it happens in threads; what was read is believed for a while.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Entry, Registry
from loraland.errors import AdapterRejected, LoraLandError, UnknownModel, did_you_mean

logger = logging.getLogger(__name__)
T = TypeVar("T")


class ShortMemory(Generic[T]):
    """Answers to a slow question by key: asked once at a time, believed for a while."""

    def __init__(
        self,
        ask: Callable[[str], Awaitable[T]],
        believed_s: float,
        failed_s: float | None = None,
        most: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember at most `most` answers of `ask`, each for `believed_s` seconds after it came.

        Failures are believed for `failed_s`, by default as long.
        """
        self._ask, self._most, self._clock = ask, most, clock
        self._believed_s = believed_s
        self._failed_s = believed_s if failed_s is None else failed_s
        self._asked: dict[str, asyncio.Task[T]] = {}
        self._until: dict[str, float] = {}

    async def get(self, key: str) -> T:
        """The answer to a key. Raises what `ask` raised."""
        if key in self._until and self._clock() >= self._until[key]:
            self.forget(key)
        if key not in self._asked:
            if len(self._asked) >= self._most:
                for old in list(self._until):  # only what is answered; the rest is being awaited
                    self.forget(old)
            self._asked[key] = asyncio.create_task(self._remember(key))
        try:
            return await asyncio.shield(self._asked[key])
        except LoraLandError as error:
            # A copy, because one exception raised by many tasks collects all their tracebacks.
            raise type(error)(error.message) from None

    async def _remember(self, key: str) -> T:
        believed_s = self._failed_s
        try:
            answer = await self._ask(key)
            believed_s = self._believed_s
            return answer
        finally:
            self._until[key] = self._clock() + believed_s

    def forget(self, key: str) -> None:
        """Ask anew the next time."""
        self._until.pop(key, None)
        self._asked.pop(key, None)

    def clear(self) -> None:
        """Forget everything, also what is being asked; those who wait for that still get it."""
        self._until.clear()
        self._asked.clear()


class Directory:
    """The models of one application."""

    def __init__(self, registry: Registry, bases: Sequence[str], cache_s: float = 1.0) -> None:
        """Look adapters of `bases` up in `registry`."""
        self._registry, self._bases, self.cache_s = registry, tuple(bases), cache_s
        self._names = ShortMemory(self._resolve, cache_s)
        self._lists = ShortMemory(self._list, cache_s)

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases served, in the order of the configuration."""
        return self._bases

    async def resolve(self, name: str) -> ModelName:
        """The base, or the adapter with its version, that a name stands for.

        Raises InvalidName, UnknownModel naming the nearest, AdapterRejected when the adapter is for
        a base that is not served here.
        """
        return await self._names.get(name)

    def forget(self) -> None:
        """Look at the registry anew, after a change that was made here."""
        self._names.clear()
        self._lists.clear()

    async def entries(self) -> list[Entry]:
        """Every version of every adapter of the bases served here."""
        return await self._lists.get("")

    async def _resolve(self, text: str) -> ModelName:
        name = ModelName.parse(text)
        if name.task is None and name.base in self._bases:
            return name
        found = await asyncio.to_thread(self._registry.find, name)
        if found is None:
            raise UnknownModel(f"no model is called '{text}'; {await self._nearest(name)}")
        if found.base not in self._bases:
            raise AdapterRejected(
                f"adapter '{found}' is for base '{found.base}', which this application does not "
                f"serve; it serves {', '.join(self._bases)}. Add the base to its configuration"
            )
        return found

    async def _nearest(self, name: ModelName) -> str:
        entries = await self.entries()  # one listing for all the names that are asked in a while
        same = [e for e in entries if e.name.adapter == name.adapter]
        if same:  # the adapter is there, its version or alias is not
            names = [str(e.name) for e in same]
            names += [f"{e.name.adapter}:{alias}" for e in same for alias in e.aliases]
        else:
            names = [*self._bases, *(e.name.adapter for e in entries)]
        return did_you_mean(str(name), names) + " GET /v1/models lists all"

    async def _list(self, _: str) -> list[Entry]:
        def warn(error: LoraLandError) -> None:
            logger.warning("left out of the list: %s", error.message)

        listed: list[Entry] = await asyncio.to_thread(self._registry.list, on_corrupt=warn)
        return [entry for entry in listed if entry.name.base in self._bases]


class ServedModel(BaseModel):
    """A base, or one version of an adapter, as /v1/models shows it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"] = "model"
    created: int  # seconds since 1970; 0 for a base
    owned_by: str
    root: str  # the base
    parent: str | None = None  # of an adapter: the base
    task: str | None = None
    version: str | None = None
    aliases: list[str] | None = None
    scores: list[dict[str, Any]] | None = None  # as on the adapter's card


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


def describe_base(name: str) -> dict[str, Any]:
    """A base as /v1/models shows it."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "loraland", "root": name}


def describe_adapter(entry: Entry) -> dict[str, Any]:
    """One version of an adapter as /v1/models shows it."""
    card = entry.card
    return {
        "id": str(entry.name),
        "object": "model",
        "created": created_seconds(card.created),
        "owned_by": "loraland",
        "root": card.base,
        "parent": card.base,
        "task": card.task,
        "version": card.version,
        "aliases": list(entry.aliases),
        "scores": [score.model_dump(mode="json") for score in card.scores],
    }


def created_seconds(moment: str) -> int:
    """An ISO 8601 moment as seconds since 1970."""
    return int(datetime.fromisoformat(moment).timestamp())
