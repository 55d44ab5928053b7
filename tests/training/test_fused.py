"""Runs that share a base end as each would have ended alone, however they meet, part or die."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from peft import PeftModel
from torch import Tensor

from loraland.adapters.card import CurvePoint
from loraland.adapters.folder import content_hash
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.tiny import load_tiny
from loraland.errors import (
    CheckpointMismatch,
    InvalidConfiguration,
    TrainingDiverged,
)
from loraland.lora.weights import linears_of, read_adapter
from loraland.storage import Storage
from loraland.tasks.task import Item
from loraland.training.checkpoint import CheckpointStore
from loraland.training.examples import Example, encode
from loraland.training.fused import FusedMember, Outcome, train_fused
from loraland.training.gain import Gain, measure_gain
from loraland.training.loop import TrainedAdapter, train
from loraland.training.recipe import get_recipe

STEPS = 20
RECIPE = get_recipe(
    "quick",
    precision="fp32",
    rank=4,
    examples_per_update=4,
    examples_seen=4 * STEPS,
    max_epochs=None,
    evaluate_every=STEPS,
    checkpoint_every=4,
    micro_batch_tokens=256,
)

# Six runs that share nothing but the base. All make 20 updates of 20 examples.
RECIPES: dict[str, dict[str, Any]] = {
    "small": {"targets": ("q_proj", "v_proj"), "rank": 2, "optimizer": "adam"},
    "wide": {"rank": 16, "learning_rate": 5e-4, "weight_decay": 0.1},
    "one": {"targets": ("q_proj",), "alpha": 32, "schedule": "linear", "clip_norm": 0.1},
    "odd": {"rank": 3, "examples_per_update": 3, "examples_seen": 58, "length_window": 1},
    "lean": {"gradient_checkpointing": True, "schedule": "constant", "learning_rate": 1e-3},
    "late": {"rank": 8, "warmup_share": 0.5, "micro_batch_examples": 1},
}
WORDS = ["Double", "Say the number", "What follows after a rather longer question about", "Is"]


def examples_of(base: LoadedBase, count: int, kind: int = 0) -> list[Example]:
    """Short rows whose words, answers and lengths depend on the kind."""
    words, repeats = WORDS[kind % len(WORDS)], 1 + kind // 2
    items = [
        Item(f"{words} {n}{' and so on' * (n % repeats)}:", str((kind + 2) * n), {})
        for n in range(count)
    ]
    found = [encode(item, base.tokenizer) for item in items]
    assert all(isinstance(example, Example) for example in found)
    return [example for example in found if isinstance(example, Example)]


def members_of(base: LoadedBase, place: Path, **changes: Any) -> list[FusedMember]:
    """The six runs; `changes` of the recipe are for all."""
    members = []
    for kind, (name, own) in enumerate(RECIPES.items()):
        examples = examples_of(base, 24, kind)
        recipe = RECIPE.model_copy(update=own | changes)
        folder = place / name
        members.append(FusedMember(name, examples[4:], examples[:4], recipe, kind, folder))
    return members


def alone(base: LoadedBase, member: FusedMember, folder: Path) -> TrainedAdapter:
    """What the plain loop makes of a member."""
    return train(base, member.training, member.validation, member.recipe, folder, seed=member.seed)


def weights_in(folder: Path) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    return weights


def trained(outcome: Outcome) -> TrainedAdapter:
    assert isinstance(outcome, TrainedAdapter), outcome
    return outcome


def agree(
    fused: TrainedAdapter, plain: TrainedAdapter, tolerance: float = 1e-5, losses_rel: float = 1e-4
) -> None:
    ours, theirs = weights_in(fused.folder), weights_in(plain.folder)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=tolerance, rtol=0, msg=name)
    config = "adapter_config.json"
    assert (fused.folder / config).read_bytes() == (plain.folder / config).read_bytes()
    assert (fused.best_step, fused.stopped_early) == (plain.best_step, plain.stopped_early)
    assert [p.tokens for p in fused.curve] == [p.tokens for p in plain.curve]
    assert [p.learning_rate for p in fused.curve] == [p.learning_rate for p in plain.curve]
    for kind in ("train_loss", "validation_loss"):
        losses = [[getattr(p, kind) for p in run.curve] for run in (fused, plain)]
        assert [loss is None for loss in losses[0]] == [loss is None for loss in losses[1]]
        pairs = [pair for pair in zip(*losses, strict=True) if pair[1] is not None]
        assert [pair[0] for pair in pairs] == pytest.approx([p[1] for p in pairs], rel=losses_rel)


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


@pytest.mark.parametrize(
    ("architecture", "precision", "slots"),
    [
        ("llama", "fp32", 6),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("llama", "fp32", 1),
                ("llama", "fp32", 4),
                ("llama", "nf4", 6),
                ("mistral", "fp32", 6),
                ("phi", "fp32", 6),
                ("gemma", "fp32", 6),
            ]
        ),
    ],
)
def test_six_runs_at_once_end_with_the_weights_of_six_plain_runs(
    tiny_folders: dict[str, Path], tmp_path: Path, architecture: str, precision: str, slots: int
) -> None:
    base = load_tiny(architecture, tiny_folders[architecture], precision)  # type: ignore[arg-type]
    members = members_of(base, tmp_path)
    outcomes = train_fused(base, members, slots=slots)
    assert set(outcomes) == set(RECIPES)
    for member in members:
        plain = alone(base, member, tmp_path / "plain" / member.name)
        assert len(plain.curve) == STEPS
        assert max(value.abs().max() for value in weights_in(plain.folder).values()) > 1e-3
        agree(trained(outcomes[member.name]), plain)


@pytest.fixture(scope="module")
def real_runs(
    embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[TrainedAdapter, TrainedAdapter]]:
    """(fused, plain) of six runs on the real base at rates of 2.5e-5 to 1e-4."""
    place = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORALAND_CACHE", str(embedded_cache))
        base = load_base(find_base("smollm2-135m"), "fp32", "cpu")
    members = []
    for member in members_of(base, place, examples_per_update=2, examples_seen=2 * STEPS):
        rate = member.recipe.learning_rate / 20
        recipe = member.recipe.model_copy(update={"learning_rate": rate})
        members.append(replace(member, recipe=recipe, validation=member.validation[:1]))
    outcomes = train_fused(base, members, slots=4)
    return {
        member.name: (
            trained(outcomes[member.name]),
            alone(base, member, place / "plain" / member.name),
        )
        for member in members
    }


NOT_REACHED = pytest.mark.xfail(
    strict=False,
    reason="up to 9e-5 apart, less than one update: Adam divides by the size of a gradient, and "
    "lets the rounding of the smallest ones grow with the rate; the plain loop with other "
    "micro-batches differs from itself too",
)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=NOT_REACHED) if name in ("odd", "lean", "late") else name
        for name in RECIPES
    ],
)
def test_a_fused_run_on_the_real_base_ends_as_the_plain_one(
    real_runs: dict[str, tuple[TrainedAdapter, TrainedAdapter]], name: str
) -> None:
    agree(*real_runs[name])


def test_with_dropout_a_run_in_company_ends_as_it_does_alone(
    base: LoadedBase, tmp_path: Path
) -> None:
    members = members_of(base, tmp_path / "together", dropout=0.3, examples_seen=24)[3:]
    outcomes = train_fused(base, members, slots=3)
    for member in members:
        single = replace(member, folder=tmp_path / "alone" / member.name)
        [outcome] = train_fused(base, [single], slots=1).values()
        agree(trained(outcomes[member.name]), trained(outcome))
    other = replace(
        members[0],
        folder=tmp_path / "none",
        recipe=members[0].recipe.model_copy(update={"dropout": 0.0}),
    )
    [undropped] = train_fused(base, [other], slots=1).values()
    dropped = weights_in(trained(outcomes[other.name]).folder)
    differences = [
        (value - dropped[name]).abs().max()
        for name, value in weights_in(trained(undropped).folder).items()
    ]
    assert max(differences) > 1e-4


def test_a_run_that_ends_early_leaves_its_slot_to_the_next(
    base: LoadedBase, tmp_path: Path
) -> None:
    """Early stop, best weights and turnover, with another number of updates for each run."""
    told: list[str] = []
    members = [
        replace(
            member,
            recipe=member.recipe.model_copy(
                update={"learning_rate": 0.01, "evaluate_every": 1 + place, "patience": 1}
            ),
            on_update=lambda point, total, name=member.name: told.append(name),
        )
        for place, member in enumerate(members_of(base, tmp_path)[:4])
    ]
    ended: list[str] = []
    outcomes = train_fused(base, members, slots=2, on_finished=lambda name, _: ended.append(name))
    assert sorted(ended) == sorted(member.name for member in members)
    stopped = 0
    for member in members:
        plain = alone(base, member, tmp_path / "plain" / member.name)
        # At this rate rounding grows more quickly.
        agree(trained(outcomes[member.name]), plain, tolerance=1e-4, losses_rel=1e-3)
        stopped += plain.stopped_early
    assert stopped > 0
    first_of = {name: told.index(name) for name in set(told)}
    last_of = {name: len(told) - 1 - told[::-1].index(name) for name in set(told)}
    for place in range(len(told)):
        housed = [name for name in first_of if first_of[name] <= place <= last_of[name]]
        assert len(housed) <= 2


def test_a_run_that_diverges_ends_alone(base: LoadedBase, tmp_path: Path) -> None:
    members = members_of(base, tmp_path, examples_seen=16)[:3]
    wild, message = {"learning_rate": 1e20, "warmup_share": 0.0}, "the loss is nan at update 2"
    members[1] = replace(members[1], recipe=members[1].recipe.model_copy(update=wild))
    ended: dict[str, Outcome] = {}
    outcomes = train_fused(base, members, slots=3, on_finished=ended.__setitem__)
    assert ended == outcomes
    with pytest.raises(TrainingDiverged, match=message):
        alone(base, members[1], tmp_path / "plain" / "wild")
    failed = outcomes[members[1].name]
    assert isinstance(failed, TrainingDiverged) and message in failed.message
    assert not members[1].folder.exists()
    for member in (members[0], members[2]):
        plain = alone(base, member, tmp_path / "plain" / member.name)
        agree(trained(outcomes[member.name]), plain)


def test_targets_that_the_base_does_not_have_fail_one_run_only(
    base: LoadedBase, tmp_path: Path
) -> None:
    members = members_of(base, tmp_path, examples_seen=8)[:2]
    members[0] = replace(
        members[0], recipe=members[0].recipe.model_copy(update={"targets": ("sideways",)})
    )
    outcomes = train_fused(base, members, slots=2)
    failed = outcomes[members[0].name]
    assert isinstance(failed, InvalidConfiguration) and "sideways" in failed.message
    trained(outcomes[members[1].name])


def test_the_folder_is_what_everyone_reads_and_the_base_is_left_as_it_was(
    base: LoadedBase, tmp_path: Path
) -> None:
    ids = base.tokenizer("Double 3:", return_tensors="pt").input_ids
    modules = [name for name, _ in base.model.named_modules()]
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
    seen = []

    def on_finished(name: str, outcome: Outcome) -> None:
        with torch.no_grad():
            seen.append(torch.equal(base.model(input_ids=ids).logits, before))

    member = members_of(base, tmp_path)[4]  # with gradient checkpointing
    [outcome] = train_fused(base, [member], slots=1, on_finished=on_finished).values()
    assert seen == [True]
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, before)
    assert [name for name, _ in base.model.named_modules()] == modules
    assert not base.model.training
    assert not any(getattr(m, "gradient_checkpointing", False) for m in base.model.modules())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    folder = trained(outcome).folder
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert read_adapter(folder, linears_of(base.model)).rank == member.recipe.rank
    model: Any = PeftModel.from_pretrained(base.model, folder)
    assert model.peft_config["default"].r == member.recipe.rank


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it and tidy up the store."""


Run = Callable[..., dict[str, str]]


@pytest.fixture
def group(base: LoadedBase, tmp_path: Path) -> Run:
    """Runs three members in two slots, with dropout; the hashes of those that finished."""
    plan = {"small": 3, "odd": 7, "late": 5}  # updates of each, so that they come and go

    def run(
        storage: Storage | None,
        published: dict[str, str],
        on_update: Callable[[str, CurvePoint], None] = lambda name, point: None,
    ) -> dict[str, str]:
        members = []
        for member in members_of(base, tmp_path / "out"):
            if member.name not in plan or member.name in published:
                continue
            changes = {
                "dropout": 0.2,
                "examples_per_update": 4,
                "examples_seen": 4 * plan[member.name],
                "evaluate_every": 2,
                "patience": 9,
                "checkpoint_every": 2,
            }
            store = None
            if storage is not None:
                store = CheckpointStore(storage, f"runs/{member.name}/checkpoint", member.name)
            members.append(
                replace(
                    member,
                    recipe=member.recipe.model_copy(update=changes),
                    checkpoints=store,
                    on_update=lambda point, total, name=member.name: on_update(name, point),
                )
            )

        def publish(name: str, outcome: Outcome) -> None:
            published[name] = content_hash(trained(outcome).folder)
            if storage is not None:
                CheckpointStore(storage, f"runs/{name}/checkpoint", name).clear()

        train_fused(base, members, slots=2, on_finished=publish)
        return published

    return run


def test_killed_between_updates_and_resumed_equals_undisturbed(group: Run, tmp_path: Path) -> None:
    whole = group(None, {})
    assert len(set(whole.values())) == 3
    storage, published, told = Storage.open(str(tmp_path / "storage")), {}, 0

    def die(name: str, point: CurvePoint) -> None:
        nonlocal told
        told += 1
        if told in (3, 8, 11):
            raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            group(storage, published, die)
    assert group(storage, published) == whole
    assert storage.names("runs/odd") == []


@pytest.mark.parametrize(
    "save", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 1, 2, 4, 5, 6, 7, 8, 9, 10))]
)
def test_killed_while_checkpoints_are_written_and_resumed_equals_undisturbed(
    group: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save: int
) -> None:
    whole = group(None, {})
    storage, published, saves = Storage.open(str(tmp_path / "storage")), {}, 0
    write = CheckpointStore.save

    def dies(self: CheckpointStore, *given: Any) -> None:
        nonlocal saves
        saves += 1
        if saves == save + 1:
            raise Killed
        write(self, *given)

    monkeypatch.setattr(CheckpointStore, "save", dies)
    with pytest.raises(Killed):
        group(storage, published)
    assert group(storage, published) == whole


@pytest.mark.slow
def test_killed_when_an_adapter_was_written_but_not_yet_taken(group: Run, tmp_path: Path) -> None:
    whole = group(None, {})
    storage, published = Storage.open(str(tmp_path / "storage")), {}

    class Deaf(dict[str, str]):
        def __setitem__(self, name: str, value: str) -> None:
            raise Killed

    with pytest.raises(Killed):
        group(storage, Deaf())
    assert group(storage, published) == whole


def test_a_checkpoint_of_another_run_fails_its_own_member_only(
    base: LoadedBase, tmp_path: Path
) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    members = [
        replace(member, checkpoints=CheckpointStore(storage, f"runs/{member.name}", member.name))
        for member in members_of(base, tmp_path, examples_seen=8)[:2]
    ]
    train_fused(base, members[:1], slots=1)
    stranger = CheckpointStore(storage, f"runs/{members[0].name}", "stranger")
    members[0] = replace(members[0], checkpoints=stranger)
    outcomes = train_fused(base, members, slots=2)
    assert isinstance(outcomes[members[0].name], CheckpointMismatch)
    trained(outcomes[members[1].name])


def test_members_need_distinct_names(base: LoadedBase, tmp_path: Path) -> None:
    member = members_of(base, tmp_path)[0]
    with pytest.raises(ValueError, match="distinct names"):
        train_fused(base, [member, member], slots=2)
    assert train_fused(base, [], slots=2) == {}


def test_a_probe_measures_both_ways_and_leaves_nothing(base: LoadedBase, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    members = [
        replace(member, checkpoints=CheckpointStore(storage, member.name, member.name))
        for member in members_of(base, tmp_path / "out")[:3]
    ]
    gain = measure_gain(base, members)
    assert gain.plain_tps > 0 and set(gain.fused_tps) == {3}
    assert not (tmp_path / "out").exists() and not list((tmp_path / "storage").iterdir())
    assert measure_gain(base, members[:1]).slots == 1


@pytest.mark.parametrize(
    ("plain", "fused", "slots"),
    [
        (100.0, {4: 150.0, 8: 180.0}, 8),
        (100.0, {4: 150.0, 8: 140.0}, 4),
        (100.0, {4: 102.0, 8: 90.0}, 1),
        (100.0, {}, 1),
    ],
)
def test_fusing_pays_when_it_is_clearly_faster(
    plain: float, fused: dict[int, float], slots: int
) -> None:
    gain = Gain(plain, fused)
    assert gain.slots == slots
    assert ("does not pay" in str(gain)) == (slots == 1)
