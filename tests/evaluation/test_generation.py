"""Columns of a tiny base: mixed, bounded, killed and gone on with, never graded while asked."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Request
from loraland.engine.runner import Runner
from loraland.engine.text import stop_token_ids
from loraland.errors import AdapterRejected, MetricUnavailable, SamplesMissing
from loraland.evaluation import generation, keeping, parts
from loraland.evaluation.answering import answer
from loraland.evaluation.exam import Exam, Sitting
from loraland.evaluation.generation import Asked, generate, left
from loraland.evaluation.parts import PartWriter, borrow, has_samples, kept_answers, merge
from loraland.evaluation.samples import Sample, read_samples, write_samples
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split

pytestmark = pytest.mark.slow

VERSIONS = [digit * 12 for digit in "abcde"]
Fetch = Callable[[str], Path]


@pytest.fixture(scope="module")
def fetch(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Fetch:
    """Folders of random adapters that change what the base says."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, version in enumerate(VERSIONS):
        base = load_tiny("llama", tiny_folders["llama"])
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
        peft = get_peft_model(base.model, config)
        chance = torch.Generator().manual_seed(seed)
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.data = torch.randn(weight.shape, generator=chance) * 0.3
        peft.save_pretrained(root / version)
    return lambda version: root / version


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Every request that an engine takes in."""
    seen: list[Request] = []
    submit = BatchedEngine.submit

    def note(self: BatchedEngine, request: Request) -> Any:
        seen.append(request)
        return submit(self, request)

    monkeypatch.setattr(BatchedEngine, "submit", note)
    return seen


def exam_of(base: LoadedBase, task: str = "dates", items: int = 6) -> Exam:
    found, rehearsal = get_task(task), task not in ("dates", "topics")
    split = load_split(found, "test", limit=items, rehearsal=rehearsal)
    return Exam.of(split.task if rehearsal else found, split, "tiny", base.fingerprint, "fp32")


def sittings_of(exam: Exam, versions: Sequence[str] = VERSIONS) -> list[Sitting]:
    return [Sitting.of(exam, model) for model in (None, *versions)]


def outputs(storage: Storage, sitting: Sitting) -> list[str]:
    return [sample.output for sample in read_samples(storage, sitting.place)[0]]


def test_a_mixed_column_answers_as_each_model_does_alone(
    base: LoadedBase, fetch: Fetch, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []  # models in one pass
    run = Runner.run

    def note(self: Runner, works: Any, slots: Sequence[int], choosers: Any) -> Any:
        together.append(len(set(slots)))
        return run(self, works, slots, choosers)

    exams = [exam_of(base, "dates"), exam_of(base, "topics", 5)]
    column = [sitting for exam in exams for sitting in sittings_of(exam)]
    with monkeypatch.context() as patch:
        patch.setattr(Runner, "run", note)
        assert generate(base, left(column, storage), fetch, storage) == {}
    assert max(together) > 3
    for sitting in column:
        merge(sitting, storage)
    stops = stop_token_ids(base.tokenizer, base.model)

    async def alone(sitting: Sitting) -> list[Sample]:
        engine = BatchedEngine.of(base)
        try:
            if sitting.model is not None:
                await engine.load(sitting.model, fetch(sitting.model))
            task, items = sitting.exam.task, sitting.exam.items
            return await answer(engine, base.tokenizer, stops, task, items, sitting.model)
        finally:
            await engine.close()

    said = set()
    for sitting in column:
        expected = asyncio.run(alone(sitting))
        found, stamp = read_samples(storage, sitting.place)
        assert [replace(s, ms=0.0) for s in found] == [replace(s, ms=0.0) for s in expected]
        assert stamp == sitting.stamp
        said.add(tuple(sample.output for sample in found))
    assert len(said) == len(column), "the adapters of this test say the same as others"
    assert storage.walk("parts") == []


def test_adapters_are_loaded_as_they_come_due(
    base: LoadedBase, fetch: Fetch, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: set[str] = set()
    most = 0
    load, unload = BatchedEngine.load, BatchedEngine.unload

    async def note_load(self: BatchedEngine, version: str, folder: Path) -> None:
        nonlocal most
        loaded.add(version)
        most = max(most, len(loaded))
        await load(self, version, folder)

    async def note_unload(self: BatchedEngine, version: str) -> None:
        loaded.discard(version)
        await unload(self, version)

    monkeypatch.setattr(BatchedEngine, "load", note_load)
    monkeypatch.setattr(BatchedEngine, "unload", note_unload)
    monkeypatch.setattr(generation, "OPEN", 2)
    column = [*sittings_of(exam_of(base)), *sittings_of(exam_of(base, "topics"), VERSIONS[:1])]
    assert generate(base, left(column, storage), fetch, storage) == {}
    assert (most, loaded) == (2, set())
    assert left(column, storage) == []


def test_requests_under_way_are_bounded_and_open_models_take_turns(
    base: LoadedBase,
    fetch: Fetch,
    storage: Storage,
    asked: list[Request],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generation, "AT_ONCE", 5)
    answered = 0
    under_way: list[int] = []

    def note(done: int, total: int) -> None:
        nonlocal answered
        answered = done
        under_way.append(len(asked) - done)
        assert total == 36

    column = sittings_of(exam_of(base))
    assert generate(base, left(column, storage), fetch, storage, note) == {}
    assert answered == len(asked) == 36
    assert max(under_way) <= 5
    # The first models begin before any of them has ended.
    assert len({request.adapter for request in asked[:12]}) >= 3


KILLED = """
import json, os, signal, sys
from pathlib import Path
from loraland.bases.tiny import load_tiny
from loraland.engine.batched import BatchedEngine
from loraland.evaluation import keeping
from loraland.evaluation.generation import generate, left
from loraland.storage import Storage
from tests.evaluation.test_generation import exam_of, sittings_of

folder, adapters, storage, log, die_at = json.loads(sys.argv[1])
keeping.FLUSH_ANSWERS = 4
submit, written = BatchedEngine.submit, open(log, "a", buffering=1)

def note(self, request):
    written.write(request.id + "\\n")
    return submit(self, request)

def kill(done, total):
    if done == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

BatchedEngine.submit = note
base, storage = load_tiny("llama", Path(folder)), Storage.open(storage)
column = sittings_of(exam_of(base, items=30))
failures = generate(base, left(column, storage), lambda v: Path(adapters) / v, storage, kill)
sys.exit(len(failures))
"""


def test_killed_with_sigkill_it_goes_on_and_asks_nothing_that_was_kept(
    base: LoadedBase,
    fetch: Fetch,
    tiny_folders: dict[str, Path],
    storage: Storage,
    asked: list[Request],
    tmp_path: Path,
) -> None:
    root, log = Path(__file__).resolve().parents[2], tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    adapters = str(fetch(VERSIONS[0]).parent)
    told = [str(tiny_folders["llama"]), adapters, storage.uri, str(log), 120]
    command = [sys.executable, "-c", KILLED, json.dumps(told)]
    done = subprocess.run(command, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    first = set(log.read_text().split())
    column = sittings_of(exam_of(base, items=30))
    kept = {f"{s.place}#{item}" for s in column for item in kept_answers(s, storage)}
    assert 0 < len(kept) <= 120

    assert generate(base, left(column, storage), fetch, storage) == {}
    second = [request.id for request in asked]
    assert len(set(second)) == len(second)
    assert kept.isdisjoint(second)
    assert kept | set(second) == {f"{s.place}#{item}" for s in column for item in range(30)}
    # Twice was asked what was under way, or waited for its part.
    assert first & set(second) == first - kept

    whole = Storage.open(str(tmp_path / "whole"))
    generate(base, left(column, whole), fetch, whole)
    for sitting in column:
        merge(sitting, storage)
        merge(sitting, whole)
        assert outputs(storage, sitting) == outputs(whole, sitting)


def test_one_that_ends_in_any_other_way_loses_no_answer(
    base: LoadedBase, fetch: Fetch, storage: Storage
) -> None:
    told = 0

    def interrupt(done: int, _: int) -> None:
        nonlocal told
        told = done
        if done == 10:
            raise RuntimeError("somebody stopped it")

    column = sittings_of(exam_of(base))
    with pytest.raises(RuntimeError, match="somebody stopped it"):
        generate(base, left(column, storage), fetch, storage, interrupt)
    kept = sum(len(kept_answers(sitting, storage)) for sitting in column)
    assert kept >= told >= 10
    assert sum(len(one.items) for one in left(column, storage)) == 36 - kept


@pytest.mark.parametrize("when", ["full part", "clock"])
def test_lost_storage_ends_the_asking_with_its_own_error(
    base: LoadedBase,
    fetch: Fetch,
    storage: Storage,
    asked: list[Request],
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(PartWriter, "write", full)
    monkeypatch.setattr(keeping, "FLUSH_ANSWERS", 2 if when == "full part" else 10_000)
    monkeypatch.setattr(keeping, "FLUSH_S", 60.0 if when == "full part" else 0.0)
    monkeypatch.setattr(generation, "AT_ONCE", 4)
    column = sittings_of(exam_of(base, items=20))
    with pytest.raises(OSError, match="no space left"):
        generate(base, left(column, storage), fetch, storage)
    assert len(asked) < 120


def test_an_adapter_that_cannot_be_loaded_leaves_the_others_alone(
    base: LoadedBase, fetch: Fetch, storage: Storage, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    column = sittings_of(exam_of(base))
    bad = column[2]

    def some(version: str) -> Path:
        return tmp_path / "broken" if version == bad.model else fetch(version)

    failures = generate(base, left(column, storage), some, storage)
    assert list(failures) == [bad.place]
    assert isinstance(failures[bad.place], AdapterRejected)
    assert [one.sitting.place for one in left(column, storage)] == [bad.place]


def test_a_damaged_part_is_asked_again_and_parts_of_other_exams_are_not_read(
    base: LoadedBase, fetch: Fetch, storage: Storage
) -> None:
    sitting = Sitting.of(exam_of(base), None)
    generate(base, left([sitting], storage), fetch, storage)
    assert left([sitting], storage) == []
    folder = parts.parts_folder(sitting)
    [name] = storage.names(folder)
    good = storage.read(f"{folder}/{name}")
    storage.write(f"{folder}/{name}", good[: len(good) // 2])
    assert len(left([sitting], storage)[0].items) == 6
    with pytest.raises(SamplesMissing, match="6 of 6 items"):
        merge(sitting, storage)
    storage.write(f"{folder}/{name}", good)
    samples, stamp = read_samples(storage, f"{folder}/{name}")
    write_samples(storage, f"{folder}/{name}", samples, stamp | {"precision": "nf4"})
    assert kept_answers(sitting, storage) == {}


def test_two_processes_that_ask_the_same_leave_one_answer_each(
    base: LoadedBase, fetch: Fetch, storage: Storage
) -> None:
    sitting = Sitting.of(exam_of(base), VERSIONS[0])
    everything = [Asked(sitting, tuple(range(6)))]
    for _ in range(2):
        generate(base, everything, fetch, storage)
    assert len(storage.names(parts.parts_folder(sitting))) == 2
    merge(sitting, storage)
    assert [s.item for s in read_samples(storage, sitting.place)[0]] == list(range(6))
    assert has_samples(sitting, storage)


def test_programs_are_neither_run_nor_graded_while_asked(
    base: LoadedBase, fetch: Fetch, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORALAND_RUN_CODE", raising=False)
    exam = exam_of(base, "magicoder", 3)
    exam = replace(exam, task=replace(exam.task, metric="humaneval", max_new_tokens=16))
    sitting = Sitting.of(exam, VERSIONS[0])
    assert generate(base, left([sitting], storage), fetch, storage) == {}
    kept = kept_answers(sitting, storage)
    assert {(s.parsed, s.score) for s in kept.values()} == {(None, 0.0)}
    assert all(s.output for s in kept.values())
    with pytest.raises(MetricUnavailable):
        merge(sitting, storage)
    assert not storage.exists(sitting.place)
    assert kept_answers(sitting, storage) == kept


def test_more_items_are_asked_without_those_of_the_shorter_exam(
    base: LoadedBase, fetch: Fetch, storage: Storage, asked: list[Request]
) -> None:
    few, many = (Sitting.of(exam_of(base, items=n), VERSIONS[0]) for n in (4, 10))
    generate(base, left([few], storage), fetch, storage)
    merge(few, storage)
    asked.clear()
    assert borrow(many, storage, PartWriter(storage)) == 4
    assert borrow(many, storage, PartWriter(storage)) == 0
    generate(base, left([many], storage), fetch, storage)
    assert len(asked) == 6
    merge(many, storage)
    assert outputs(storage, many)[:4] == outputs(storage, few)
    assert borrow(Sitting.of(exam_of(base, items=12), None), storage, PartWriter(storage)) == 0
