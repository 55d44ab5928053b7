"""`loraland matrix`, as a user types it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from pyarrow import parquet
from typer.testing import CliRunner

from loraland.adapters.registry import Registry
from loraland.cli import app
from loraland.matrix.hardware import read_probes
from loraland.matrix.ledger import Ledger
from loraland.matrix.run import run_cell
from loraland.matrix.space import load_space
from loraland.storage import Storage

SMALL = {
    "name": "small",
    "bases": ["tiny-mistral-7b"],
    "tasks": ["viggo", "glue_stsb", "legal"],
    "data": "rehearsal",
    "recipe": "report",
    "changes": {
        "precision": "fp32", "learning_rate": 0.01, "warmup_share": 0.0, "examples_seen": 8,
        "examples_per_update": 4, "gradient_checkpointing": False, "evaluate_every": 1,
        "dropout": 0.0,
    },
    "max_examples": 12,
    "max_items": 2,
    "resources": {"*": {"cpus": 1, "gpus": 0}},
    "retry_collapsed": False,
}  # fmt: skip
SEARCH = {
    "parameters": {
        "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
        "targets": {"choice": [["q_proj", "v_proj"], "all-linear"]},
    },
    "samples": 4,
}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "storage"))
    return Storage.open(str(tmp_path / "storage"))


def write(place: Path, **changes: Any) -> str:
    path = place / "space.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return str(path)


def run(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(app, ["matrix", *arguments], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result


def test_the_paper_s_plan_needs_neither_hub_nor_gpu(storage):
    plan = json.loads(run("plan", "paper", "--json").stdout)
    assert len(plan["cells"]) == 310
    assert {cell["state"] for cell in plan["cells"]} == {"missing"}
    assert plan["usd"] > 0 and plan["wall_hours"] < plan["hours"]
    assert [base["cells"] for base in plan["bases"]] == [31] * 10
    shown = run("plan", "paper", "--workers", "8", "--on-demand").stdout
    assert "0/310 done" in shown and "8 x g5.2xlarge on demand" in shown and "wall-clock" in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plan", "papper"), "did you mean 'paper'?"),
        (("plan", "paper", "--worker", "g5.3xlarge"), "or 'g5.2xlarge'"),
        (("status", "no/such/file.yaml"), "cannot be read"),
        (("run", "rehearsal", "--fuse", "0"), "give a number from 1 on, or auto"),
        (("run", "rehearsal", "--fuse", "2", "--devices", "2"), "give one of them"),
        (("run", "rehearsal", "--devices", "2", "--strategy", "zero5"), "zero3"),
        (("probe", "embedded", "--base", "phi-2"), "possible: smollm2-135m"),
        (("run", "search", "--fuse", "2"), "leave out --fuse and --devices"),
        (("run", "search", "--fuse", "auto"), "leave out --fuse and --devices"),
        (("run", "search", "--devices", "2"), "leave out --fuse and --devices"),
        (("run", "search", "--log", "tensorboard"), "mlflow=TRACKING_URI"),
    ],
)
def test_a_wrong_word_is_told_with_what_is_possible(storage, arguments, says):
    assert says in " ".join(run(*arguments, code=1).stderr.split())


def test_the_plan_says_which_cells_cannot_be_judged_here(storage, monkeypatch):
    monkeypatch.delenv("LORALAND_RUN_CODE", raising=False)
    plan = json.loads(run("plan", "paper", "--json").stdout)
    assert len(plan["unjudged"]) == 10
    assert all(label.endswith("/magicoder") for label in plan["unjudged"])
    shown = " ".join(run("plan", "paper").stdout.split())
    assert "10 cells cannot be judged here and will fail" in shown
    assert "LORALAND_RUN_CODE=1" in shown
    monkeypatch.setenv("LORALAND_RUN_CODE", "1")
    monkeypatch.setattr("loraland.evaluation.sandbox.require_sandbox", lambda: None)
    assert json.loads(run("plan", "paper", "--json").stdout)["unjudged"] == []


def test_status_says_why_a_cell_failed(storage):
    from loraland.errors import SourceUnavailable

    space = load_space("embedded")
    Ledger(storage).record_failure(space.cells[1], SourceUnavailable("no rows here\nnor there"))
    shown = run("status", "embedded").stdout
    assert "0/4 done, 1 failed" in shown and "source_unavailable: no rows here" in shown
    states = [cell["state"] for cell in json.loads(run("status", "embedded", "--json").stdout)]
    assert states == ["missing", "failed", "missing", "missing"]


def test_unusable_storage_is_told_without_a_traceback(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "file"))
    said = " ".join(run("status", "embedded", code=1).stderr.split())
    assert "storage_unavailable" in said and "start the same command again" in said


def test_a_probe_is_kept_for_forecasts(storage, tmp_path):
    space = write(tmp_path, max_examples=200)
    probe = json.loads(run("probe", space, "--updates", "2", "--json").stdout)
    assert probe["device"] == "cpu" and probe["tokens_per_s"] > 0
    assert [known.base for known in read_probes(storage)] == ["tiny-mistral-7b"]


def test_unknown_or_absent_loggers_are_told_before_anything_starts(storage, tmp_path, monkeypatch):
    from loraland.matrix import loggers

    space = write(tmp_path)
    assert "mlflow=TRACKING_URI" in run("run", space, "--log", "tensorboard", code=1).stderr
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    assert "pip install mlflow" in run("run", space, "--log", "mlflow", code=1).stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("fuse", ["1", "auto"])
def test_a_space_is_run_and_a_second_run_does_nothing(
    ray_cluster: Any, storage: Storage, tmp_path: Path, fuse: str
) -> None:
    space = write(tmp_path)
    first = json.loads(run("run", space, "--fuse", fuse, "--json").stdout)
    assert (first["ran"], first["done"], first["failed"]) == (3, 3, [])
    rows = parquet.read_table(Path(storage.root) / first["table"]).to_pylist()
    assert [row["task"] for row in rows] == ["viggo", "glue_stsb", "legal"]
    again = json.loads(run("run", space, "--fuse", fuse, "--json").stdout)
    assert (again["ran"], again["done"]) == (0, 3)
    assert "3/3 done" in run("status", space).stdout


@pytest.mark.ray
@pytest.mark.slow
def test_one_cell_on_two_devices(ray_cluster: Any, storage: Storage, tmp_path: Path) -> None:
    space = write(tmp_path, tasks=["viggo"])
    done = json.loads(run("run", space, "--devices", "2", "--cpus", "1", "--json").stdout)
    assert (done["ran"], done["done"], done["failed"]) == (1, 1, [])
    # Without dropout two devices end where one does, up to rounding.
    [row] = parquet.read_table(Path(storage.root) / done["table"]).to_pylist()
    alone = run_cell(load_space(space).cells[0], Storage.open(str(tmp_path / "alone")))
    curves = [
        [point.train_loss for point in Registry(place).card(model).curve]
        for place, model in (
            (storage, row["model"]),
            (Storage.open(str(tmp_path / "alone")), alone.model),
        )
    ]
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


@pytest.mark.ray
def test_more_devices_than_there_are_is_told(
    ray_cluster: Any, storage: Storage, tmp_path: Path
) -> None:
    said = run("run", write(tmp_path), "--devices", "9", code=1).stderr
    assert "9 workers for one cell do not fit" in " ".join(said.split())


@pytest.mark.ray
def test_a_cell_that_cannot_be_judged_fails_without_a_trial(
    ray_cluster: Any, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LORALAND_RUN_CODE", raising=False)
    space = write(tmp_path, tasks=["magicoder"], data="real")
    done = json.loads(run("run", space, "--json", code=1).stdout)
    assert done["failed"] == ["tiny-mistral-7b/magicoder"]
    assert storage.names("tune") == storage.names("runs") == []
    [status] = json.loads(run("status", space, "--json").stdout)
    assert status["error"]["code"] == "metric_unavailable"


@pytest.mark.ray
@pytest.mark.slow
def test_a_cell_whose_adapter_was_deleted_is_told_and_run_again(
    ray_cluster: Any, storage: Storage, tmp_path: Path
) -> None:
    space = write(tmp_path, tasks=["viggo", "legal"])
    assert json.loads(run("run", space, "--json").stdout)["ran"] == 2
    before = {str(entry.name) for entry in Registry(storage).list()}
    storage.delete_folder("adapters/tiny-mistral-7b/legal")
    assert "1/2 done, 1 lost" in run("status", space).stdout
    again = json.loads(run("run", space, "--json").stdout)
    assert (again["ran"], again["done"]) == (1, 2)
    assert {str(entry.name) for entry in Registry(storage).list()} == before


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["optuna", pytest.param("random", marks=pytest.mark.long)])
def test_a_search_ends_with_the_best_recipe_as_a_cell_and_tries_nothing_twice(
    ray_cluster: Any, storage: Storage, tmp_path: Path, algorithm: str
) -> None:
    if algorithm == "optuna":
        pytest.importorskip("optuna", reason="optuna is an extra of its own")
    search = SEARCH | {"algorithm": algorithm}
    space = write(tmp_path, tasks=["viggo"], search=search | {"samples": 2})
    assert "0/1 done" in run("status", space).stdout
    found = json.loads(run("run", space, "--json").stdout)
    assert len(found["tried"]) == 2
    losses = [one["validation_loss"] for one in found["tried"]]
    assert losses == sorted(losses)
    [cell_id] = storage.names("cells")
    assert cell_id == found["cell"]
    recipe = storage.read_json(f"cells/{cell_id}/result.json")["cell"]["recipe"]
    assert recipe["learning_rate"] == found["tried"][0]["parameters"]["learning_rate"]
    assert "1/1 done" in run("status", space).stdout

    [key] = storage.names("spaces/small/search")
    folder = Path(storage.locate(f"spaces/small/search/{key}"))
    ended = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert len(ended) == 2
    # Asked for more, the search goes on; what was tried is told again, and not tried again.
    space = write(tmp_path, tasks=["viggo"], search=search)
    assert "0/1 done" in run("status", space).stdout
    more = json.loads(run("run", space, "--json").stdout)
    assert len(more["tried"]) == 4
    for one in found["tried"]:
        assert one in more["tried"]
    assert {file: file.stat().st_mtime_ns for file in ended} == ended
    # Whole, it starts no trial.
    experiments = len(storage.names("tune"))
    assert json.loads(run("run", space, "--json").stdout)["tried"] == more["tried"]
    assert len(storage.names("tune")) == experiments


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_whose_best_cell_fails_ends_with_1(
    ray_cluster: Any, storage: Storage, tmp_path: Path
) -> None:
    """One that is stopped at its first check can be trained, but changes nothing."""
    search = {
        "parameters": {"learning_rate": {"choice": [1e-30]}}, "samples": 1, "algorithm": "random",
    }  # fmt: skip
    space = write(tmp_path, tasks=["viggo"], search=search)
    found = json.loads(run("run", space, "--json", code=1).stdout)
    assert found["failed"] == ["tiny-mistral-7b/viggo"]
    assert "0/1 done, 1 failed" in run("status", space).stdout
    assert "adapter_has_no_effect" in run("status", space).stdout


@pytest.mark.ray
@pytest.mark.slow
def test_trials_are_logged_to_mlflow_when_asked(
    ray_cluster: Any, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is an extra of its own")
    place = (tmp_path / "mlruns").as_uri()
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    said = run("run", write(tmp_path), "--log", f"mlflow={place}", code=1).stderr
    assert "cannot be used" in said and "Traceback" not in said
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    run("run", write(tmp_path, tasks=["viggo"]), "--log", f"mlflow={place}")
    client = mlflow.MlflowClient(place)
    [experiment] = [e for e in client.search_experiments() if e.name == "small"]
    for _ in range(50):
        [logged] = client.search_runs([experiment.experiment_id])
        if "lift" in logged.data.metrics:
            break
        time.sleep(0.1)
    assert {"train_loss", "validation_loss", "lift"} <= logged.data.metrics.keys()
