"""Errors as HTTP answers in the shape of the API asked; what is left of a key as headers."""

from __future__ import annotations

import math

from starlette._utils import get_route_path
from starlette.responses import JSONResponse
from starlette.types import Scope

from loraland.errors import LoraLandError, QuotaExhausted, RateLimited
from loraland.serving.access.books import Reply, Room
from loraland.serving.access.visit import current_visit
from loraland.serving.lorax_api import lorax_error, speaks_lorax
from loraland.serving.openai_api import error_body

RETRY_AFTER_S = 1  # a batch of short answers takes about this long


def error_response(error: LoraLandError, scope: Scope) -> JSONResponse:
    """The answer that tells an error of a request; the audit line names its code."""
    if (visit := current_visit()) is not None:
        visit.error = error.code
    headers = {}
    if error.status in (429, 503):
        seconds = getattr(error, "retry_after_s", RETRY_AFTER_S)
        headers["retry-after"] = str(max(1, math.ceil(seconds)))
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    shape = lorax_error if speaks_lorax(scope["method"], get_route_path(scope)) else error_body
    return JSONResponse(shape(error), status_code=error.status, headers=headers)


def limit_headers(reply: Reply) -> dict[str, str]:
    """What is left of a minute's requests and tokens, as OpenAI tells it."""
    headers = {}
    for kind, room in (("requests", reply.requests), ("tokens", reply.tokens)):
        if room is not None:
            headers[f"x-ratelimit-limit-{kind}"] = str(room.limit)
            headers[f"x-ratelimit-remaining-{kind}"] = str(room.remaining)
            headers[f"x-ratelimit-reset-{kind}"] = _duration(room.reset_s)
    return headers


def refusal(reply: Reply) -> LoraLandError:
    """The error for a claim that was refused; `retry_after_s` says when to come again."""
    told: RateLimited
    if reply.refused == "tokens_day":
        told = QuotaExhausted(
            "this key's tokens of today (UTC) are used up, or held by answers under way; "
            f"retry in {_duration(reply.retry_after_s)}"
        )
    elif reply.refused == "concurrent":
        told = RateLimited("this key has as many requests under way as it may; retry after one")
    else:
        what = "tokens" if reply.refused == "tokens" else "requests"
        told = RateLimited(
            f"this key may use {_limit(reply.tokens if what == 'tokens' else reply.requests)} "
            f"{what} a minute; retry in {_duration(reply.retry_after_s)}"
        )
    told.retry_after_s = reply.retry_after_s
    return told


def _limit(room: Room | None) -> str:
    return "only so many" if room is None else str(room.limit)


def _duration(seconds: float) -> str:
    """Whole seconds, rounded up, as OpenAI writes them: 7s, 6m0s, 5h0m0s."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
