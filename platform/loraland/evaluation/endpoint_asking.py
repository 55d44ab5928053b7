"""Asks an endpoint many questions at a time: attempts, pauses, money set aside, answers kept.

Knows bodies and their keys; nothing of tasks, items or scores. Its clock, its sleep and its jitter
are given to it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from loraland.errors import BudgetExhausted, LoraLandError
from loraland.evaluation.endpoint import Body, Endpoint
from loraland.evaluation.endpoint_answers import Answer, Answers, SpendBook
from loraland.evaluation.endpoint_budget import NOTHING, Budget, Spend, cost, most_usage
from loraland.evaluation.endpoint_replies import Reply, Trouble, pause_s

GIVE_UP_AFTER = 5  # questions in a row that got no answer in all their attempts: it is an outage


class Asks(Protocol):
    """What makes one attempt."""

    async def ask(self, body: Body) -> Reply:
        """The answer to a body. Raises Trouble."""
        ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What asking takes from outside, so that tests need not wait."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep  # seconds
    jitter: Callable[[], float] = random.random  # in [0, 1)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))


class Purse:
    """A budget that many requests share; each waits until it may be paid for."""

    def __init__(self, budget: Budget, book: SpendBook, at_once: int) -> None:
        """`at_once` requests are written down ahead, so that not each is a write of its own."""
        self.budget, self._book, self._at_once = budget, book, at_once
        self._turn = asyncio.Lock()  # one after the other, so that none is overtaken for ever
        self._settled = asyncio.Event()

    async def reserve(self, most: Spend) -> None:
        """Set aside what a request may cost; on disk before this returns.

        Waits for requests under way where their remainder may be enough. Raises BudgetExhausted.
        """
        async with self._turn:
            while not self.budget.can_reserve(most):
                if not self.budget.can_ever_reserve(most):
                    raise BudgetExhausted(self._exhausted(most))
                self._settled.clear()
                await self._settled.wait()
            self.budget.reserve(most)
            if not self._book.covers(self.budget):
                ahead = most.times(self._at_once)
                await asyncio.to_thread(self._book.cover, self.budget, ahead)

    def settle(self, most: Spend, actual: Spend) -> None:
        """A request ended; what it did not cost is free again."""
        self.budget.settle(most, actual)
        self._settled.set()

    def _exhausted(self, most: Spend) -> str:
        spent = self.budget.spent
        return (
            f"{spent.usd:.4f} USD and {spent.tokens} tokens are spent under this name, and the "
            f"next request may cost {most.usd:.4f} USD and {most.tokens} tokens: more than max_usd "
            "or max_total_tokens of the endpoint's file allows. Raise it to go on"
        )


@dataclass(slots=True)
class Asking:
    """Puts questions to one endpoint until they are answered, or until it is no use."""

    endpoint: Endpoint
    client: Asks
    purse: Purse
    answers: Answers
    around: Surroundings = field(default_factory=Surroundings)
    ended: Exception | None = None  # why nothing more is asked
    requests: int = 0  # attempts that were sent
    _in_a_row: int = 0  # questions without an answer

    async def ask_all(
        self, bodies: Mapping[str, Body], on_done: Callable[[], None], *, accepted: bool = False
    ) -> tuple[dict[str, Answer], dict[str, Trouble]]:
        """(answers, troubles) by key. What is in neither was not asked, as `ended` says.

        `accepted`: a request of the same form was answered before, so the form is right. Never
        raises but for being cancelled: requests under way are waited for, as they are paid.
        """
        found: dict[str, Answer] = {}
        troubles: dict[str, Trouble] = {}
        order = iter(bodies.items())

        async def work() -> None:
            for key, body in order:  # shared: each worker takes the next
                if self.ended is not None:
                    return
                try:
                    found[key] = await self._until_answered(body)
                    self._in_a_row = 0
                except Trouble as trouble:
                    troubles[key] = trouble
                    self._note(trouble, accepted=accepted or bool(found))
                except Exception as error:  # no money, no disk: told by the caller, for all
                    self.ended = self.ended or error
                    return
                on_done()

        workers = min(self.endpoint.concurrency, len(bodies))
        await asyncio.gather(*(work() for _ in range(workers)))
        return found, troubles

    def _note(self, trouble: Trouble, *, accepted: bool) -> None:
        if trouble.verdict == "item" or (trouble.verdict == "doubt" and accepted):
            return  # the endpoint is well
        self._in_a_row += 1
        if trouble.verdict == "stop" or self._in_a_row >= GIVE_UP_AFTER:
            self.ended = self.ended or trouble.error

    async def _until_answered(self, body: Body) -> Answer:
        """Raises Trouble after the last attempt, BudgetExhausted, OSError."""
        for attempt in range(1, self.endpoint.attempts + 1):
            try:
                return await self._attempt(body)
            except Trouble as trouble:
                if trouble.verdict != "again" or attempt == self.endpoint.attempts:
                    raise _after(trouble, attempt) from None
                pause = pause_s(attempt, trouble.retry_after_s, self.around.jitter())
                if pause is None or self.ended is not None:
                    raise _after(trouble, attempt) from None
            await self.around.sleep(pause)
        raise AssertionError("an endpoint has at least one attempt")

    async def _attempt(self, body: Body) -> Answer:
        most = cost(self.endpoint, most_usage(self.endpoint, body))
        await self.purse.reserve(most)
        actual = most  # also when this is cancelled: nobody knows then what the endpoint does
        try:
            self.requests += 1
            began = time.perf_counter()
            reply = await self.client.ask(body)
            ms = round(1000 * (time.perf_counter() - began), 1)
            if reply.usage is not None:
                actual = cost(self.endpoint, reply.usage)
            usd = None if self.endpoint.max_usd is None else actual.usd
            received = self.around.now().isoformat(timespec="seconds")
            answer = Answer.of(self.endpoint, body, reply, usd, received, ms)
            await asyncio.to_thread(self.answers.keep, answer)
            return answer
        except Trouble as trouble:
            actual = most if trouble.may_be_charged else NOTHING
            raise
        finally:
            self.purse.settle(most, actual)


def _after(trouble: Trouble, attempts: int) -> Trouble:
    """The same trouble, saying how often it was met."""
    if trouble.verdict != "again":
        return trouble
    wait = trouble.retry_after_s
    asked = "" if wait is None else f"; it asks to wait {wait:.0f} s"
    error: LoraLandError = type(trouble.error)(
        f"{trouble.error.message} (attempt {attempts}, the last{asked})"
    )
    return Trouble("again", error)
