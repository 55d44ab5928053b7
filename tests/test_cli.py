from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loraland.cli import app
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell
from loraland.settings import storage_uri
from loraland.storage import Storage
from loraland.training.recipe import get_recipe

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = [
    [],
    ["demo"],
    ["train"],
    ["evaluate"],
    ["serve"],
    ["tasks"],
    ["tasks", "list"],
    ["tasks", "show"],
    ["bases", "list"],
    ["adapters", "list"],
    ["adapters", "show"],
    ["adapters", "alias"],
    ["adapters", "delete"],
    ["loadtest"],
]


def call(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `loraland` with these arguments."""
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def trained(tiny_folders: dict[str, Path]) -> str:
    """The full name of an adapter in the default storage."""
    recipe = get_recipe("quick", precision="fp32", learning_rate=0.01)
    cell = Cell(str(tiny_folders["llama"]), "dates", recipe, max_examples=30, max_items=3)
    return run_cell(cell, Storage.open(storage_uri())).model


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_teaches(command: list[str]) -> None:
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert len(out.split()) > 20


def test_lists_come_as_tables_and_as_json() -> None:
    for what, count, name in (("tasks", 37, "viggo"), ("bases", 11, "gemma-7b")):
        code, out, _ = call(what, "list")
        assert code == 0
        assert name in out
        code, out, _ = call(what, "list", "--json")
        assert len(json.loads(out)) == count


def test_a_task_is_shown_with_items() -> None:
    code, out, _ = call("tasks", "show", "dates", "--rows", "1")
    assert code == 0
    assert re.search(r"ISO: \d{4}-\d\d-\d\d", out)


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["train", "smollm2-135m", "dats"], "task_not_found", "did you mean 'dates'"),
        (["train", "smolm2-135m", "dates"], "base_not_found", "did you mean 'smollm2-135m'"),
        (["train", "smollm2-135m", "dates", "--recipe", "quik"], "recipe_not_found", "'quick'"),
        (["evaluate", "smollm2-135m/none"], "model_not_found", "there are none yet"),
        (["evaluate", "Not A Name"], "invalid_model_name", "BASE/TASK:ALIAS"),
        (["adapters", "show", "a/b"], "model_not_found", "a/b"),
    ],
)
def test_mistakes_are_told_with_what_to_do(arguments: list[str], code: str, hint: str) -> None:
    exit_code, _, err = call(*arguments)
    assert exit_code == 1
    assert code in err
    assert hint in " ".join(err.split())


def test_with_json_a_mistake_is_json_too() -> None:
    exit_code, out, _ = call("train", "smollm2-135m", "dats", "--json")
    assert exit_code == 1
    assert json.loads(out)["error"]["code"] == "task_not_found"


@pytest.mark.slow
def test_an_adapter_is_trained_listed_shown_aliased_and_deleted(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    base = str(tiny_folders["llama"])
    recipe = tmp_path / "tiny.yaml"
    fields = get_recipe("quick", precision="fp32", learning_rate=0.01).model_dump(mode="json")
    del fields["name"]
    recipe.write_text(json.dumps({"tiny": fields}))
    train = ["train", base, "dates", "--recipe", str(recipe)]
    code, out, err = call(*train, "--max-items", "3", "--in-process", "--json")
    assert code == 0, err
    result = json.loads(out)
    model = result["model"]
    assert result["score"]["items"] == 3
    assert json.loads(call("adapters", "list", "--json")[1])[0]["name"] == model
    assert "latest" in call("adapters", "list")[1]
    assert json.loads(call("adapters", "show", model)[1])["task"] == "dates"
    assert call("adapters", "alias", model, "prod")[0] == 0
    code, _, err = call("adapters", "delete", model)
    assert (code, "adapter_protected" in err, "prod" in err) == (1, True, True)


@pytest.mark.slow
def test_a_score_is_reproduced_from_samples_and_from_new_answers(
    trained: str, tiny_folders: dict[str, Path]
) -> None:
    code, out, err = call("evaluate", trained, "--json")
    assert code == 0, err
    assert json.loads(out)["reproduced"] is True
    base = str(tiny_folders["llama"])
    code, out, err = call("evaluate", trained, "--fresh", "--base", base, "--json")
    assert code == 0, err
    assert json.loads(out)["reproduced"] is True
    assert "reproduced" in call("evaluate", trained)[1]


@pytest.mark.slow
def test_another_base_of_the_same_name_is_refused(
    trained: str, tiny_folders: dict[str, Path]
) -> None:
    code, _, err = call("evaluate", trained, "--fresh", "--base", str(tiny_folders["gemma"]))
    assert code == 1
    assert "adapter_rejected" in err


def console_lines(file: Path) -> list[str]:
    """The commands in the ```console blocks of a page."""
    blocks = re.findall(r"```console\n(.*?)```", file.read_text(), re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.removeprefix("$ ").split("  #")[0].strip() for line in lines if line[:2] == "$ "]


def test_the_commands_of_the_readme_are_commands() -> None:
    lines = console_lines(ROOT / "README.md")
    assert {"make demo", "make test"} <= set(lines)
    for line in lines:
        words = [w for w in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=.*", w)]
        if words[0] == "make":
            subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, capture_output=True)
        elif words[0] == "loraland":
            check_arguments(words[1:])
        elif words[:3] == ["ray", "job", "submit"]:
            module = words[words.index("-m") + 1]
            job = words[words.index("-m") + 2 :]
            done = subprocess.run(
                [sys.executable, "-m", module, "--help"], cwd=ROOT, capture_output=True, text=True
            )
            assert all(option in done.stdout for option in job if option.startswith("--"))
        else:
            assert words[0] in {"ray", "serve", "export"}, line


def test_the_pictures_and_pages_of_the_readme_are_there() -> None:
    text = (ROOT / "README.md").read_text()
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    assert len(linked) >= 2
    assert [link for link in linked if not (ROOT / link).exists()] == []


def check_arguments(words: list[str]) -> None:
    """Parse a command line of ours without running it."""
    import typer

    command = typer.main.get_command(app)
    context = command.make_context("loraland", [*words], resilient_parsing=False)
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(context, words)
        context = command.make_context(command.name, [*words], parent=context)
