"""The contract of an engine: token ids in, token ids out.

An engine knows no tokenizer, no HTTP and no Ray. It holds one base and any adapters loaded into it.
Two implementations stand behind this protocol: `reference` (plain, the oracle) and `batched`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy."""

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # in (0, 1]
    top_k: int = 0  # 0 is off
    seed: int | None = None  # None: drawn anew; a seed makes the answer repeatable
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)  # generation ends on these


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one model."""

    id: str
    prompt_ids: tuple[int, ...]
    adapter: str | None = None  # a version loaded with `load`; None is the base
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. Stop tokens are not sent."""

    id: int
    index: int  # 0 for the first token of the answer


class Finished(NamedTuple):
    """The last event of every request."""

    reason: str  # "stop", "length" or "cancelled"
    prompt_tokens: int
    generated_tokens: int  # tokens the model computed, a stop token included
    queue_ms: float  # from submission to the start of the first step
    first_token_ms: float  # from submission to the first token; equals total_ms when none came
    total_ms: float


Event = Token | Finished


class Resident(NamedTuple):
    """One adapter that the engine holds."""

    version: str
    leases: int  # requests under way
    size_bytes: int


class Stats(NamedTuple):
    """Counters since the engine was made."""

    requests: int
    finished: int
    prompt_tokens: int
    generated_tokens: int
    waiting: int  # now
    running: int  # now


class Engine(Protocol):
    """What serving and judging need of an engine. All methods are called on one event loop."""

    context_tokens: int  # prompt and answer together fit within this

    async def load(self, version: str, folder: Path) -> None:
        """Make an adapter (a PEFT folder) usable under `version`.

        Loading what is loaded changes nothing. A failed load leaves the engine as it was and raises
        AdapterRejected. Requests under way go on meanwhile.
        """
        ...

    async def unload(self, version: str) -> None:
        """Let an adapter go when its last lease ends. New requests for it are refused at once."""
        ...

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """Queue a request and return its events: tokens in order, then one Finished.

        The request holds a lease on its adapter from this call to its last event. Raises
        UnknownModel when the adapter is not loaded, ContextTooLong, InvalidRequest, EngineBusy,
        EngineStopped: all before anything is queued. Closing the iterator cancels the request.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request; its last event is Finished("cancelled"). Unknown ids are ignored."""
        ...

    def residency(self) -> list[Resident]:
        """The adapters held now, in order of loading."""
        ...

    def stats(self) -> Stats:
        """Counters since the engine was made."""
        ...

    async def close(self) -> None:
        """Stop the engine; requests under way end with EngineStopped."""
        ...
