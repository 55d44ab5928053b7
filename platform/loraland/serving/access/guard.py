"""The service as a caller may use it: models hidden, tokens counted, time bounded.

Wraps any `Service`, so that a route which resolves names and sends orders is covered without
knowing of keys. Finds the caller in the context of the request.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Entry
from loraland.errors import (
    AdapterRejected,
    InvalidKey,
    LoraLandError,
    RequestTimedOut,
    UnknownModel,
)
from loraland.serving.access.answers import refusal
from loraland.serving.access.books import Claim
from loraland.serving.access.gate import Access
from loraland.serving.access.permission import ANYONE, Caller
from loraland.serving.access.ring import REFUSED
from loraland.serving.access.visit import Visit, current_visit
from loraland.serving.bodies import BadParameter
from loraland.serving.config import Limits
from loraland.serving.directory import Directory
from loraland.serving.orders import Order, Part, Prompt
from loraland.serving.service import Service

BYTES_PER_TOKEN = 3  # of English text about 4; what a prompt takes beyond its estimate is owed
TEMPLATE_TOKENS = 8  # of a chat's template, for each message


class GuardedService:
    """A service for the caller of the request under way."""

    def __init__(self, service: Service, access: Access) -> None:
        """Guard `service`, with the limits of `access`."""
        self._service, self._access = service, access
        self.limits = service.limits
        self.directory: Any = GuardedDirectory(service.directory)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._service, name)

    def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        """See `Service`. Raises also RateLimited, QuotaExhausted and RequestTimedOut."""
        return self._watched(order, current_visit() or Visit.of("", {}))

    async def _watched(self, order: Order, visit: Visit) -> AsyncGenerator[Part, None]:
        try:
            _check_prompts(order, self.limits.prompt_characters)
            claim = await self._hold(order, visit)
            usage = _Usage(order)
            visit.answered.append(str(order.model))
            try:
                async with aclosing(self._in_time(order, visit)) as parts:
                    async for part in parts:
                        usage.add(part)
                        if visit.first_token is None and "text" in part:
                            visit.first_token = time.monotonic()
                        yield part
            finally:
                visit.prompt_tokens += usage.prompt_tokens
                visit.generated_tokens += usage.generated_tokens
                if claim is not None and self._access.limiter is not None and visit.caller:
                    self._access.limiter.settle(claim, visit.caller.allowance, usage.tokens)
        except LoraLandError as error:
            visit.error = error.code
            raise

    async def _hold(self, order: Order, visit: Visit) -> Claim | None:
        """Hold the tokens that an answer may take, where they are counted."""
        caller, limiter = visit.caller, self._access.limiter
        if caller is None or caller.key is None or not caller.allowance.counts_tokens:
            return None
        assert limiter is not None, "keys are only admitted beside a limiter"
        tokens = most_tokens(order)
        claim = self._access.claim(caller.key, tokens=tokens)
        reply = await limiter.claim(claim, caller.allowance)
        known = visit.reply
        visit.reply = reply._replace(requests=known.requests) if known else reply
        if reply.refused == "too_large":
            raise BadParameter(
                f"this asks for up to {tokens} tokens, more than this key ever has at once; lower "
                "max_tokens, n or the prompts",
                "max_tokens",
            )
        if reply.refused is not None:
            raise refusal(reply)
        return claim

    async def _in_time(self, order: Order, visit: Visit) -> AsyncGenerator[Part, None]:
        """The parts of an order. Raises RequestTimedOut, and its work ends."""
        limits, began = self.limits, asyncio.get_running_loop().time()
        last = began + limits.request_seconds - (time.monotonic() - visit.began)
        first = min(last, began + limits.first_token_seconds)
        async with aclosing(self._service.complete(order)) as parts:
            until = first
            while True:
                try:
                    async with asyncio.timeout_at(until):
                        part = await anext(parts)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise _too_late(limits, to_first=until < last) from None
                until = last
                yield part


class GuardedDirectory:
    """A directory that knows only what the caller may use, and says so of everything else."""

    def __init__(self, directory: Directory) -> None:
        """Guard `directory`."""
        self._directory = directory

    @property
    def bases(self) -> tuple[str, ...]:
        """The bases served that the caller, or an adapter of the caller, stands on.

        All of them on a route that asks nobody.
        """
        visit = current_visit()
        caller = ANYONE if visit is None or visit.caller is None else visit.caller
        return tuple(base for base in self._directory.bases if caller.reaches(base))

    async def resolve(self, text: str) -> ModelName:
        """See `Directory.resolve`. Raises also ModelNotAllowed, before it looks for anything."""
        caller, name = _caller(), ModelName.parse(text)
        if (visit := current_visit()) is not None:
            visit.asked.append(str(name))
        caller.require_model(name)
        try:
            return await self._directory.resolve(text)
        except (UnknownModel, AdapterRejected) as error:
            if caller.sees_everything:
                raise
            # The directory's own message names what is near, also what belongs to others.
            told = f"no model is called '{name}' here; GET /v1/models lists what this key may use"
            raise UnknownModel(told) from error

    async def entries(self) -> list[Entry]:
        """See `Directory.entries`; only those that the caller may use."""
        caller = _caller()
        entries = await self._directory.entries()
        if caller.sees_everything:
            return entries
        return [e for e in entries if caller.may_see(e.name, e.aliases)]


def may_use(base: str) -> bool:
    """Whether the caller may ask a base itself."""
    return _caller().may_use(ModelName(base))


def _caller() -> Caller:
    """Who asks; outside of any request everything is allowed. Raises InvalidKey for nobody."""
    visit = current_visit()
    if visit is None:
        return ANYONE
    if visit.caller is None:  # an open route that asks for models
        raise InvalidKey(REFUSED)
    return visit.caller


def most_tokens(order: Order) -> int:
    """Tokens that an order may take: its prompts, estimated, and every answer at its longest."""
    longest = order.most_new_tokens if order.max_new_tokens is None else order.max_new_tokens
    answers = len(order.prompts) * order.n * longest
    shown = math.ceil(len(json.dumps(order.tools)) / BYTES_PER_TOKEN) if order.tools else 0
    return sum(_prompt_tokens(prompt) + shown for prompt in order.prompts) + answers


def _prompt_tokens(prompt: Prompt) -> int:
    if isinstance(prompt, str):
        return math.ceil(len(prompt.encode()) / BYTES_PER_TOKEN) + 1
    return sum(
        1 if isinstance(part, int) else _prompt_tokens(part["content"]) + TEMPLATE_TOKENS
        for part in prompt
    )


def _check_prompts(order: Order, most: int) -> None:
    """Raises BadParameter for prompts that are longer, in characters, than any may be."""
    size = 0
    for prompt in order.prompts:
        if isinstance(prompt, str):
            size += len(prompt)
        else:
            size += sum(1 if isinstance(part, int) else len(part["content"]) for part in prompt)
    if size > most:
        told = f"the prompts are {size} characters, at most {most} in one request"
        raise BadParameter(told, "prompt")


class _Usage:
    """What an order has taken so far, also when it ends before its answers do."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._prompts: dict[int, int] = {}  # tokens by number of the prompt
        self._ended = 0  # tokens of answers that came to their end
        self._open: dict[int, int] = {}  # of the others, by choice: what their text stands for

    def add(self, part: Part) -> None:
        choice = part["choice"]
        if "again" in part:  # what a dead replica had done is at our cost
            self._prompts, self._ended, self._open = {}, 0, {}
        elif "text" in part:
            pieces = max(1, math.ceil(len(part["text"].encode()) / (BYTES_PER_TOKEN + 1)))
            self._open[choice] = self._open.get(choice, 0) + pieces
        else:
            self._open.pop(choice, None)
            self._ended += part["generated_tokens"]
            self._prompts[choice // self._order.n] = part["prompt_tokens"]

    @property
    def prompt_tokens(self) -> int:
        if not self._prompts and not self._open:
            return 0  # it never began
        begun = {choice // self._order.n for choice in self._open} | self._prompts.keys()
        prompts = self._order.prompts
        return sum(self._prompts.get(i) or _prompt_tokens(prompts[i]) for i in begun)

    @property
    def generated_tokens(self) -> int:
        return self._ended + sum(self._open.values())

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.generated_tokens


def _too_late(limits: Limits, *, to_first: bool) -> RequestTimedOut:
    what, name = (
        ("no first token", "first_token_seconds") if to_first else ("no end", "request_seconds")
    )
    return RequestTimedOut(
        f"{what} within {getattr(limits, name):g} seconds, and the work on it has ended; ask for "
        f"less or later, or raise limits.{name}"
    )
