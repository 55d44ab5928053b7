"""Features of an adapter's answers, its audit, and adapters trained over groups: on a tiny base."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.errors import DataRefused, InvalidName, MetricUnavailable, StrataMissing
from loraland.lora.weights import linears_of, read_adapter
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell
from loraland.storage import Storage
from loraland.strata.language.audit_adapter import audit_adapter, read_splits, read_strata
from loraland.strata.language.extraction import Prompt, extract, passes
from loraland.strata.language.learned import Learned
from loraland.strata.language.retrain import (
    Robustness,
    judge_on_strata,
    make_groups,
    robust_cell,
)
from loraland.strata.language.verbalisers import verbalisers
from loraland.strata.settings import StrataSettings
from loraland.strata.shelf import audit_ids, get_audit, lines, retrained
from loraland.tasks.catalogue import get_task
from loraland.training.groups import example_key
from loraland.training.recipe import get_recipe

SETTINGS = StrataSettings(reduction="hardness", components=1, overcluster=False, max_k=4, floor=0.0)
RECIPE = get_recipe("quick", precision="fp32", learning_rate=0.01, rank=4, max_epochs=1)


@pytest.fixture
def base(tiny_folders: dict[str, Path]) -> LoadedBase:
    return load_tiny("llama", tiny_folders["llama"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]) -> Any:
    """A storage with an adapter of a tiny base for the planted shortcut: its path, the base's."""
    root = tmp_path_factory.mktemp("strata")
    patch = pytest.MonkeyPatch()
    patch.setenv("LORALAND_CACHE", str(root / "cache"))
    folder = str(tiny_folders["llama"])
    cell = Cell(folder, "planted_shortcut", RECIPE, 0, max_examples=120, max_items=4)
    model = run_cell(cell, Storage.open(str(root / "storage"))).model
    patch.undo()
    return str(root / "storage"), folder, model


@pytest.fixture
def storage(place: Any, tmp_path: Path) -> Storage:
    """A copy of that storage, so that each test finds it untouched."""
    import shutil

    shutil.copytree(place[0], tmp_path / "storage")
    return Storage.open(str(tmp_path / "storage"))


def audited(storage: Storage, place: Any, **options: Any) -> Any:
    return audit_adapter(place[2], storage, SETTINGS, base=place[1], max_items=60, **options)


# Which tokens tell labels apart


def test_what_all_labels_begin_with_goes_behind_the_prompt(base: LoadedBase) -> None:
    task = get_task("planted_shortcut")
    found = verbalisers(task, base.tokenizer, "Kind:")
    assert base.tokenizer.decode(list(found.shared)) == " "  # a token of its own among bytes
    assert [base.tokenizer.decode([token]) for token in found.tokens] == ["l", "w"]


def test_labels_that_begin_alike_are_refused_by_name(base: LoadedBase) -> None:
    task = replace(get_task("planted_shortcut"), labels=("land", "lake", "water"))
    with pytest.raises(DataRefused, match="'land' and 'lake' with 'l'"):
        verbalisers(task, base.tokenizer, "Kind:")
    with pytest.raises(DataRefused, match="no closed set"):
        verbalisers(get_task("dates"), base.tokenizer, "ISO:")


def test_a_label_that_another_begins_with_is_told_by_where_it_ends(base: LoadedBase) -> None:
    task = replace(get_task("planted_shortcut"), labels=("land", "landbird"))
    found = verbalisers(task, base.tokenizer, "Kind:")
    assert found.tokens[0] == base.tokenizer.eos_token_id
    assert base.tokenizer.decode([found.tokens[1]]) == "b"


# Features


def test_passes_hold_every_place_once_and_no_more_than_they_may() -> None:
    lengths = [5, 300, 7, 5000, 9, 6] * 20
    found = list(passes(lengths, 2))
    assert sorted(place for group in found for place in group) == list(range(len(lengths)))
    for group in found:
        assert len(group) * 2 <= 32
        longest = max(lengths[place] for place in group)
        assert len(group) == 1 or 2 * len(group) * longest <= 4096


def test_features_are_those_of_the_model_alone_whatever_shares_their_pass(
    base: LoadedBase, place: Any, storage: Storage, tmp_path: Path
) -> None:
    folder = Registry(storage).fetch(Learned.find(place[2], storage).name, tmp_path / "adapter")
    weights = read_adapter(folder, linears_of(base.model))
    rows = Learned.find(place[2], storage).read(base.tokenizer, 512, max_items=12)
    found = extract(base, weights, rows.tokens, rows.test, "test")
    assert found.base is not None
    states, logits = by_hand(base, rows.test, rows.tokens)
    np.testing.assert_allclose(found.base.values, states, atol=2e-5)
    model = PeftModel.from_pretrained(base.model, folder)
    states, logits = by_hand(base, rows.test, rows.tokens)
    model.unload()
    np.testing.assert_allclose(found.adapter.values, states, atol=2e-5)
    np.testing.assert_allclose(found.adapter.logits, logits, atol=2e-4)
    assert np.abs(found.adapter.values - found.base.values).max() > 1e-3
    # The hardness direction: the rows of the unembedding give the logits back.
    assert found.adapter.head is not None
    np.testing.assert_allclose(
        found.adapter.values @ found.adapter.head.T, found.adapter.logits, atol=2e-4
    )
    loss = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor([prompt.label for prompt in rows.test]), reduction="none"
    )
    np.testing.assert_allclose(found.adapter.losses, loss, atol=2e-4)


@torch.no_grad()
def by_hand(base: LoadedBase, prompts: list[Prompt], tokens: Any) -> tuple[Any, Any]:
    """One prompt at a time, without padding."""
    base.model.eval()
    found = [
        base.model(input_ids=torch.tensor([prompt.ids]), output_hidden_states=True)
        for prompt in prompts
    ]
    states = torch.stack([one.hidden_states[-1][0, -1] for one in found]).numpy()
    logits = torch.stack([one.logits[0, -1, list(tokens)] for one in found]).numpy()
    return states, logits


def test_rows_are_split_as_the_training_split_them(
    base: LoadedBase, place: Any, storage: Storage
) -> None:
    learned = Learned.find(place[2], storage)
    rows = learned.read(base.tokenizer, 512, max_items=30)
    data = learned.card.data
    assert (len(rows.train), len(rows.validation)) == (data.train_rows, data.validation_rows)
    assert rows.warnings == [] and len(rows.test) == 30
    assert set(rows.subclasses) == {
        f"{bird} bird by the {place}" for bird in ("land", "water") for place in ("lake", "wood")
    }
    assert all("Kind" not in text for text in rows.texts.values())


# Audits


def test_an_audit_is_stored_and_read_when_it_is_asked_again(storage: Storage, place: Any) -> None:
    stages: list[str] = []
    found = audited(storage, place, on_stage=stages.append)
    assert get_audit(found.id, storage) == found and audit_ids(storage) == [found.id]
    assert sum(one.sizes.test for one in found.strata) == found.sizes.test == 60
    assert sum(one.sizes.train for one in found.strata) == found.sizes.train
    assert found.strata == sorted(
        found.strata, key=lambda one: (one.test.mean if one.test else 2.0, one.number)
    )
    assert len(found.picture.points) == 60 and len(found.known) == 4
    assert [line.id for line in lines(storage)] == [found.id]
    assert any("loading" in stage for stage in stages)
    again: list[str] = []
    assert audited(storage, place, on_stage=again.append) == found
    assert not any("loading" in stage for stage in again)
    other: list[str] = []
    frozen = audited(storage, place, source="base", on_stage=other.append)
    assert frozen.id != found.id
    other.clear()
    assert audited(storage, place, source="base", on_stage=other.append) == frozen
    assert not any("loading" in stage for stage in other)
    assert frozen.overall == found.overall  # the adapter's scores, whoever's features


def test_an_audit_that_was_killed_before_its_manifest_does_not_exist(
    storage: Storage, place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("loraland.strata.language.audit_adapter.put_audit", die)
        with pytest.raises(KeyboardInterrupt):
            audited(storage, place)
    assert audit_ids(storage) == []
    stages: list[str] = []
    found = audited(storage, place, on_stage=stages.append)
    assert audit_ids(storage) == [found.id]
    assert not any("loading" in stage for stage in stages)  # its features were there


def test_what_cannot_be_audited_is_refused(
    storage: Storage, place: Any, tiny_folders: dict[str, Path]
) -> None:
    with pytest.raises(InvalidName, match="is a base"):
        audit_adapter("tiny-llama", storage, SETTINGS)
    cell = Cell(place[1], "dates", RECIPE, 0, max_examples=20, max_items=2)
    model = run_cell(cell, storage).model
    with pytest.raises(DataRefused, match="answers freely"):
        audit_adapter(model, storage, SETTINGS, base=place[1])
    with pytest.raises(StrataMissing, match="no id of an audit"):
        get_audit("../../etc/passwd", storage)
    with pytest.raises(StrataMissing, match="there is no audit"):
        get_audit("0" * 16, storage)


# Groups, and adapters that are trained over them


def test_groups_of_each_mode_hold_every_example_that_is_trained_on(
    storage: Storage, place: Any
) -> None:
    found = audited(storage, place)
    splits, _ = read_strata(found, storage)
    true = splits.train.subclasses
    assert true is not None
    groups = {
        mode: make_groups(found, mode, storage, seed=0)
        for mode in ("erm", "superclass", "random", "george", "oracle")
    }
    assert groups["erm"] is None
    for mode, each in groups.items():
        if each is None:
            continue
        assert set(each.of) == {*splits.train.ids, *splits.validation.ids}, mode
        assert set(each.of.values()) == set(range(len(each.names))), mode
    mine = {
        mode: [each.of[key] for key in splits.train.ids] for mode, each in groups.items() if each
    }
    assert np.bincount(mine["random"]).tolist() == np.bincount(mine["oracle"]).tolist()
    assert mine["random"] != mine["oracle"]
    assert mine["superclass"] == splits.train.superclasses.tolist()


def test_modes_are_ordinary_runs_that_are_judged_on_the_same_strata(
    storage: Storage, place: Any
) -> None:
    found = audited(storage, place)
    erm = robust_cell(found, "erm", storage, Robustness(), base=place[1], max_items=4)
    result = run_cell(erm, storage)
    assert (result.model, result.trained) == (place[2], False)  # the audited adapter's very run
    alone = judge_on_strata(found, "erm", result.model, storage, place[1])
    assert alone.overall == found.overall
    assert alone.strata == {one.number: one.test for one in found.strata if one.test}
    cell = robust_cell(
        found, "george", storage, Robustness(eta=0.5), base=place[1], max_items=4,
        changes={"max_epochs": 0.5},
    )  # fmt: skip
    assert cell.recipe.group_dro is not None and cell.recipe.max_epochs == 0.5
    model = run_cell(cell, storage).model
    robust = judge_on_strata(found, "george", model, storage, place[1])
    assert model != place[2] and robust.known.keys() == {group.name for group in found.known}
    assert [one.mode for one in retrained(found.id, storage)] == ["erm", "george"]
    card = Registry(storage).card(model)
    assert card.recipe["group_dro"]["groups"] == f"strata/{found.id}/groups/george.json"
    page = storage.read(f"strata/{found.id}/audit.html").decode()
    assert "GEORGE" in page and model in page


def test_groups_that_do_not_cover_the_training_are_refused(storage: Storage, place: Any) -> None:
    found = audited(storage, place, max_train=40)
    with pytest.raises(DataRefused, match="looked at 40 of"):
        make_groups(found, "george", storage, seed=0)


def test_an_oracle_needs_to_be_told(storage: Storage, place: Any) -> None:
    found = audited(storage, place)
    key = found.rests_on["features"]
    splits = read_splits(key, storage)
    for name in ("train", "validation", "test"):
        replace(getattr(splits, name), subclasses=None).save(storage, f"features/{key}/{name}")
    with pytest.raises(MetricUnavailable, match="oracle"):
        make_groups(found, "oracle", storage, seed=0)
    assert make_groups(found, "random", storage, seed=0) is not None


def test_keys_of_examples_follow_from_tokens(
    base: LoadedBase, place: Any, storage: Storage
) -> None:
    found = audited(storage, place)
    groups = make_groups(found, "george", storage, seed=0)
    assert groups is not None
    path = f"strata/{found.id}/groups/george.json"
    sha256 = groups.write(storage, path)
    assert json.loads(storage.read(path))["of"] == groups.of and len(sha256) == 64
    assert all(len(key) == len(example_key_of(base)) for key in groups.of)


def example_key_of(base: LoadedBase) -> str:
    from loraland.tasks.task import Item
    from loraland.training.examples import Example, encode

    example = encode(Item("a", "b", {}), base.tokenizer)
    assert isinstance(example, Example)
    return example_key(example)
