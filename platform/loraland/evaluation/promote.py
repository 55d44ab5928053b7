"""Moves an alias to a version that passes the gate, and keeps every decision with its evidence.

    promotions/<base>/<task>/<time>-<version>.json    written before the alias moves

Killed in between, the same command finds its decision and moves the alias. Loads no model: answers
are read from storage and graded anew.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import NamedTuple

from pydantic import ValidationError

from loraland.adapters.card import utc_now
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import InvalidName, SamplesMissing, StorageCorrupt
from loraland.evaluation.comparison import compare, pair
from loraland.evaluation.promotion import (
    Bounds,
    Decision,
    Evidence,
    Gate,
    guards,
    reasons_against,
    task_guard,
)
from loraland.evaluation.rivals import answers_on, judged_answers
from loraland.evaluation.scoring import score
from loraland.evaluation.statistics import Interval
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

FOLDER = "promotions"


class Promotion(NamedTuple):
    """What became of the wish to promote a version."""

    model: ModelName  # base/task@version
    alias: str
    moved: bool
    decision: Decision | None  # None: the alias names that version already, nothing was decided
    record: str | None  # where the decision lies, below the storage root

    @property
    def refused(self) -> bool:
        """Whether the version was not let through."""
        return self.decision is not None and not self.decision.promoted


def promote(name: str, storage: Storage, gate: Gate) -> Promotion:
    """Hold a version against the gate, keep the decision, and move the alias if it passes.

    The registry has no lock: an alias that somebody moved while this was decided is left alone, but
    for the instant between the last look and the move. Raises UnknownModel, InvalidName,
    SamplesMissing, InvalidConfiguration, StorageCorrupt; then nothing is written.
    """
    registry = Registry(storage)
    candidate = registry.resolve(name)
    alias = ModelName(candidate.base, candidate.task, gate.alias)
    present = registry.find(alias)
    if present == candidate:
        return Promotion(candidate, gate.alias, False, None, None)
    decision = _decide(registry, candidate, present, gate)
    record = _known(decision, storage) or _keep(decision, storage)
    if decision.promoted and registry.find(alias) != present:
        decision = _overtaken(decision, registry.find(alias))
        record = _keep(decision, storage)
    if decision.promoted:
        registry.alias(candidate, gate.alias)
    return Promotion(candidate, gate.alias, decision.promoted, decision, record)


def decisions(name: str, storage: Storage) -> list[tuple[str, Decision]]:
    """Every decision on an adapter with the place of its record, the oldest first.

    Raises InvalidName, StorageCorrupt.
    """
    adapter = ModelName.parse(name)
    if adapter.task is None:
        raise InvalidName(f"'{name}' is a base; name an adapter as BASE/TASK")
    folder = _folder(adapter)
    places = [f"{folder}/{file}" for file in storage.names(folder) if file.endswith(".json")]
    return [(place, _read(place, storage)) for place in places]


def _decide(
    registry: Registry, candidate: ModelName, present: ModelName | None, gate: Gate
) -> Decision:
    rival = None if gate.over == "base" else present
    if gate.over == "alias" and rival is None:
        raise SamplesMissing(
            f"'{candidate.adapter}' has no alias '{gate.alias}' to be held against; "
            "leave --over out, or hold it against the base"
        )
    answers = judged_answers(registry, candidate, rival)
    task, ours, theirs = get_task(answers.task), answers.ours, answers.theirs
    comparison = compare(pair(task.name, ours, theirs))
    secondary = score(task, ours, theirs, *answers.places, "storage").secondary
    found = guards(gate, ours, theirs, secondary, over_base=rival is None)
    others = [answers_on(task, registry.storage, candidate, rival) for task in gate.tasks]
    found += [task_guard(one.task, one.ours, one.theirs, gate.tasks[one.task]) for one in others]
    reasons = reasons_against(gate, comparison, str(rival or f"base {candidate.base}"), found)
    places = [place for one in (answers, *others) for place in one.places]
    means = comparison.means
    return Decision(
        model=str(candidate),
        gate=gate,
        previous=present.version if present else None,
        rival=rival.version if rival else None,
        metric=task.metric,
        items=comparison.items,
        units=comparison.units,
        ours=_bounds(means.ours),
        theirs=_bounds(means.theirs),
        lift=_bounds(means.lift),
        p_value=comparison.test.p_value,
        test=comparison.test.method,
        detectable=comparison.detectable(),
        guards=tuple(found),
        evidence=tuple(_evidence(place, registry.storage) for place in places),
        promoted=not reasons,
        reasons=tuple(reasons),
        decided=utc_now(),
    )


def _bounds(interval: Interval) -> Bounds:
    return Bounds(mean=interval.mean, low=interval.low, high=interval.high)


def _evidence(place: str, storage: Storage) -> Evidence:
    return Evidence(path=place, sha256=hashlib.sha256(storage.read(place)).hexdigest())


def _folder(adapter: ModelName) -> str:
    return f"{FOLDER}/{adapter.base}/{adapter.task}"


def _keep(decision: Decision, storage: Storage) -> str:
    """Write a record under the present moment, so that names sort by time."""
    name = ModelName.parse(decision.model)
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    place = f"{_folder(name)}/{moment}-{name.version}.json"
    storage.write_json(place, decision.model_dump(mode="json"))
    return place


def _known(decision: Decision, storage: Storage) -> str | None:
    """The newest record of the adapter, if it tells the same but for the moment.

    Then the command was killed before the alias moved, or refused the version just like this.
    """
    folder = _folder(ModelName.parse(decision.model))
    files = [file for file in storage.names(folder) if file.endswith(".json")]
    if not files:
        return None
    place = f"{folder}/{files[-1]}"
    last = _read(place, storage).model_copy(update={"decided": decision.decided})
    return place if last == decision else None


def _overtaken(decision: Decision, now: ModelName | None) -> Decision:
    reason = (
        f"alias '{decision.gate.alias}' went from {decision.previous or 'nothing'} to "
        f"{now.version if now else 'nothing'} while this was decided; start the command again"
    )
    return decision.model_copy(update={"promoted": False, "reasons": (reason,)})


def _read(place: str, storage: Storage) -> Decision:
    try:
        return Decision.model_validate_json(storage.read(place))
    except ValidationError as error:
        raise StorageCorrupt(
            f"{storage.describe(place)} is not a decision ({error.error_count()} mistakes); "
            "remove it, and promote again"
        ) from None
