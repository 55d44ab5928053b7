"""What asking may cost and has cost: an estimate before, and a budget that is kept while asking.

The most that a request can cost is reserved before it is sent, and settled by the usage that comes
back. Counts tokens and money exactly; knows no network and no storage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import NamedTuple

from loraland.evaluation.endpoint import Body, Endpoint

BYTES_PER_TOKEN = 4  # of English text, roughly: for the estimate alone
# Role markers and the like, which a server adds to a prompt. Chat templates that put whole
# instructions of their own before a prompt are charged above this.
ADDED_TOKENS = 64


class Usage(NamedTuple):
    """Tokens of one or many requests."""

    input_tokens: int
    output_tokens: int

    def plus(self, other: Usage) -> Usage:
        """Both together."""
        return Usage(
            self.input_tokens + other.input_tokens, self.output_tokens + other.output_tokens
        )


NO_TOKENS = Usage(0, 0)


class Spend(NamedTuple):
    """Money and tokens; money is 0 where no prices are known."""

    usd: Decimal
    tokens: int

    def plus(self, other: Spend) -> Spend:
        """Both together."""
        return Spend(self.usd + other.usd, self.tokens + other.tokens)

    def times(self, count: int) -> Spend:
        """As much `count` times."""
        return Spend(self.usd * count, self.tokens * count)

    def less(self, other: Spend) -> Spend:
        """What is left without the other."""
        return Spend(self.usd - other.usd, self.tokens - other.tokens)


NOTHING = Spend(Decimal(0), 0)


def total(parts: Iterable[Spend]) -> Spend:
    """All together."""
    found = NOTHING
    for part in parts:
        found = found.plus(part)
    return found


def cost(endpoint: Endpoint, usage: Usage) -> Spend:
    """What some usage costs at the prices of the settings."""
    per_input = endpoint.usd_per_million_input_tokens or Decimal(0)
    per_output = endpoint.usd_per_million_output_tokens or Decimal(0)
    usd = (per_input * usage.input_tokens + per_output * usage.output_tokens) / 1_000_000
    return Spend(usd, usage.input_tokens + usage.output_tokens)


def most_usage(endpoint: Endpoint, body: Body) -> Usage:
    """The most tokens that a request can be charged for.

    A token of the tokenizers in use is at least one byte of UTF-8.
    """
    return Usage(_size_bytes(body) + ADDED_TOKENS, int(body[endpoint.length_field]))


def likely_usage(endpoint: Endpoint, body: Body) -> Usage:
    """About what a request is charged for, if its answer is as long as it may be."""
    prompt = -(-_size_bytes(body) // BYTES_PER_TOKEN)
    return Usage(prompt, int(body[endpoint.length_field]))


def _size_bytes(body: Body) -> int:
    texts = [message["content"] for message in body.get("messages", ())] or [body["prompt"]]
    return sum(len(text.encode()) for text in texts)


class Estimate(NamedTuple):
    """What asking some questions will take."""

    requests: int  # that are still to be sent
    answered: int  # questions whose answers are in storage
    input_tokens: int  # about: a token for every 4 bytes
    most_output_tokens: int  # if every answer is as long as it may be
    usd: Decimal | None  # of these two; None without prices
    most_usd: Decimal | None  # with a token for every byte, as it is reserved; no retry in it
    spent: Spend  # under this name before
    within_caps: bool | None  # whether the most fits into what is left; None without a cap


def estimate(
    endpoint: Endpoint, bodies: Sequence[Body], answered: int, spent: Spend = NOTHING
) -> Estimate:
    """What asking these bodies, each once, will take; `answered` others are in storage."""
    likely = most = NO_TOKENS
    for body in bodies:
        likely = likely.plus(likely_usage(endpoint, body))
        most = most.plus(most_usage(endpoint, body))
    priced = endpoint.max_usd is not None
    capped = priced or endpoint.max_total_tokens is not None
    return Estimate(
        requests=len(bodies),
        answered=answered,
        input_tokens=likely.input_tokens,
        most_output_tokens=likely.output_tokens,
        usd=cost(endpoint, likely).usd if priced else None,
        most_usd=cost(endpoint, most).usd if priced else None,
        spent=spent,
        within_caps=Budget(endpoint, spent).can_reserve(cost(endpoint, most)) if capped else None,
    )


class Budget:
    """What is spent and what is reserved; together they never exceed a cap.

    `settle` with more than was reserved, as of a server that ignores the length it was told, is
    counted in full and may exceed a cap by that much: nothing is reserved after it.
    """

    def __init__(self, endpoint: Endpoint, spent: Spend = NOTHING) -> None:
        """`spent` is what was spent before."""
        self._usd, self._tokens = endpoint.max_usd, endpoint.max_total_tokens
        self.spent = spent
        self.reserved = NOTHING

    @property
    def committed(self) -> Spend:
        """Spent, or reserved for requests under way."""
        return self.spent.plus(self.reserved)

    def fits(self, all_in_all: Spend) -> bool:
        """Whether so much may be spent in all."""
        return (self._usd is None or all_in_all.usd <= self._usd) and (
            self._tokens is None or all_in_all.tokens <= self._tokens
        )

    def clamp(self, amount: Spend) -> Spend:
        """An amount, or the caps where it is above them."""
        usd = amount.usd if self._usd is None else min(amount.usd, self._usd)
        tokens = amount.tokens if self._tokens is None else min(amount.tokens, self._tokens)
        return Spend(usd, tokens)

    def can_reserve(self, most: Spend) -> bool:
        """Whether a request that may cost `most` may be sent now."""
        return self.fits(self.committed.plus(most))

    def can_ever_reserve(self, most: Spend) -> bool:
        """Whether it may be sent if all that is under way turns out to cost nothing."""
        return self.fits(self.spent.plus(most))

    def reserve(self, most: Spend) -> None:
        """Set aside the most that a request can cost. Raises ValueError when it does not fit."""
        if not self.can_reserve(most):
            raise ValueError("does not fit into the budget")
        self.reserved = self.reserved.plus(most)

    def settle(self, most: Spend, actual: Spend) -> None:
        """A request for which `most` was set aside ended, and cost `actual`."""
        self.reserved = self.reserved.less(most)
        self.spent = self.spent.plus(actual)
