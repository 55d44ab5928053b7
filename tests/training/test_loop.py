from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from loraland.adapters.card import CurvePoint
from loraland.adapters.folder import content_hash
from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.errors import CheckpointMismatch, NoEffect, StorageCorrupt, TrainingDiverged
from loraland.storage import Storage
from loraland.tasks.task import Item
from loraland.training.checkpoint import CheckpointStore
from loraland.training.effect import measure_canary
from loraland.training.examples import Example, encode
from loraland.training.loop import TrainedAdapter, train
from loraland.training.loss import summed_loss
from loraland.training.recipe import Recipe, get_recipe

RECIPE = get_recipe(
    "quick",
    precision="fp32",
    dropout=0.1,  # draws random numbers, which a resumed run must find again
    rank=4,
    examples_per_update=4,
    evaluate_every=2,
    checkpoint_every=2,
    max_epochs=3,
    micro_batch_tokens=64,
)


def examples_of(base: LoadedBase, count: int) -> list[Example]:
    found = [encode(Item(f"Double {n}:", str(2 * n), {}), base.tokenizer) for n in range(count)]
    assert all(isinstance(example, Example) for example in found)
    return [example for example in found if isinstance(example, Example)]


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the loop may catch it and tidy up the store."""


def run(
    base: LoadedBase,
    folder: Path,
    recipe: Recipe = RECIPE,
    store: CheckpointStore | None = None,
    die_at: int | None = None,
    seed: int = 0,
) -> TrainedAdapter:
    examples = examples_of(base, 22)

    def on_update(point: CurvePoint, total: int) -> None:
        if point.step == die_at:
            raise Killed

    return train(
        base,
        examples[:18],
        examples[18:],
        recipe,
        folder,
        seed=seed,
        checkpoints=store,
        on_update=on_update,
    )


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi", "gemma"])
@pytest.mark.slow
def test_every_architecture_learns_at_both_precisions(
    architecture: str, precision: str, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = load_tiny(architecture, tiny_folders[architecture], precision)  # type: ignore[arg-type]
    recipe = RECIPE.model_copy(update={"precision": precision, "learning_rate": 0.02})
    trained = run(base, tmp_path / "adapter", recipe)
    losses = [point.train_loss for point in trained.curve]
    assert losses[-1] < 0.8 * losses[0]
    assert len(losses) == recipe.updates(18) == 15


@pytest.mark.parametrize("killed_at", [1, 2, 5, 15])
@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(
    base: LoadedBase, tmp_path: Path, killed_at: int
) -> None:
    whole = run(base, tmp_path / "whole")
    store = CheckpointStore(Storage.open(str(tmp_path / "storage")), "runs/a", "a")
    with pytest.raises(Killed):
        run(base, tmp_path / "half", store=store, die_at=killed_at)
    resumed = run(base, tmp_path / "resumed", store=store)
    assert content_hash(resumed.folder) == content_hash(whole.folder)
    assert [p.train_loss for p in resumed.curve] == [p.train_loss for p in whole.curve]
    assert [p.validation_loss for p in resumed.curve] == [p.validation_loss for p in whole.curve]


@pytest.mark.slow
def test_a_run_that_dies_again_and_again_still_ends_the_same(
    base: LoadedBase, tmp_path: Path
) -> None:
    whole = run(base, tmp_path / "whole")
    store = CheckpointStore(Storage.open(str(tmp_path / "storage")), "runs/a", "a")
    for die_at in (3, 5, 7, 9, 11, 13):
        with pytest.raises(Killed):
            run(base, tmp_path / "half", store=store, die_at=die_at)
    assert content_hash(run(base, tmp_path / "end", store=store).folder) == content_hash(
        whole.folder
    )


def test_seeds_give_different_adapters(base: LoadedBase, tmp_path: Path) -> None:
    first, second = run(base, tmp_path / "a"), run(base, tmp_path / "b", seed=1)
    assert content_hash(first.folder) != content_hash(second.folder)


def test_the_base_is_left_as_it_was(base: LoadedBase, tmp_path: Path) -> None:
    ids = base.tokenizer("Double 3:", return_tensors="pt").input_ids
    with torch.no_grad():
        before = base.model(input_ids=ids).logits
    run(base, tmp_path / "adapter")
    with torch.no_grad():
        after = base.model(input_ids=ids).logits
    assert torch.equal(before, after)
    assert not base.model.training
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_the_folder_is_what_peft_loads(base: LoadedBase, tmp_path: Path) -> None:
    trained = run(base, tmp_path / "adapter")
    assert sorted(file.name for file in trained.folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base.entry.hub_id
    model = PeftModel.from_pretrained(base.model, trained.folder)
    assert model.peft_config["default"].r == RECIPE.rank


def test_the_best_weights_are_kept_not_the_last(base: LoadedBase, tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"learning_rate": 0.05, "max_epochs": 20, "patience": 3})
    trained = run(base, tmp_path / "adapter", recipe)
    validated = {p.step: p.validation_loss for p in trained.curve if p.validation_loss is not None}
    assert trained.best_step == min(validated, key=lambda step: (validated[step], step))
    assert trained.stopped_early
    assert max(validated) - trained.best_step == 3 * recipe.evaluate_every
    examples = examples_of(base, 22)[18:]
    PeftModel.from_pretrained(base.model, trained.folder)
    with torch.no_grad():
        loss = summed_loss(base.model, examples, 0).item() / len(examples)
    assert loss == pytest.approx(validated[trained.best_step], rel=1e-5)


def test_the_loss_of_an_update_does_not_depend_on_its_micro_batches(base: LoadedBase) -> None:
    examples = examples_of(base, 13)
    together = summed_loss(base.model, examples, 0).item()
    apart = sum(summed_loss(base.model, [example], 0).item() for example in examples)
    assert together == pytest.approx(apart, rel=1e-5)


def test_the_loss_is_transformers_own_on_the_answer(base: LoadedBase) -> None:
    [example] = examples_of(base, 1)
    ids = torch.tensor([example.ids])
    labels = ids.clone()
    labels[:, : example.prompt_tokens] = -100
    theirs = base.model(input_ids=ids, labels=labels).loss.item()
    assert summed_loss(base.model, [example], 0).item() == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(base: LoadedBase, tmp_path: Path) -> None:
    plain = run(base, tmp_path / "plain")
    lean = run(base, tmp_path / "lean", RECIPE.model_copy(update={"gradient_checkpointing": True}))
    assert [p.train_loss for p in lean.curve] == pytest.approx([p.train_loss for p in plain.curve])


def test_a_run_that_diverges_says_why(base: LoadedBase, tmp_path: Path) -> None:
    with torch.no_grad():
        base.model.get_output_embeddings().weight[5, 5] = math.nan
    with pytest.raises(TrainingDiverged, match="the loss is nan at update 1"):
        run(base, tmp_path / "adapter")


def test_a_checkpoint_of_another_run_is_refused(base: LoadedBase, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    with pytest.raises(Killed):
        run(base, tmp_path / "x", store=CheckpointStore(storage, "runs/a", "a"), die_at=3)
    with pytest.raises(CheckpointMismatch, match="belongs to run a, not b"):
        CheckpointStore(storage, "runs/a", "b").load()


@pytest.mark.parametrize("harm", ["flip", "cut", "empty"])
def test_a_damaged_checkpoint_is_refused(base: LoadedBase, tmp_path: Path, harm: str) -> None:
    store = CheckpointStore(Storage.open(str(tmp_path / "storage")), "runs/a", "a")
    with pytest.raises(Killed):
        run(base, tmp_path / "x", store=store, die_at=3)
    content = bytearray(store.storage.read(store.path))
    content[-1] ^= 1
    harmed = {"flip": content, "cut": content[:-100], "empty": b""}[harm]
    store.storage.write(store.path, bytes(harmed))
    with pytest.raises(StorageCorrupt, match="damaged; delete it"):
        store.load()


def test_only_the_newest_checkpoint_is_kept_and_clear_removes_all(
    base: LoadedBase, tmp_path: Path
) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    store = CheckpointStore(storage, "runs/a/checkpoint", "a")
    run(base, tmp_path / "x", store=store)
    assert storage.names("runs/a/checkpoint") == ["checkpoint.safetensors"]
    found = store.load()
    assert found is not None
    assert found[0].update == 14
    store.clear()
    assert storage.names("runs/a") == []
    assert store.load() is None


def test_a_validation_loss_that_is_no_number_stops_the_run(
    base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraland.training.loop._Run.evaluate", lambda *_: math.nan)
    with pytest.raises(TrainingDiverged, match="validation loss is nan at update 2"):
        run(base, tmp_path / "adapter")


def test_a_trained_adapter_has_an_effect_and_its_canary_says_which(
    base: LoadedBase, tmp_path: Path
) -> None:
    trained = run(base, tmp_path / "adapter", RECIPE.model_copy(update={"learning_rate": 0.02}))
    prompt = base.tokenizer("Double 3:").input_ids
    canary = measure_canary(base, trained.folder, prompt)
    assert canary.max_difference > 0.01
    assert canary.logits == sorted(canary.logits, reverse=True)
    assert canary == measure_canary(base, trained.folder, prompt)


def test_an_adapter_without_effect_is_refused(base: LoadedBase, tmp_path: Path) -> None:
    never = RECIPE.model_copy(update={"learning_rate": 1e-12})
    trained = run(base, tmp_path / "adapter", never)
    with pytest.raises(NoEffect, match="changes no logit"):
        measure_canary(base, trained.folder, base.tokenizer("Double 3:").input_ids)


def test_examples_supervise_the_answer_and_the_end_alone(base: LoadedBase) -> None:
    example = encode(Item("Double 7:", "14", {}), base.tokenizer)
    assert isinstance(example, Example)
    assert base.tokenizer.decode(example.supervised) == " 14</s>"
    assert base.tokenizer.decode(example.ids[: example.prompt_tokens]) == "Double 7:"
