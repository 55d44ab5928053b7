"""What came of one request, and of the client that sent them all. Times in seconds of one clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# What a client finds out by itself; a server's own errors are "<status> <code>".
NOT_SENT = "not_sent"  # too many were under way: the client's limit, not the server's
TIMEOUT = "timeout"
UNREACHABLE = "unreachable"  # no connection
DISCONNECTED = "disconnected"  # in the middle of an answer
GARBLED = "garbled"  # an answer that is none
WRONG_MODEL = "wrong_model"  # another model answered than was asked


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request that ended, however."""

    number: int
    model: str  # as asked
    due_s: float  # when it was to be sent
    sent_s: float  # when the client came to it
    end_s: float
    first_s: float | None = None  # the first event with text, or the end of an empty answer
    pauses_ms: tuple[float, ...] = ()  # between two events with text
    prompt_tokens: int = 0  # as the server counted
    generated_tokens: int = 0
    asked_tokens: int = 0  # the longest answer that was allowed
    served: str | None = None  # the model that the answer names
    tier: str | None = None  # where the adapter was at submission; None: the server does not say
    error: str | None = None  # None: answered

    @property
    def hit(self) -> bool | None:
        """Whether the adapter was on the device already; None when that is not known."""
        return None if self.tier is None else self.tier == "device"


class ClientLoad(NamedTuple):
    """How busy the client itself was during a run."""

    cpu_share: float  # of one core
    late_ms: tuple[float, ...] = ()  # how late its timers fired, a hundred times a second


@dataclass(slots=True)
class Run:
    """Everything that came of one schedule."""

    outcomes: list[Outcome] = field(default_factory=list)
    client: ClientLoad = field(default_factory=lambda: ClientLoad(0.0))
    unfinished: int = 0  # requests that an interruption cut off
    interrupted: bool = False
