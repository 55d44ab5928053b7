"""Judges an outside endpoint on the items of tasks, and stores its samples beside everybody's.

    samples/<endpoint>/<task>/endpoint-<key>.parquet

The prompts are those that bases and adapters get. An outage says nothing about a model: samples are
written only when every item has an answer, or a failure that belongs to the item.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from loraland.errors import EndpointRefused, InvalidRequest, LoraLandError
from loraland.evaluation.endpoint import Body, Endpoint
from loraland.evaluation.endpoint_answers import (
    Answer,
    Answers,
    SpendBook,
    claim_name,
    spent_before,
)
from loraland.evaluation.endpoint_asking import Asking, Purse, Surroundings
from loraland.evaluation.endpoint_budget import Budget, Estimate, Spend, estimate
from loraland.evaluation.endpoint_client import Client
from loraland.evaluation.endpoint_replies import Trouble
from loraland.evaluation.endpoint_samples import failures_of_items, provenance, sample_of
from loraland.evaluation.exam import Exam
from loraland.evaluation.samples import read_samples, write_samples
from loraland.evaluation.scoring import grade, require_gradable
from loraland.evaluation.statistics import Interval, mean_interval
from loraland.storage import Storage
from loraland.tasks.sources import Split
from loraland.tasks.task import Task

MODEL = "endpoint"  # in the place of a version, in names of samples and in their stamp
PRECISION = "unknown"  # what an endpoint computes in is its own affair

Questions = tuple[Task, Split]  # held-out items of a task, as cells of it are judged on
OnAnswer = Callable[[str, int, int], None]  # task, questions done, questions in all


class Judged(NamedTuple):
    """What an endpoint made of a task."""

    task: str
    items: int
    score: Interval
    failures: int  # items that the endpoint cannot be asked, or refused
    samples: str  # below the storage root
    stamp: dict[str, Any]  # under "endpoint": who answered, when, for how much


class Report(NamedTuple):
    """What became of a run."""

    judged: list[Judged]
    requests: int  # that were sent by this run, repeated ones included
    spent: Spend  # by this run, at most
    spent_in_all: Spend  # under this name
    error: LoraLandError | None  # why tasks are missing


@dataclass(frozen=True, slots=True)
class _Paper:
    """An exam, and what is sent for each of its items."""

    exam: Exam
    keys: tuple[str, ...]  # of each item
    bodies: Mapping[str, Body]  # by key: items of one prompt are asked once

    @classmethod
    def of(cls, endpoint: Endpoint, asked: Questions) -> _Paper:
        """Raises MetricUnavailable, SandboxUnavailable: its answers could not be graded."""
        exam = Exam.of(*asked, endpoint.name, endpoint.fingerprint, PRECISION)
        require_gradable(exam.task, exam.items)
        task = exam.task
        bodies = [endpoint.body(i.prompt, task.stop, task.max_new_tokens) for i in exam.items]
        keys = tuple(endpoint.key(body) for body in bodies)
        return cls(exam, keys, dict(zip(keys, bodies, strict=True)))

    @property
    def place(self) -> str:
        """Of its samples."""
        return self.exam.path(MODEL)


def forecast_endpoint(
    endpoint: Endpoint, questions: Iterable[Questions], storage: Storage
) -> Estimate:
    """What asking would take, from what is in storage. Sends nothing and needs no key."""
    wanted: dict[str, Body] = {}
    for paper in [_Paper.of(endpoint, asked) for asked in questions]:
        if not storage.exists(paper.place):
            wanted |= paper.bodies
    known = Answers(storage, endpoint).known(wanted)
    left = [body for key, body in wanted.items() if key not in known]
    return estimate(endpoint, left, len(known), spent_before(storage, endpoint.name))


def ask_endpoint(
    endpoint: Endpoint,
    key: str | None,
    questions: Iterable[Questions],
    storage: Storage,
    on_answer: OnAnswer | None = None,
    around: Surroundings | None = None,
) -> Report:
    """Ask what has no samples yet, a task after the other; what was answered before is not asked.

    Killed at any moment and started again, it goes on. Raises before anything is sent:
    InvalidConfiguration when the name stands for something else, MetricUnavailable,
    SandboxUnavailable. What happens later is in the report; OSError of the storage is raised.
    """
    papers = [_Paper.of(endpoint, asked) for asked in questions]
    claim_name(storage, endpoint)
    before = spent_before(storage, endpoint.name)
    run = _Run(endpoint, storage, Budget(endpoint, before), around or Surroundings())
    book = SpendBook(storage, endpoint.name, uuid.uuid4().hex, before)
    try:
        judged = asyncio.run(run.all(papers, key, book, on_answer or (lambda *_: None)))
    finally:
        book.close(run.budget)
    committed = run.budget.committed
    return Report(judged, run.requests, committed.less(before), committed, run.error)


@dataclass(slots=True)
class _Run:
    endpoint: Endpoint
    storage: Storage
    budget: Budget
    around: Surroundings
    requests: int = 0
    error: LoraLandError | None = None  # the first

    async def all(
        self, papers: Sequence[_Paper], key: str | None, book: SpendBook, on_answer: OnAnswer
    ) -> list[Judged]:
        """Those that have samples in the end. Raises OSError of the storage."""
        purse = Purse(self.budget, book, self.endpoint.concurrency)
        client = Client(self.endpoint, key)
        answers = Answers(self.storage, self.endpoint)
        asking = Asking(self.endpoint, client, purse, answers, self.around)
        judged = []
        try:
            for paper in papers:
                if not self.storage.exists(paper.place):
                    try:
                        await self._ask(paper, asking, on_answer)
                    except LoraLandError as error:
                        self.error = self.error or error
                        continue  # what is ended asks nothing; the others may be complete already
                else:
                    on_answer(paper.exam.task.name, len(paper.bodies), len(paper.bodies))
                judged.append(self._stored(paper))
        finally:
            self.requests = asking.requests
            await client.close()
        return judged

    async def _ask(self, paper: _Paper, asking: Asking, on_answer: OnAnswer) -> None:
        """Write the samples of an exam. Raises when it is not complete."""
        name, total = paper.exam.task.name, len(paper.bodies)
        known = await asyncio.to_thread(asking.answers.known, paper.bodies)
        left = {key: body for key, body in paper.bodies.items() if key not in known}
        done = len(known)
        on_answer(name, done, total)

        def count() -> None:
            nonlocal done
            done += 1
            on_answer(name, done, total)

        found, troubles = await asking.ask_all(left, count, accepted=bool(known))
        known |= found
        failed = failures_of_items(troubles, any_answer=bool(known))
        if len(known) + len(failed) < total:
            raise _incomplete(paper, len(known), troubles, asking.ended)
        self._write(paper, known, failed)

    def _write(
        self, paper: _Paper, known: Mapping[str, Answer], failed: Mapping[str, LoraLandError]
    ) -> None:
        exam = paper.exam
        given = [known.get(key) or failed[key] for key in paper.keys]
        pairs = zip(exam.items, given, strict=True)
        samples = [sample_of(n, item, one, exam.task) for n, (item, one) in enumerate(pairs)]
        stamp = exam.stamp(MODEL) | {"endpoint": provenance(self.endpoint, known.values())}
        if not self.endpoint.send_temperature:
            stamp["sampling"] = "the endpoint's own"
        write_samples(self.storage, paper.place, grade(exam.task, samples), stamp)

    def _stored(self, paper: _Paper) -> Judged:
        samples, stamp = read_samples(self.storage, paper.place)
        return Judged(
            task=paper.exam.task.name,
            items=len(samples),
            score=mean_interval([sample.score for sample in samples]),
            failures=sum(sample.failure is not None for sample in samples),
            samples=paper.place,
            stamp=stamp,
        )


def _incomplete(
    paper: _Paper, answered: int, troubles: Mapping[str, Trouble], ended: Exception | None
) -> LoraLandError:
    """Why an exam has no samples. Raises what ended the run when that was no trouble of ours."""
    if ended is not None and not isinstance(ended, LoraLandError):
        raise ended
    first = next((one for one in troubles.values() if one.verdict == "again"), None)
    doubt = next((one for one in troubles.values() if one.verdict == "doubt"), None)
    error = ended or (first and first.error) or (doubt and doubt.error)
    assert isinstance(error, LoraLandError)
    kind = EndpointRefused if isinstance(error, InvalidRequest) else type(error)
    return kind(
        f"task '{paper.exam.task.name}' is not complete, and no samples of it are written: "
        f"{answered} of {len(paper.bodies)} questions are answered and kept. The reason: "
        f"{error.message}. The same command asks the others again"
    )
