"""What an endpoint sent back means: an answer, a trouble of the item, of the moment, or of it all.

Told statuses, headers and bytes, all from outside and trusted in nothing; sends and waits for
nothing itself.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraland.adapters.strict_json import parse_object
from loraland.errors import (
    ContextTooLong,
    EndpointGarbled,
    EndpointRefused,
    EndpointUnavailable,
    InvalidRequest,
    LoraLandError,
)
from loraland.evaluation.endpoint_budget import Usage

MOST_BYTES = 4 << 20  # of one reply; the longest answer that we ask for has some 10,000
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # between attempts
LONGEST_WAIT_S = 300.0  # that a server may ask for; for longer, start the command again later
AGAIN = (408, 409, 425, 429)  # and all from 500 on
OF_THE_PROMPT = (400, 413, 422)
NO_QUOTA = ("insufficient_quota", "billing_hard_limit_reached")  # a 429 that does not pass
TOO_LONG = ("context_length_exceeded", "string_above_max_length")
FILTERED = ("content_filter", "content_policy_violation", "invalid_prompt")
# For servers that give no code of their own, such as vLLM and llama.cpp.
_SAYS_TOO_LONG = re.compile(r"context (length|window|size)|too many tokens|too long", re.I)
_SAYS_FILTERED = re.compile(r"content (management )?(filter|policy)|safety system", re.I)

# again: of the moment. item: would come again for this prompt. doubt: of the prompt, or of the form
# that all requests have. stop: would come for every prompt.
Verdict = Literal["again", "item", "doubt", "stop"]
Clean = Callable[[str], str]


class Reply(NamedTuple):
    """An answer as it came."""

    text: str  # as the model wrote it, white space and all
    finish_reason: str
    refusal: str | None  # why there is no answer, in the model's or the endpoint's words
    model: str | None  # that the endpoint says it came from
    system_fingerprint: str | None
    created: int | None  # seconds since 1970 by the endpoint's clock
    usage: Usage | None


class Trouble(Exception):
    """One attempt that gave no answer."""

    def __init__(
        self,
        verdict: Verdict,
        error: LoraLandError,
        *,
        may_be_charged: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """`may_be_charged`: the endpoint may have computed an answer that did not arrive."""
        super().__init__(error.message)
        self.verdict = verdict
        self.error = error
        self.may_be_charged = may_be_charged
        self.retry_after_s = retry_after_s


def cleaner(key: str | None) -> Clean:
    """Takes out of text from outside the key, and halves of characters, which no file can hold."""

    def clean(text: str) -> str:
        whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return whole if key is None else whole.replace(key, "***")

    return clean


class _Outside(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Usage(_Outside):
    prompt_tokens: int | None = Field(None, ge=0, le=2**40)
    completion_tokens: int | None = Field(None, ge=0, le=2**40)


class _Message(_Outside):
    content: str | None = None
    refusal: str | None = None


class _ChatChoice(_Outside):
    message: _Message
    finish_reason: str | None = None


class _TextChoice(_Outside):
    text: str
    finish_reason: str | None = None


class _Answer(_Outside):
    model: str | None = None
    system_fingerprint: str | None = None
    created: Any = None
    usage: _Usage | None = None


class _Chat(_Answer):
    choices: list[_ChatChoice] = Field(min_length=1)


class _Completion(_Answer):
    choices: list[_TextChoice] = Field(min_length=1)


def read_reply(api: Literal["chat", "completions"], content: bytes, clean: Clean) -> Reply:
    """The answer in the body of a status 200.

    Raises EndpointGarbled; what it says of the body is its shape, not its text.
    """
    try:
        answer: _Chat | _Completion = (_Chat if api == "chat" else _Completion).model_validate(
            parse_object(content)
        )
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
        told = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults[:3])
        raise EndpointGarbled(f"the reply is no answer of the {api} API: {told}") from None
    except ValueError:
        raise EndpointGarbled(f"the reply of {len(content)} bytes is not a JSON object") from None
    choice = answer.choices[0]
    if isinstance(choice, _ChatChoice):
        text, refusal = choice.message.content or "", choice.message.refusal
    else:
        text, refusal = choice.text, None
    if choice.finish_reason == "content_filter":
        refusal = refusal or "the endpoint's content filter ended it"
    return Reply(
        text=clean(text),
        finish_reason=_line(clean(choice.finish_reason or "stop"), 40),
        refusal=refusal and _line(clean(refusal)),
        model=answer.model and _line(clean(answer.model), 200),
        system_fingerprint=answer.system_fingerprint
        and _line(clean(answer.system_fingerprint), 200),
        created=answer.created if type(answer.created) is int else None,
        usage=_usage(answer.usage),
    )


def _usage(told: _Usage | None) -> Usage | None:
    if told is None or told.prompt_tokens is None or told.completion_tokens is None:
        return None
    return Usage(told.prompt_tokens, told.completion_tokens)


def no_answer(reason: str) -> Trouble:
    """The trouble of a request that went out and got no status back in time."""
    return Trouble("again", EndpointUnavailable(reason), may_be_charged=True)


def garbled(error: EndpointGarbled) -> Trouble:
    """The trouble of a status 200 that is no answer: it says nothing about the model."""
    return Trouble("again", error, may_be_charged=True)


def trouble_of(
    status: int, headers: Mapping[str, str], content: bytes, clean: Clean, now: datetime
) -> Trouble:
    """What a status other than 200 means. Such a request is not charged for.

    `headers` are looked up in lower case.
    """
    code, message = _error_in(content, clean)
    told = f"status {status}" + (f" ({code})" if code else "") + (f": {message}" if message else "")
    if status == 429 and code in NO_QUOTA:
        return Trouble("stop", EndpointRefused(f"no quota is left: {told}"))
    if status in AGAIN or status >= 500:
        asked = retry_after_s(headers, now)
        return Trouble("again", EndpointUnavailable(told), retry_after_s=asked)
    if status not in OF_THE_PROMPT:
        return Trouble("stop", EndpointRefused(told))
    if code in TOO_LONG or status == 413 or _SAYS_TOO_LONG.search(message):
        return Trouble("item", ContextTooLong(told))
    if code in FILTERED or _SAYS_FILTERED.search(message):
        return Trouble("item", InvalidRequest(told))
    return Trouble("doubt", InvalidRequest(told))


def _error_in(content: bytes, clean: Clean) -> tuple[str, str]:
    """(code, message) of a body that should be an error in OpenAI's shape; empty where absent."""
    try:
        body = parse_object(content)
    except ValueError:
        return "", ""
    error = body.get("error", body)
    if isinstance(error, str):
        return "", _line(clean(error))
    if not isinstance(error, dict):
        return "", ""
    code, message = (error.get(name) for name in ("code", "message"))
    return (
        _line(clean(code), 80) if isinstance(code, str) else "",
        _line(clean(message)) if isinstance(message, str) else "",
    )


def _line(text: str, most: int = 300) -> str:
    """Text from outside as one line that does nothing to a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:most]


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that a server asks to wait for; None when it does not say, or not readably."""
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) / divisor
        except (KeyError, ValueError):
            continue
        return max(0.0, seconds) if math.isfinite(seconds) else None
    try:
        date: datetime = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, TypeError):
        return None
    until = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())


def pause_s(failed: int, asked_s: float | None, jitter: float) -> float | None:
    """How long to wait after `failed` attempts (from 1); None: longer than we wait.

    Doubles, with jitter (in [0, 1)) so that requests that failed together do not come back
    together. What a server asks for is a lower bound.
    """
    own = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** (failed - 1)) * (0.5 + 0.5 * jitter)
    if asked_s is None:
        return own
    return None if asked_s > LONGEST_WAIT_S else max(asked_s + FIRST_PAUSE_S * jitter, own)
