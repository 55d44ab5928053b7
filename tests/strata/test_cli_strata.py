"""`loraland strata`: audits, lists, shows and trains; bad input is told with what is possible."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loraland.cli import app
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell
from loraland.settings import storage_uri
from loraland.storage import Storage
from loraland.training.recipe import get_recipe
from tests.strata.fabricated import fabricate_audit


def call(*arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    result = CliRunner().invoke(app, ["strata", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", [[], ["audit"], ["train"], ["list"], ["show"]], ids=" ".join)
def test_every_command_teaches(command: list[str]) -> None:
    code, out, _ = call(*command, "--help")
    assert code == 0 and len(out.split()) > 20


def test_audits_are_listed_and_shown_and_their_page_is_written(tmp_path: Path) -> None:
    assert "no audits yet" in call("list")[2]
    storage = Storage.open(storage_uri())
    audit = fabricate_audit(storage)
    assert audit.id in call("list")[1]
    assert json.loads(call("list", "--json")[1])[0]["id"] == audit.id
    code, out, err = call("show", audit.id, "--out", tmp_path / "page.html")
    assert code == 0 and "land/" in out and "george" in out and "are others" in err
    assert (tmp_path / "page.html").read_bytes() == storage.read(f"strata/{audit.id}/audit.html")
    assert json.loads(call("show", audit.id, "--json")[1])["worst"] == audit.worst


def test_an_adapter_is_audited_and_trained_over_its_strata(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    recipe = get_recipe("quick", precision="fp32", learning_rate=0.01, rank=4)
    base = str(tiny_folders["llama"])
    cell = Cell(base, "planted_shortcut", recipe, 0, max_examples=80, max_items=4)
    model = run_cell(cell, Storage.open(storage_uri())).model
    asked: tuple[Any, ...] = ("audit", model, "--base", base, "--max-items", 40, "--set", "max_k=3")
    code, out, err = call(*asked, "--settings", "waterbirds", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["settings"]["reduction"] == "hardness" and found["settings"]["max_k"] == 3
    code, out, err = call(
        "train", found["id"], "--base", base, "--mode", "george", "--mode", "erm",
        "--recipe-set", "max_epochs=0.5", "--max-items", 4, "--json",
    )  # fmt: skip
    assert code == 0, err
    modes = {one["mode"]: one for one in json.loads(out)["modes"]}
    assert modes.keys() == {"erm", "george"}
    assert modes["george"]["model"] != modes["erm"]["model"] != model  # erm has fewer epochs, too
    assert "george" in call("show", found["id"])[1]


def test_pictures_are_trained_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from loraland.strata.images import recipe as recipes

    short = recipes.RECIPES["u-mnist-small"].model_copy(update={"epochs": 1})
    monkeypatch.setitem(recipes.RECIPES, "u-mnist-small", short)
    asked = ("train", "--images", "digits", "--mode", "erm", "--set", "reduction=pca", "--json")
    code, out, err = call(*asked, "--set", "max_k=2", "--set", "overcluster=false")
    assert code == 0, err
    found = json.loads(out)
    assert [one["mode"] for one in found["modes"]] == ["erm"]
    assert len(found["modes"][0]["known"]) == 10
    assert "kind" in json.loads(call("show", found["audit"], "--json")[1])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["audit", "tiny-llama"], "is a base"),
        (["audit", "tiny-llama/none"], "tiny-llama/none"),
        (["audit", "a/b", "--settings", "waterbird"], "did you mean 'waterbirds'"),
        (["audit", "a/b", "--set", "max_k"], "write NAME=VALUE"),
        (["audit", "a/b", "--set", "max_k=1"], "max_k"),
        (["show", "nothing"], "is no id of an audit"),
        (["show", "0" * 16], "there is no audit"),
        (["train"], "one of the two"),
        (["train", "0" * 16, "--images", "digits"], "one of the two"),
        (["train", "0" * 16, "--mode", "best"], "possible: erm, superclass"),
        (["train", "0" * 16, "--mode", "erm"], "there is no audit"),
        (["train", "--images", "cats"], "write digits, umnist:FOLDER"),
        (["train", "--images", "umnist:/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_done_is_told_with_what_can(arguments: list[str], told: str) -> None:
    code, _, err = call(*arguments)
    assert code == 1 and told in " ".join(err.split())


def test_an_audit_of_pictures_is_no_task_for_adapters() -> None:
    audit = fabricate_audit(Storage.open(storage_uri()), images=True)
    code, _, err = call("train", audit.id, "--mode", "george")
    assert code == 1 and "--images" in err


@pytest.mark.ray
@pytest.mark.slow
def test_on_ray_an_audit_and_its_training_come_to_the_same(
    ray_cluster: object,
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = get_recipe("quick", precision="fp32", learning_rate=0.01, rank=4)
    base = str(tiny_folders["llama"])
    cell = Cell(base, "planted_shortcut", recipe, 0, max_examples=60, max_items=4)
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "here"))
    model = run_cell(cell, Storage.open(storage_uri())).model
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    found = []
    for place, ray in (("here", []), ("there", ["--ray"])):
        monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / place))
        asked = ["audit", model, "--base", base, "--max-items", 40, "--set", "max_k=3"]
        code, out, err = call(*asked, "--settings", "waterbirds", "--json", *ray)
        assert code == 0, err
        audit = json.loads(out)
        more = ["--base", base, "--mode", "george", "--max-items", 4, "--json"]
        code, out, err = call("train", audit["id"], *more, *ray)
        assert code == 0, err
        [trained] = json.loads(out)["modes"]
        found.append((audit | {"created": ""}, trained | {"created": ""}))
    assert found[0] == found[1]
