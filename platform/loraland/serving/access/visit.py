"""What is known of the request under way: who asks, for what, what came of it.

`gate` begins one and writes it down at the end; everything in between finds it in its context.
Holds no prompt, no answer and no secret.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from loraland.serving.access.books import Reply
from loraland.serving.access.permission import Caller

REQUEST_ID = "x-request-id"
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TRACE = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Visit:
    """One request."""

    request_id: str  # the client's, if well-formed
    trace_id: str | None  # of the client's `traceparent`
    method: str
    began: float = field(default_factory=time.monotonic)
    caller: Caller | None = None  # None: nobody yet, or the route is open
    asked: list[str] = field(default_factory=list)  # model names
    answered: list[str] = field(default_factory=list)  # the versions that they stood for
    prompt_tokens: int = 0
    generated_tokens: int = 0
    first_token: float | None = None  # when the first text came; the clock of `began`
    status: int | None = None  # None: no answer was begun
    error: str | None = None  # the code of an error, also of one inside a stream
    left: bool = False  # the client went before its answer was complete
    reply: Reply | None = None  # what is left of the key's limits

    @classmethod
    def of(cls, method: str, headers: Mapping[str, str]) -> Visit:
        """A request that has just come."""
        given = headers.get(REQUEST_ID, "")
        trace = _TRACE.fullmatch(headers.get("traceparent", ""))
        return cls(
            request_id=given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex,
            trace_id=trace[1] if trace else None,
            method=method,
        )


_CURRENT: ContextVar[Visit | None] = ContextVar("loraland_visit", default=None)
enter, leave = _CURRENT.set, _CURRENT.reset


def current_visit() -> Visit | None:
    """The request that is being answered here, None outside of any."""
    return _CURRENT.get()


def current_id() -> str:
    """Its id, for lines in a log; '-' outside of any."""
    visit = _CURRENT.get()
    return "-" if visit is None else visit.request_id


def require_admin() -> None:
    """For a route that only an admin may use, such as a dependency of FastAPI.

    Raises AdminKeyRequired. Outside of any request it lets pass.
    """
    visit = _CURRENT.get()
    if visit is not None:
        (visit.caller or Caller(None)).require_admin()
