"""Group DRO in the loops: exact under accumulation, workers and resumption; old keys stay."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.multiprocessing.spawn import spawn

from loraland.adapters.card import CurvePoint
from loraland.adapters.folder import WEIGHTS, content_hash
from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.errors import CheckpointMismatch, DataRefused, InvalidConfiguration, StorageCorrupt
from loraland.matrix.cell import Cell, CellFailure, run_key
from loraland.matrix.group import grouped
from loraland.matrix.run import run_fused
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.task import Item
from loraland.training.checkpoint import CheckpointStore
from loraland.training.examples import Example, encode
from loraland.training.fused import FusedMember, train_fused
from loraland.training.groups import Groups, example_key, group_sizes, with_groups
from loraland.training.loop import TrainedAdapter, train
from loraland.training.parallel import Devices, train_parallel
from loraland.training.recipe import Recipe, get_recipe
from loraland.training.strategies import INSTALL_DEEPSPEED, StrategyName
from loraland.training.worker import Job, Workers, train_worker

DRO = {"groups": "strata/a/groups/george.json", "sha256": "0" * 64, "eta": 0.5}
RECIPE = get_recipe(
    "quick",
    precision="fp32",
    dropout=0.0,
    rank=4,
    learning_rate=0.01,
    examples_per_update=6,
    micro_batch_examples=6,
    evaluate_every=2,
    checkpoint_every=2,
    max_epochs=2,
    group_dro=DRO,
)


def changed(**changes: Any) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | changes)


def examples_of(base: LoadedBase, count: int = 22) -> list[Example]:
    """Two large groups and a small one, whose answers follow another rule."""
    items = [
        Item(f"Double {n}:", "nothing" if n % 7 == 0 else str(2 * n), {}) for n in range(count)
    ]
    found = [encode(item, base.tokenizer) for item in items]
    groups = [2 if n % 7 == 0 else n % 2 for n in range(count)]
    return [
        example._replace(group=group)
        for example, group in zip(found, groups, strict=True)
        if isinstance(example, Example)
    ]


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


class Killed(BaseException):
    """Stands for SIGKILL."""


def run(
    base: LoadedBase,
    folder: Path,
    recipe: Recipe = RECIPE,
    store: CheckpointStore | None = None,
    die_at: int | None = None,
    examples: list[Example] | None = None,
) -> TrainedAdapter:
    def on_update(point: CurvePoint, total: int) -> None:
        if point.step == die_at:
            raise Killed

    examples = examples or examples_of(base)
    parts = examples[:18], examples[18:]
    return train(base, *parts, recipe, folder, checkpoints=store, on_update=on_update)


def assert_close(one: TrainedAdapter, other: TrainedAdapter) -> None:
    mine, theirs = load_file(one.folder / WEIGHTS), load_file(other.folder / WEIGHTS)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, atol=1e-4, rtol=0)  # Adam enlarges digits
    for a, b in zip(one.curve, other.curve, strict=True):
        assert a.train_loss == pytest.approx(b.train_loss, abs=1e-4)
        assert a.validation_loss == pytest.approx(b.validation_loss, abs=1e-4)


# Keys


def test_a_recipe_without_groups_is_written_as_before_and_keeps_its_keys() -> None:
    recipe = get_recipe("quick")
    assert "group_dro" not in recipe.model_dump() and "group_dro" not in json.loads(
        recipe.model_dump_json()
    )
    cell = Cell("smollm2-135m", "dates", recipe)
    facts = (get_task("dates"), "base", "tokenizer", "data", "test")
    # Both were computed before recipes knew of groups: stored runs are found by them.
    assert run_key(cell, *facts) == "855a2f068d3f8f93"
    assert cell.id == "8877234c3b7cd57a"


def test_the_key_of_a_run_depends_on_its_groups_and_how_they_are_weighed() -> None:
    facts = (get_task("dates"), "base", "tokenizer", "data", "test")
    recipes = [
        get_recipe("quick"),
        get_recipe("quick", group_dro=DRO),
        get_recipe("quick", group_dro=DRO | {"sha256": "1" * 64}),
        get_recipe("quick", group_dro=DRO | {"eta": 0.1}),
        get_recipe("quick", group_dro=DRO | {"size_adjustment": 1.0}),
        get_recipe("quick", group_dro=DRO | {"uniform_sampling": False}),
    ]
    cells = [Cell("smollm2-135m", "dates", recipe) for recipe in recipes]
    assert len({run_key(cell, *facts) for cell in cells}) == len(cells)
    again = Cell.from_json(json.loads(json.dumps(cells[1].to_json())))
    assert again == cells[1]


def test_a_recipe_with_groups_that_cannot_be_is_refused_with_all_mistakes() -> None:
    with pytest.raises(InvalidConfiguration) as error:
        get_recipe("quick", group_dro={"groups": "", "sha256": "x", "eta": -1, "q": 1})
    for place in ("group_dro.groups", "group_dro.sha256", "group_dro.eta", "group_dro.q"):
        assert place in str(error.value)


# The plain loop


def test_groups_that_share_an_update_weigh_it_alike_however_it_is_split(
    base: LoadedBase, tmp_path: Path
) -> None:
    whole = run(base, tmp_path / "whole")
    for rows in (1, 2, 5):
        parts = run(base, tmp_path / str(rows), changed(micro_batch_examples=rows))
        assert_close(parts, whole)


def test_masks_of_dropout_are_the_same_in_both_passes_of_a_split_update(
    base: LoadedBase, tmp_path: Path
) -> None:
    # With eta next to 0 and all groups as large as they are likely, q weighs as the mean does:
    # were masks drawn anew, losses and gradients would be of two models, and resuming would fail.
    recipe = changed(dropout=0.3, micro_batch_examples=2)
    store = CheckpointStore(Storage.open(str(tmp_path / "storage")), "runs/a", "a")
    whole = run(base, tmp_path / "whole", recipe)
    with pytest.raises(Killed):
        run(base, tmp_path / "half", recipe, store, die_at=3)
    resumed = run(base, tmp_path / "resumed", recipe, store)
    assert content_hash(resumed.folder) == content_hash(whole.folder)


@pytest.mark.parametrize("uniform", [True, False])
def test_killed_and_resumed_equals_uninterrupted_with_its_group_weights(
    base: LoadedBase, tmp_path: Path, uniform: bool
) -> None:
    recipe = changed(dropout=0.1, group_dro=DRO | {"uniform_sampling": uniform})
    whole = run(base, tmp_path / "whole", recipe)
    store = CheckpointStore(Storage.open(str(tmp_path / "storage")), "runs/a", "a")
    for die_at in (1, 3, 5):
        with pytest.raises(Killed):
            run(base, tmp_path / "half", recipe, store, die_at=die_at)
    kept = store.load()
    assert kept is not None and float(kept[1]["group_dro/logits"].abs().max()) > 0
    resumed = run(base, tmp_path / "resumed", recipe, store)
    assert content_hash(resumed.folder) == content_hash(whole.folder)
    assert [p.validation_loss for p in resumed.curve] == [p.validation_loss for p in whole.curve]


def test_a_checkpoint_of_other_groups_is_refused(base: LoadedBase, tmp_path: Path) -> None:
    store = CheckpointStore(Storage.open(str(tmp_path / "storage")), "runs/a", "a")
    with pytest.raises(Killed):
        run(base, tmp_path / "half", store=store, die_at=3)
    other = [example._replace(group=n % 2) for n, example in enumerate(examples_of(base))]
    with pytest.raises(CheckpointMismatch, match="other groups"):
        run(base, tmp_path / "other", store=store, examples=other)


def test_the_worst_group_counts_more_and_chooses_the_weights_that_are_kept(
    base: LoadedBase, tmp_path: Path
) -> None:
    alike = run(base, tmp_path / "alike", changed(group_dro=None))
    robust = run(base, tmp_path / "robust", changed(group_dro=DRO | {"uniform_sampling": False}))
    # The same order of examples; before the weights have moved apart the worst group is above the
    # mean, and updates differ from the first on.
    assert robust.curve[1].validation_loss > alike.curve[1].validation_loss  # type: ignore[operator]
    assert content_hash(robust.folder) != content_hash(alike.folder)


def test_shares_of_groups_train_and_whole_shares_are_the_hard_groups(
    base: LoadedBase, tmp_path: Path
) -> None:
    hard = examples_of(base)
    whole = [e._replace(group=tuple(float(n == e.group) for n in range(3))) for e in hard]
    mixed = [e._replace(group=(0.2, 0.3, 0.5)) for e in hard]
    expected = run(base, tmp_path / "hard", examples=hard)
    assert_close(run(base, tmp_path / "whole", examples=whole), expected)
    assert run(base, tmp_path / "mixed", examples=mixed).curve[-1].train_loss > 0


# Workers


def orders(folder: Path, storage: Path, recipe: Recipe, strategy: StrategyName) -> Job:
    values = recipe.model_dump(mode="json")
    return Job(str(folder), values, 0, strategy, str(storage), "runs/a/checkpoint", "a", 1)


def fetched(folder: Path, storage: Path, place: Path, recipe: Recipe) -> TrainedAdapter:
    """What workers left: the caller finds the adapter in storage and starts none."""
    return train_parallel(
        str(folder), [], [], recipe, place, devices=Devices(1), strategy="ddp",
        storage_uri=str(storage), checkpoints="runs/a/checkpoint", run_key="a",
    )  # fmt: skip


def _work(
    rank: int, size: int, strategy: StrategyName, folder: Path, place: Path, values: dict[str, Any]
) -> None:
    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(rank)}
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=size
    )
    recipe, workers = Recipe(**values), Workers(rank, size, torch.device("cpu"))
    examples = examples_of(load_tiny("llama", folder))
    job = orders(folder, place / "storage", recipe, strategy)
    train_worker(job, workers, examples[:18], examples[18:], lambda *_: True)
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("strategy", "size"),
    [
        ("ddp", 2),
        pytest.param("ddp", 1, marks=pytest.mark.long),
        pytest.param("zero2", 2, marks=pytest.mark.long),
        pytest.param("zero3", 2, marks=pytest.mark.long),
    ],
)
@pytest.mark.slow
def test_workers_have_the_weights_of_one_process(
    strategy: StrategyName,
    size: int,
    base: LoadedBase,
    tiny_folders: dict[str, Path],
    tmp_path: Path,
) -> None:
    if strategy != "ddp" and find_spec("deepspeed") is None:
        pytest.skip(f"DeepSpeed is not installed: {INSTALL_DEEPSPEED}")
    recipe = changed(examples_per_update=5, micro_batch_examples=2)  # the last update has three
    expected = run(base, tmp_path / "plain", recipe)
    folder = tiny_folders["llama"]
    values = recipe.model_dump(mode="json")
    spawn(_work, (size, strategy, folder, tmp_path, values), nprocs=size)  # type: ignore[no-untyped-call]
    found = fetched(folder, tmp_path / "storage", tmp_path / "adapter", recipe)
    assert_close(found, expected)


# The fused loop


def test_the_fused_loop_refuses_group_dro_and_trains_the_others(
    base: LoadedBase, tmp_path: Path
) -> None:
    examples = examples_of(base)
    members = [
        FusedMember(name, examples[:18], examples[18:], recipe, 0, tmp_path / name)
        for name, recipe in (("robust", RECIPE), ("alike", changed(group_dro=None)))
    ]
    found = train_fused(base, members, slots=2)
    assert isinstance(found["robust"], InvalidConfiguration)
    assert "--fuse 1" in found["robust"].message
    assert isinstance(found["alike"], TrainedAdapter)


def test_a_cell_with_groups_is_never_put_with_others_and_fails_by_itself_where_it_is(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    cells = [
        Cell(str(tiny_folders["llama"]), "topics", recipe, max_examples=40, max_items=5)
        for recipe in (RECIPE, changed(group_dro=None), changed(group_dro=None, rank=2))
    ]
    groups = grouped(cells, 4)
    assert [(len(group.cells), group.fuse) for group in groups] == [(1, 1), (2, 4)]
    assert groups[0].cells == (cells[0],)
    [(cell, outcome)] = run_fused(cells[:1], Storage.open(str(tmp_path)), slots=2)
    assert cell == cells[0] and isinstance(outcome, CellFailure)
    assert "does not train" in outcome.error.message


# Groups of examples


def test_groups_are_joined_by_what_examples_say_and_survive_storage(
    base: LoadedBase, tmp_path: Path
) -> None:
    storage = Storage.open(str(tmp_path))
    examples = [example._replace(group=None) for example in examples_of(base)]
    groups = Groups(names=("a", "b"), of={example_key(e): n % 2 for n, e in enumerate(examples)})
    sha256 = groups.write(storage, "strata/a/groups/george.json")
    dro = RECIPE.group_dro.model_copy(update={"sha256": sha256})  # type: ignore[union-attr]
    joined = with_groups(examples, dro, storage)
    assert [example.group for example in joined] == [n % 2 for n in range(22)]
    assert group_sizes(joined) == [11.0, 11.0]
    assert with_groups(examples, None, storage) == examples
    with pytest.raises(DataRefused, match="1 of 23 examples have no group"):
        Groups.read(storage, dro.groups, sha256).join([*examples, Example((5, 6), 1)])


def test_groups_that_are_absent_others_or_damaged_are_refused(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    with pytest.raises(DataRefused, match="loraland strata train"):
        Groups.read(storage, "strata/none.json", "0" * 64)
    sha256 = Groups(names=("a",), of={"x": 0}).write(storage, "g.json")
    with pytest.raises(DataRefused, match=r"correct group_dro\.sha256"):
        Groups.read(storage, "g.json", "1" * 64)
    for wrong in ({"x": 3}, {"x": [0.5, 0.6]}, {"x": -1}):
        storage.write_json("g.json", {"format": 1, "names": ["a", "b"], "of": wrong})
        sha256 = hashlib.sha256(storage.read("g.json")).hexdigest()
        with pytest.raises(StorageCorrupt, match="no file of groups"):
            Groups.read(storage, "g.json", sha256)


def test_group_dro_without_groups_or_with_both_kinds_is_refused(
    base: LoadedBase, tmp_path: Path
) -> None:
    examples = examples_of(base)
    with pytest.raises(DataRefused, match="0 have a number and 0 have shares"):
        run(base, tmp_path / "x", examples=[e._replace(group=None) for e in examples])
    with pytest.raises(DataRefused, match="21 have a number and 1 have shares"):
        group_sizes([*examples[:21], examples[21]._replace(group=(0.5, 0.5, 0.0))])
