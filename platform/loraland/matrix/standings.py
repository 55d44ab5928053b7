"""The finished cells of a space with their item scores, read from storage for a leaderboard.

    cells/<id>/result.json                       the records, through the ledger
    samples/<base>/<task>/<model>-<key>.parquet  the answers of adapters and bases
    samples/<endpoint>/<task>/*.parquet          those of an outside endpoint

Needs no model, no registry and no Ray.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

from loraland.errors import SamplesMissing, did_you_mean
from loraland.evaluation.comparison import Pairs, pair, same_items
from loraland.evaluation.leaderboard import BASE, Judged
from loraland.evaluation.samples import Sample, read_samples
from loraland.matrix.ledger import CellRecord, Ledger
from loraland.matrix.space import Space
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task

READERS = 16  # files that are read at once: on an object store each takes a request or two


def standings(space: Space, storage: Storage, endpoints: Sequence[str] = ()) -> list[Judged]:
    """The finished cells of a space, in its order.

    A cell whose samples are gone has no opponents. An endpoint is an opponent where the samples of
    some model below its folder answer the cell's own items. Raises StorageCorrupt, and
    SamplesMissing when there is no sample of an endpoint at all.
    """
    known = storage.names("samples")
    for name in endpoints:
        if name not in known:
            raise SamplesMissing(
                f"no samples of an endpoint '{name}' below {storage.describe('samples')}; "
                f"{did_you_mean(name, known)}"
            )
    records = Ledger(storage).results(space.cells)
    finished = [(cell, records[cell.id]) for cell in space.cells if cell.id in records]
    with ThreadPoolExecutor(READERS) as readers:
        opponents = list(
            readers.map(lambda one: _opponents(one[0].task, one[1], storage, endpoints), finished)
        )
    return [
        Judged(
            base=cell.base_name,
            task=cell.task,
            category=get_task(cell.task).category,
            model=record.model,
            score=record.score,
            opponents=found,
            marks=record.marks,
        )
        for (cell, record), found in zip(finished, opponents, strict=True)
    ]


def _opponents(
    task: str, record: CellRecord, storage: Storage, endpoints: Sequence[str]
) -> dict[str, Pairs]:
    ours = _samples(record.score.samples, storage)
    if ours is None:
        return {}
    found = {}
    places = {BASE: [record.score.base_samples]}
    for name in endpoints:
        folder = f"samples/{name}/{task}"
        places[name] = [f"{folder}/{file}" for file in storage.names(folder)]
    for name, files in places.items():
        theirs = _of_the_same_items(ours, (_samples(file, storage) for file in files))
        if theirs is not None:
            found[name] = pair(task, ours, theirs)
    return found


def _of_the_same_items(
    ours: Sequence[Sample], candidates: Iterable[list[Sample] | None]
) -> list[Sample] | None:
    return next((one for one in candidates if one is not None and same_items(ours, one)), None)


def _samples(path: str, storage: Storage) -> list[Sample] | None:
    try:
        return read_samples(storage, path)[0]
    except SamplesMissing:
        return None
