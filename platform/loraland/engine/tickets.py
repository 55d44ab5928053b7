"""A request on its way through an engine: its choices, its times, and the stream of its events.

What every engine does alike. Knows no model and no scheduling; all of it lives on one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from loraland.engine import sampling
from loraland.engine.protocol import Event, Finished, Request, Token
from loraland.engine.sampling import Choice, Chooser
from loraland.errors import ContextTooLong, EngineFailed, InvalidRequest, LoraLandError


def check_request(request: Request, context_tokens: int, vocabulary: int) -> None:
    """Raises InvalidRequest or ContextTooLong for what no engine over this base can answer."""
    sampling.check(request.sampling)
    prompt, wanted = len(request.prompt_ids), request.sampling.max_new_tokens
    if prompt == 0:
        raise InvalidRequest("the prompt has no tokens; give at least one")
    if prompt + wanted > context_tokens:
        raise ContextTooLong(
            f"the prompt has {prompt} tokens and the answer may have {wanted}, together more "
            f"than the {context_tokens} of this base; shorten the prompt, "
            "or ask for fewer tokens"
        )
    if not all(0 <= token < vocabulary for token in request.prompt_ids):
        raise InvalidRequest(f"prompt token ids must be from 0 to {vocabulary - 1}")


@dataclass(slots=True, eq=False)
class Ticket:
    """What an engine keeps of a request until its last event."""

    request: Request
    chooser: Chooser
    events: asyncio.Queue[Event | LoraLandError] = field(default_factory=asyncio.Queue)
    submitted: float = field(default_factory=time.perf_counter)
    started: float | None = None  # of its first step
    first_token: float | None = None
    sent: int = 0  # tokens given to the caller
    computed: int = 0  # tokens the model chose, a stop token included
    cancelled: bool = False
    ended: bool = False

    @classmethod
    def of(cls, request: Request) -> Ticket:
        """The ticket of a checked request, submitted now."""
        return cls(request, Chooser.of(request))

    def start(self) -> None:
        """Note that its first step begins."""
        if self.started is None:
            self.started = time.perf_counter()

    def take(self, choice: Choice | EngineFailed) -> int | None:
        """Send what a step gave. The token when the row goes on, None when it ended."""
        if self.ended:
            return None
        if isinstance(choice, EngineFailed):
            self.end(choice)
            return None
        wishes = self.request.sampling
        token = Token(choice.token_id, self.sent, choice.logprob, choice.top_logprobs)
        stop: Token | None = None
        self.computed += 1
        if self.cancelled:
            reason = "cancelled"
        elif choice.token_id in wishes.stop_token_ids:
            reason, stop = "stop", token
        else:
            self.first_token = self.first_token or time.perf_counter()
            self.events.put_nowait(token)
            self.sent += 1
            if self.sent < wishes.max_new_tokens:
                return choice.token_id
            reason = "length"
        self.finish(reason, stop)
        return None

    def finish(self, reason: str, stop: Token | None = None) -> None:
        """End it with its last event, once; `stop` is the stop token that ended it."""
        now = time.perf_counter()
        started = now if self.started is None else self.started
        first = now if self.first_token is None else self.first_token
        self.end(
            Finished(
                reason=reason,
                prompt_tokens=len(self.request.prompt_ids),
                generated_tokens=self.computed,
                queue_ms=(started - self.submitted) * 1000,
                first_token_ms=(first - self.submitted) * 1000,
                total_ms=(now - self.submitted) * 1000,
                stop=stop,
            )
        )

    def end(self, last: Finished | LoraLandError) -> None:
        """End it with its last event or an error, once."""
        if not self.ended:
            self.ended = True
            self.events.put_nowait(last)


class Stream:
    """The events of one request. Closing it, or letting go of it, cancels the request."""

    def __init__(self, ticket: Ticket, cancel: Callable[[Ticket], None]) -> None:
        """`cancel` is called on the running loop."""
        self._ticket, self._cancel = ticket, cancel
        self._loop = asyncio.get_running_loop()
        self._exhausted = False

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        if self._exhausted:
            raise StopAsyncIteration
        event = await self._ticket.events.get()
        self._exhausted = not isinstance(event, Token)
        if isinstance(event, LoraLandError):
            raise event
        return event

    async def aclose(self) -> None:
        """Cancel the request if it is under way, and give no more events."""
        self._exhausted = True
        self._cancel(self._ticket)

    def __del__(self) -> None:
        # May run in any thread, and after the loop: only a running loop has anything to cancel.
        if not self._ticket.ended and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel, self._ticket)
