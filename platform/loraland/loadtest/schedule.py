"""What will be asked and when, before anything is sent. Seeded: the same arguments, the same plan.

Arrivals, models and prompts are drawn from streams of their own, so that another popularity leaves
times and prompts as they were. Knows no server and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, repeat, takewhile
from random import Random

from loraland.loadtest.mix import Mix
from loraland.loadtest.trace import TraceRow

FIRST_ID = 3  # below are the special tokens of most vocabularies

Prompt = str | tuple[int, ...]  # text, or token ids whose number is exact


@dataclass(frozen=True, slots=True)
class Wording:
    """One prompt, and how long its answer may be."""

    prompt: Prompt
    new_tokens: int


Wordings = Callable[[Random], Wording]


@dataclass(frozen=True, slots=True)
class Planned:
    """One request."""

    number: int  # 0, 1, 2 ...
    at_s: float | None  # since the start; None: as soon as a client is free
    model: str
    prompt: Prompt
    new_tokens: int


def random_tokens(prompt_tokens: int, new_tokens: int, vocabulary: int) -> Wordings:
    """Prompts of so many random ids below `vocabulary`, new to every cache."""
    ids = range(FIRST_ID, vocabulary)
    return lambda chance: Wording(tuple(chance.choices(ids, k=prompt_tokens)), new_tokens)


def drawn_from(wordings: Sequence[Wording]) -> Wordings:
    """One of `wordings` each time, all as likely."""
    return lambda chance: chance.choice(wordings)


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Arrivals without end, in seconds: gaps are exponential with mean 1 / `rate`."""
    chance, at_s = Random(f"{seed}/arrivals"), 0.0
    while True:
        at_s += chance.expovariate(rate)
        yield at_s


def whenever_free() -> Iterator[None]:
    """Arrivals of a closed loop: each client asks as soon as it has its answer."""
    return repeat(None)


def plan(
    arrivals: Iterable[float | None], mix: Mix, wordings: Wordings, seed: int
) -> Iterator[Planned]:
    """A request for each arrival."""
    models, prompts = Random(f"{seed}/models"), Random(f"{seed}/prompts")
    for number, at_s in enumerate(arrivals):
        wording = wordings(prompts)
        yield Planned(number, at_s, mix.draw(models), wording.prompt, wording.new_tokens)


def plan_trace(
    rows: Iterable[TraceRow], name: Callable[[str], str], vocabulary: int, seed: int, speed: float
) -> Iterator[Planned]:
    """The requests of a trace, `speed` times as fast; `name` makes model names of its adapters."""
    chance = Random(f"{seed}/prompts")
    for number, row in zip(count(), rows, strict=False):
        wording = random_tokens(row.prompt_tokens, row.new_tokens, vocabulary)(chance)
        model = name(row.adapter)
        yield Planned(number, row.at_s / speed, model, wording.prompt, wording.new_tokens)


def within(
    planned: Iterable[Planned], requests: int | None, seconds: float | None
) -> Iterator[Planned]:
    """The first `requests` of a plan, and of those that have a time the ones before `seconds`."""
    few = islice(planned, requests)
    if seconds is None:
        return few
    return takewhile(lambda one: one.at_s is None or one.at_s < seconds, few)


def asking(planned: Iterable[Planned], model: str) -> Iterator[Planned]:
    """The same plan with one model in place of all."""
    return (replace(one, model=model) for one in planned)
