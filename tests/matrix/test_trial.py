"""Cells as Tune trials and as a Ray job, on a real local cluster."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import torch
import yaml
from pyarrow import parquet

from loraland.adapters.registry import Registry
from loraland.errors import DataRefused, InvalidConfiguration, SourceUnavailable, UnknownTask
from loraland.matrix.cell import Cell, CellEvent, CellFailure, CellResult
from loraland.matrix.run import run_cell
from loraland.matrix.trial import Resources, default_resources, run_cells
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.training.recipe import get_recipe

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "name": "job",
    "bases": ["tiny-mistral-7b"],
    "tasks": ["viggo", "legal"],
    "data": "rehearsal",
    "recipe": "report",
    "changes": {
        "precision": "fp32", "learning_rate": 0.01, "warmup_share": 0.0, "examples_seen": 8,
        "examples_per_update": 4, "gradient_checkpointing": False, "evaluate_every": 1,
    },
    "max_examples": 12,
    "max_items": 2,
    "resources": {"*": {"cpus": 1, "gpus": 0}},
    "retry_collapsed": False,
}  # fmt: skip
RECIPE = get_recipe("quick", precision="fp32", learning_rate=0.01, checkpoint_every=1)


@pytest.fixture
def cell(tiny_folders: dict[str, Path]) -> Cell:
    return Cell(str(tiny_folders["llama"]), "dates", RECIPE, max_examples=60, max_items=5)


def model_of(outcome: CellResult | CellFailure) -> str:
    assert isinstance(outcome, CellResult), outcome
    return outcome.model


def trial_processes() -> list[psutil.Process]:
    """The processes of this session's cluster that run a trial."""
    children = psutil.Process().children(recursive=True)
    return [p for p in children if "ImplicitFunc" in " ".join(p.cmdline())]


@pytest.mark.slow
def test_trials_give_what_the_plain_function_gives_and_tell_how_far_they_are(
    ray_cluster: Any, cell: Cell, tmp_path: Path
) -> None:
    from dataclasses import replace

    cells = [cell, replace(cell, task="topics"), replace(cell, task="no-such-task")]
    events: list[CellEvent] = []
    outcomes = run_cells(cells, str(tmp_path / "s"), Resources(1), events.append)
    assert [outcome.cell for outcome in outcomes] == [c.label for c in cells]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the trial has, or sums come in another order
    try:
        plain = run_cell(cell, Storage.open(str(tmp_path / "plain")))
    finally:
        torch.set_num_threads(threads)
    assert model_of(outcomes[0]) == plain.model
    failure = outcomes[2]
    assert isinstance(failure, CellFailure)
    assert isinstance(failure.error, UnknownTask)
    assert "no-such-task" in failure.error.message
    stages = {event.stage for event in events if event.cell == cell.label}
    assert {"data", "base", "train", "judge"} <= stages
    published = {str(e.name) for e in Registry(Storage.open(str(tmp_path / "s"))).list()}
    assert published == {model_of(outcomes[0]), model_of(outcomes[1])}


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_is_retried_and_ends_the_same(
    ray_cluster: Any, cell: Cell, tmp_path: Path
) -> None:
    [whole] = run_cells([cell], str(tmp_path / "whole"), Resources(1))
    before = {process.pid for process in trial_processes()}
    killed: list[int] = []

    def kill_once(event: CellEvent) -> None:
        if event.stage == "train" and not killed:
            [trial] = [p for p in trial_processes() if p.pid not in before]
            killed.append(trial.pid)
            trial.send_signal(signal.SIGKILL)

    [again] = run_cells([cell], str(tmp_path / "killed"), Resources(1), kill_once)
    assert killed
    assert model_of(again) == model_of(whole)


@pytest.mark.slow
def test_refusals_are_not_retried(
    ray_cluster: Any, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    recipe = RECIPE.model_copy(update={"max_length": 16, "too_long": "refuse"})
    events: list[CellEvent] = []
    [outcome] = run_cells(
        [replace(cell, recipe=recipe)], str(tmp_path / "s"), Resources(1), events.append
    )
    assert isinstance(outcome, CellFailure)
    assert isinstance(outcome.error, DataRefused)
    assert "truncated at max_length 16" in outcome.error.message
    assert sum(event.stage == "data" for event in events) == 1


@pytest.mark.slow
def test_a_task_without_data_names_the_places_tried(
    ray_cluster: Any, cell: Cell, tmp_path: Path
) -> None:
    from dataclasses import replace

    [outcome] = run_cells([replace(cell, task="legal")], str(tmp_path / "s"), Resources(1))
    assert isinstance(outcome, CellFailure)
    assert isinstance(outcome.error, SourceUnavailable)
    assert "LORALAND_DATA" in outcome.error.message


def test_a_trial_gets_a_whole_node_by_default_and_never_more(ray_cluster: Any) -> None:
    import ray

    for _ in range(60):  # trials of the tests before give their cores back soon
        if ray.available_resources().get("CPU") == 2:
            break
        time.sleep(0.5)
    assert default_resources(ray) == Resources(2, 0)
    assert default_resources(ray, cpus=1) == Resources(1, 0)
    for asked in ({"cpus": 64}, {"gpus": 1}, {"cpus": 1, "gpus": 2}):
        with pytest.raises(InvalidConfiguration, match="largest node here has 2 CPUs and 0 GPUs"):
            default_resources(ray, **asked)


@pytest.mark.slow
def test_relative_places_mean_the_caller_s_folder(
    ray_cluster: Any, cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    task = get_task("dates")
    folder = tmp_path / "data" / "dates"
    folder.mkdir(parents=True)
    splits: list[tuple[Any, int]] = [("train", 60), ("test", 5)]
    for split, limit in splits:
        rows = load_split(task, split, limit=limit).rows
        columns = {name: [row[name] for row in rows] for name in task.columns}
        parquet.write_table(pa.table(columns), folder / f"{split}.parquet")
    shutil.copytree(cell.base, tmp_path / "my-base")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LORALAND_DATA", "data")
    [outcome] = run_cells([replace(cell, base="./my-base")], "here", Resources(1))
    name = model_of(outcome)
    assert name.startswith("my-base/dates@")
    card = Registry(Storage.open(str(tmp_path / "here"))).card(name)
    assert card.data.source.startswith("parquet:")


def submit(address: str, name: str, places: dict[str, str], *entry: str) -> Any:
    """`ray job submit` of this checkout, followed to its end."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
    command += ["--address", address, "--working-dir", str(ROOT)]
    command += ["--runtime-env-json", json.dumps({"env_vars": places})]
    command += ["--submission-id", name, "--", sys.executable, "-m", *entry]
    for _ in range(12):
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        if "No available agent" not in done.stderr:  # the job agent starts after the cluster
            break
        time.sleep(5)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done


def jobs(address: str) -> str:
    """What `ray job list` says."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "job", "list", "--address", address]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=100, check=True
    ).stdout  # fmt: skip


@pytest.mark.slow
def test_a_job_submitted_from_the_checkout_trains_and_is_in_the_job_list(
    ray_cluster: Any, tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    address = f"http://{ray_cluster.dashboard_url}"
    storage = tmp_path / "storage"
    places = {"LORALAND_STORAGE": str(storage), "LORALAND_CACHE": str(tmp_path / "cache")}
    entry = ["train_jobs.finetune", "--base", str(tiny_folders["llama"]), "--task", "dates"]
    entry += ["--max-examples", "60", "--max-items", "5", "--cpus", "1"]
    done = submit(address, "finetune-test", places, *entry)
    [published] = Registry(Storage.open(str(storage))).list()
    assert str(published.name) in done.stdout
    listed = jobs(address)
    assert "finetune-test" in listed
    assert "SUCCEEDED" in listed


@pytest.mark.slow
def test_a_space_is_run_as_a_job_another_finds_nothing_to_do_and_one_asks_more_items(
    ray_cluster: Any, tmp_path: Path
) -> None:
    address = f"http://{ray_cluster.dashboard_url}"
    space = tmp_path / "space.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    storage = tmp_path / "storage"
    places = {"LORALAND_STORAGE": str(storage), "LORALAND_CACHE": str(tmp_path / "cache")}
    entry = ["train_jobs.matrix", "--space", str(space), "--fuse", "2"]
    first = submit(address, "matrix-test", places, *entry)
    assert '"done": 2' in first.stdout and '"failed": []' in first.stdout
    published = Registry(Storage.open(str(storage))).list()
    assert {entry.name.task for entry in published} == {"viggo", "legal"}
    second = submit(address, "matrix-test-again", places, *entry)
    assert '"ran": 0' in second.stdout and '"done": 2' in second.stdout
    entry = ["train_jobs.generate", "--space", str(space), "--max-items", "3"]
    third = submit(address, "generate-test", places, *entry)
    assert '"asked": 4' in third.stdout and '"borrowed": 8' in third.stdout
    assert '"scored": 2' in third.stdout and '"failed": []' in third.stdout
    assert "matrix-test" in jobs(address)
