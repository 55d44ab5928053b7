"""Asks a column of finished cells what is left of it, here and with one base in memory.

The base is loaded only when something is left; adapters are fetched as they come due. Grades
nothing (`rescoring` does), and knows nothing of Ray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.errors import AdapterRejected, LoraLandError
from loraland.evaluation.generation import Asked, OnAnswer, generate, left
from loraland.evaluation.parts import PartWriter, borrow
from loraland.matrix.cell import CellEvent
from loraland.matrix.columns import NOT_ASKED, Asking, Column, Trouble
from loraland.matrix.work import OnEvent
from loraland.storage import Storage

STAGE = "judge"  # of the events of a column, whose `cell` is the column's label


def ask_column(
    column: Column,
    storage: Storage,
    on_event: OnEvent = lambda event: None,
    *,
    device: str | None = None,
) -> Asking:
    """Ask what neither samples nor parts answer. Killed, the same call goes on from the parts.

    A cell that cannot be asked leaves the others alone. Raises what storage raises.
    """
    writer, sittings = PartWriter(storage), column.sittings
    asked = left(sittings, storage)
    wanted = sum(len(one.sitting.exam.items) for one in asked)
    borrowed = sum(borrow(one.sitting, storage, writer) for one in asked)
    if borrowed:
        asked = left([one.sitting for one in asked], storage)
    if not asked:
        return NOT_ASKED._replace(wanted=wanted, borrowed=borrowed)
    on_event(CellEvent(column.label, "base", 0, 0))
    done = 0

    def tell(answers: int, total: int) -> None:
        nonlocal done
        done = answers
        on_event(CellEvent(column.label, STAGE, answers, total, note="asking"))

    first = column.candidates[0].cell
    try:
        base = load_base(find_base(column.base), first.recipe.precision, device)
    except LoraLandError as error:
        failures = {one.sitting.place: error for one in asked}
    else:
        failures = _ask(base, asked, column, storage, tell)
    return Asking(wanted, borrowed, done, _troubles(column, failures))


def _ask(
    base: LoadedBase,
    asked: Sequence[Asked],
    column: Column,
    storage: Storage,
    tell: OnAnswer,
) -> dict[str, LoraLandError]:
    """Why sittings could not be brought to their end, by their place."""
    prepare_for_inference(base)
    ready, failures = [], dict[str, LoraLandError]()
    for one in asked:
        if one.sitting.exam.base_fingerprint == base.fingerprint:
            ready.append(one)
        else:
            failures[one.sitting.place] = _other_base(one, base)
    registry = Registry(storage)
    names = {(name := ModelName.parse(one.record.model)).version: name for one in column.candidates}
    with tempfile.TemporaryDirectory(prefix="loraland-") as place:

        def fetch(version: str) -> Path:
            return registry.fetch(names[version], Path(place))

        return failures | generate(base, ready, fetch, storage, tell)


def _other_base(asked: Asked, base: LoadedBase) -> AdapterRejected:
    exam = asked.sitting.exam
    return AdapterRejected(
        f"{asked.sitting.label}: its answers are those of a base with fingerprint "
        f"{exam.base_fingerprint[:12]}, the one here has {base.fingerprint[:12]}; use the same "
        "weights, or train again"
    )


def _troubles(column: Column, failures: dict[str, LoraLandError]) -> list[Trouble]:
    """The cells whose own answers or whose base's are not all there."""
    found = []
    for one in column.candidates:
        places = [sitting.place for sitting in one.sittings or ()]
        error = next((failures[place] for place in places if place in failures), None)
        if error is not None:
            found.append(Trouble(one.cell, error))
    return found
