"""The desk of an engine: requests come in, their tickets lie here while under way, and are counted.

What every engine does alike around its model, with the one thread that all work on the model goes
through. Knows no model, no adapters and no order of service; lives on one event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from loraland.engine.protocol import Request, Stats
from loraland.engine.sampling import Choice
from loraland.engine.tickets import Ticket, check_request
from loraland.errors import EngineBusy, EngineFailed, EngineStopped, InvalidRequest

R = TypeVar("R")
T = TypeVar("T", bound=Ticket)


@dataclass(slots=True)
class Counts:
    """The counters of `Stats` that only grow; see there."""

    requests: int = 0
    finished: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    reused_tokens: int = 0
    passes: int = 0
    pass_tokens: int = 0
    failed_passes: int = 0
    hits: int = 0
    misses: int = 0
    hit_ttft_ms: float = 0.0
    miss_ttft_ms: float = 0.0

    def note_first_token(self, ticket: Ticket, *, hit: bool) -> None:
        """A first token has come; `hit` says whether its adapter was in place at submission."""
        assert ticket.first_token is not None
        ms = (ticket.first_token - ticket.submitted) * 1000
        if hit:
            self.hits += 1
            self.hit_ttft_ms += ms
        else:
            self.misses += 1
            self.miss_ttft_ms += ms

    def stats(self, **now: Any) -> Stats:
        """All of `Stats`: what only grows, and what the engine tells of this moment."""
        return Stats(**asdict(self), **now)


class Desk(Generic[T]):
    """The requests of one engine that are under way."""

    def __init__(self, context_tokens: int, vocabulary: int) -> None:
        """For an engine that takes token ids below `vocabulary`, `context_tokens` in all."""
        self._context_tokens, self._vocabulary = context_tokens, vocabulary
        self._tickets: dict[str, T] = {}  # by request id
        self.counts = Counts()
        self.closed = False

    def __len__(self) -> int:
        return len(self._tickets)

    def __iter__(self) -> Iterator[T]:
        """The tickets of now, in order of submission; they may be dropped meanwhile."""
        return iter(list(self._tickets.values()))

    def check_open(self) -> None:
        """Raises EngineStopped once the engine was closed."""
        if self.closed:
            raise EngineStopped("the engine was closed; make a new one, or ask another replica")

    def check(self, request: Request) -> None:
        """Raises EngineStopped, InvalidRequest or ContextTooLong for what cannot be taken in."""
        self.check_open()
        if request.id in self._tickets:
            raise InvalidRequest(
                f"a request with id '{request.id}' is under way; ids must be unique"
            )
        check_request(request, self._context_tokens, self._vocabulary)

    def add(self, ticket: T) -> None:
        """Take in the ticket of a checked request."""
        self._tickets[ticket.request.id] = ticket
        self.counts.requests += 1

    def find(self, request_id: str) -> T | None:
        """The ticket of a request that is under way."""
        return self._tickets.get(request_id)

    def ticket(self, request_id: str) -> T:
        """The same of one that must be under way."""
        return self._tickets[request_id]

    def deliver(self, ticket: Ticket, choice: Choice | EngineFailed) -> int | None:
        """Send what a step gave. The token when the row goes on, None when it ended."""
        self.counts.generated_tokens += not (ticket.ended or isinstance(choice, EngineFailed))
        return ticket.take(choice)

    def drop(self, ticket: Ticket) -> bool:
        """Forget a request that has ended. False when that was done before."""
        if self._tickets.get(ticket.request.id) is not ticket:
            return False
        del self._tickets[ticket.request.id]
        self.counts.finished += 1
        return True

    def close(self) -> None:
        """Take in nothing more, and end all that is under way."""
        self.closed = True
        for ticket in self:
            ticket.end(EngineStopped("the engine was closed; ask another replica, or retry"))


class Worker:
    """The one thread in which an engine touches its model, one call at a time."""

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)

    async def do(self, call: Callable[..., R], *args: Any) -> R:
        """Call it in the thread, after what was asked for before. Raises what it raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def close(self) -> None:
        """End the thread once its work is done."""
        self._thread.shutdown(wait=True)


def busy(waiting: int) -> EngineBusy:
    """The error for a request that finds the queue full."""
    return EngineBusy(f"busy: {waiting} requests are waiting already; retry after a second")


def failed(work: str, error: Exception) -> EngineFailed:
    """The error that requests get when work on the model has failed."""
    return EngineFailed(f"{work} of the model failed: {type(error).__name__}: {error}")


def cut_off() -> EngineStopped:
    """The error for requests that are left over when a loop ends."""
    return EngineStopped("the engine stopped during the request; retry")
