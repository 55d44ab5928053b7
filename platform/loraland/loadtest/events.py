"""Reads the server-sent events of a completion, from bytes as they come. Pure, and bounded.

Told chunks of any size; gives what a measurement needs of each event. What is no such stream raises
EndpointGarbled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from loraland.errors import EndpointGarbled

MOST_LINE_BYTES = 1 << 20  # of one event; those of a token have some hundred
_CODE = re.compile(r"[A-Za-z0-9_.-]{1,60}")


class Told(NamedTuple):
    """One event of a stream."""

    text: bool = False  # whether the answer grew
    reason: str | None = None  # why it ended
    model: str | None = None
    usage: tuple[int, int] | None = None  # tokens of prompt and answer
    error: str | None = None  # the code of an error
    done: bool = False  # the last event, [DONE]


class EventReader:
    """Turns the bytes of one response into events."""

    def __init__(self) -> None:
        self._rest = b""

    def push(self, chunk: bytes) -> Iterator[Told]:
        """The events that are whole now. Raises EndpointGarbled."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield told(line[5:].strip())
        if len(self._rest) > MOST_LINE_BYTES:
            raise EndpointGarbled(f"an event is longer than {MOST_LINE_BYTES} bytes")


def told(data: bytes) -> Told:
    """What one event says. Raises EndpointGarbled."""
    if data == b"[DONE]":
        return Told(done=True)
    try:
        event = json.loads(data)
        if "error" in event:
            return Told(error=code_of(event))
        choices, usage = event["choices"], event.get("usage")
        text, reason = False, None
        for choice in choices:
            text = text or bool(choice.get("text"))
            reason = choice.get("finish_reason") or reason
        return Told(text, reason, event.get("model"), usage and _counts(usage))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EndpointGarbled(
            f"an event is no piece of a completion ({type(error).__name__})"
        ) from error


def _counts(usage: Any) -> tuple[int, int]:
    prompt, answer = usage["prompt_tokens"], usage["completion_tokens"]
    if type(prompt) is not int or type(answer) is not int or min(prompt, answer) < 0:
        raise ValueError("counts of tokens are whole numbers")
    return prompt, answer


def code_of(body: Any) -> str:
    """The stable code in an error of OpenAI's shape; its type, or "error", where it has none."""
    error = body.get("error") if isinstance(body, dict) else None
    if isinstance(error, dict):
        for name in ("code", "type"):
            if isinstance(code := error.get(name), str) and _CODE.fullmatch(code):
                return code
    return "error"
