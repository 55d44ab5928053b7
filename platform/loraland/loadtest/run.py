"""Runs load tests: one run, adapters and base in turns, or the cliff. Knows no command line.

A stopped test gives what it has. What the figures mean stands in docs/loadtest.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from loraland.errors import EndpointRefused, EndpointUnavailable
from loraland.loadtest import outcome
from loraland.loadtest.against import order_of
from loraland.loadtest.client import Client
from loraland.loadtest.cliff import Point
from loraland.loadtest.course import Course
from loraland.loadtest.driver import drive
from loraland.loadtest.mix import Mix
from loraland.loadtest.outcome import Outcome
from loraland.loadtest.schedule import Planned, asking
from loraland.loadtest.summary import Figures, figures

TOUCH_AT_ONCE = 8
TOUCH_PROMPT = (3, 4, 5)  # ids that every vocabulary has

Schedule = Callable[[Mix, int], Iterator[Planned]]  # the requests of a mix and a seed


@dataclass(frozen=True, slots=True)
class Watch:
    """What a caller hears, and how it stops a test."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    on_run: Callable[[str], None] = lambda _: None  # before each run, what it is
    on_outcome: Callable[[Outcome], None] = lambda _: None


class Measured(NamedTuple):
    """One run."""

    name: str  # "adapters" or "base"
    round: int  # from 0
    figures: Figures


@dataclass(frozen=True, slots=True)
class LoadTest:
    """One server, and what it is asked."""

    client: Client
    mix: Mix
    schedule: Schedule
    course: Course
    seed: int
    watch: Watch

    async def touch(self, mix: Mix) -> None:
        """Ask every model of a mix for one token, so that no run pays for a first fetch.

        Raises EndpointUnavailable, EndpointRefused naming the first model that does not answer.
        """
        self.watch.on_run(f"asking each of {len(mix.models)} models once")
        requests = (Planned(n, None, model, TOUCH_PROMPT, 1) for n, model in enumerate(mix.models))
        course = replace(
            self.course,
            clients=TOUCH_AT_ONCE, requests=len(mix.models), seconds=None, warm_up=0,
        )  # fmt: skip
        run = await drive(self.client.ask, requests, course, self.watch.stop)
        failed = [one for one in run.outcomes if one.error is not None]
        if failed:
            first = min(failed, key=lambda one: one.number)
            kind = EndpointUnavailable if first.error == outcome.UNREACHABLE else EndpointRefused
            raise kind(
                f"{len(failed)} of {len(mix.models)} models did not answer; the first is "
                f"'{first.model}': {first.error}. Ask it by hand for the server's own words"
            )

    async def once(self, mix: Mix, seed: int, *, instead: str | None = None) -> Figures:
        """One run; every request asks the model `instead`, where one is given."""
        planned = self.schedule(mix, seed)
        run = await drive(
            self.client.ask,
            planned if instead is None else asking(planned, instead),
            self.course,
            self.watch.stop,
            self.watch.on_outcome,
        )
        return figures(run, self.course.warm_up)

    async def rounds(self, count: int, base: str | None) -> list[Measured]:
        """`count` runs; with a `base` as many of it beside them, in turns, each round alike.

        Every round has new prompts, so that no prefix is known from the one before. A round that
        was not finished has its first half alone.
        """
        runs: list[Measured] = []
        for number in range(count):
            for of_base in order_of(number) if base is not None else (False,):
                if self.watch.stop.is_set():
                    return runs
                name = "base" if of_base else "adapters"
                self.watch.on_run(f"round {number + 1} of {count}: {name}")
                instead = base if of_base else None
                found = await self.once(self.mix, self.seed + number, instead=instead)
                runs.append(Measured(name, number, found))
        return runs

    async def cliff(self, sets: list[tuple[float, int]], cold: bool) -> list[Point]:
        """A run for each working set: its share of the slots, and how many models that is."""
        points: list[Point] = []
        for number, (share, count) in enumerate(sets):
            mix = self.mix.first(count)
            if not cold and not self.watch.stop.is_set():
                await self.touch(mix)
            if self.watch.stop.is_set():
                break
            self.watch.on_run(f"working set {count} ({share:g} x slots)")
            points.append(Point(share, count, await self.once(mix, self.seed + number)))
        return points


def pairs_of(runs: list[Measured]) -> tuple[list[Figures], list[Figures]]:
    """The figures of adapters and base, of the rounds that have both."""
    halves: dict[int, dict[str, Figures]] = {}
    for run in runs:
        halves.setdefault(run.round, {})[run.name] = run.figures
    whole = [half for half in halves.values() if len(half) == 2]
    return [half["adapters"] for half in whole], [half["base"] for half in whole]
