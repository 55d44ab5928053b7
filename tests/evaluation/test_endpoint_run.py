"""`loraland endpoint ask`, from a space to a column on its leaderboard."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from loraland.cli import app
from loraland.errors import InvalidConfiguration
from loraland.evaluation.endpoint_answers import spent_before
from loraland.evaluation.exam import Exam
from loraland.evaluation.samples import Sample, read_samples, write_samples
from loraland.evaluation.scoring import score as score_of
from loraland.matrix.cell import CellResult
from loraland.matrix.ledger import Ledger
from loraland.matrix.questions import questions_of, questions_on
from loraland.matrix.space import Space, load_space
from loraland.storage import Storage
from tests.evaluation.crooked import KEY, Crooked, crooked, fails, says

ROOT = Path(__file__).resolve().parents[2]
ITEMS = 6
SPACE = {
    "name": "small",
    "bases": ["smollm2-135m", "tiny-phi-2"],
    "tasks": ["dates", "topics"],
    "recipe": "quick",
    "max_items": ITEMS,
}


@dataclass
class Place:
    """A server, the settings of an endpoint there, a space and a storage."""

    server: Crooked
    folder: Path
    storage: Storage
    space: Space

    def settings(self, **changes: Any) -> str:
        fields = {
            "name": "gpt-x",
            "url": self.server.url,
            "model": "gpt-x",
            "api_key_env": "CROOKED_KEY",
            "concurrency": 2,
            "attempts": 1,
            "timeout_s": 20,
        }
        path = self.folder / "endpoint.yaml"
        path.write_text(yaml.safe_dump(fields | changes))
        return str(path)

    def ask(self, *arguments: str, code: int = 0, **changes: Any) -> Any:
        what = arguments or (str(self.folder / "small.yaml"),)
        return self.run("endpoint", "ask", self.settings(**changes), *what, code=code)

    def run(self, *arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
        assert result.exit_code == code, result.output
        return result

    def samples(self, task: str) -> tuple[list[Sample], dict[str, Any]]:
        [name] = self.storage.names(f"samples/gpt-x/{task}")
        return read_samples(self.storage, f"samples/gpt-x/{task}/{name}")

    def files(self) -> list[str]:
        root = Path(self.storage.root)
        return [str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()]

    def prompts(self, task: str) -> list[str]:
        [(found, split)] = questions_of(self.space, [task])
        return [found.item(row).prompt for row in split.rows]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("LORALAND_STORAGE", str(tmp_path / "storage"))
    monkeypatch.setenv("CROOKED_KEY", KEY)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SPACE))
    storage = Storage.open(str(tmp_path / "storage"))
    with crooked() as server:
        yield Place(server, tmp_path, storage, load_space(str(tmp_path / "small.yaml")))


def finish_cells(place: Place, base: str) -> None:
    """What the judged cells of a base leave: an adapter that is wrong, a base that is too."""
    for cell in [cell for cell in place.space.cells if cell.base == base]:
        [(task, split)] = questions_of(place.space, [cell.task])
        exam = Exam.of(task, split, cell.base, "f" * 64, "fp32")
        samples = [
            Sample(n, i.prompt, i.target, "{}", "o", "o", 0.0, None, "stop", 1, 1, 1.0)
            for n, i in enumerate(exam.items)
        ]
        places = exam.path("0123456789ab"), exam.path(None)
        for path in places:
            write_samples(place.storage, path, samples, {})
        score = score_of(task, samples, samples, *places, "here")
        result = CellResult(cell.label, f"{cell.label}@0123456789ab", score, "runs/1", True, ())
        Ledger(place.storage).record_result(cell, result, seconds=1.0)


def test_an_endpoint_is_an_opponent_on_the_very_items_of_a_space(place: Place) -> None:
    finish_cells(place, "smollm2-135m")
    answers = {
        prompt: task.item(row).target
        for task, split in questions_of(place.space)
        for row in split.rows
        for prompt in [task.item(row).prompt]
    }

    def knows(handler: Any, seen: Any) -> None:
        says(answers[seen.prompt])(handler, seen)

    place.server.otherwise = knows
    shown = place.ask().stdout
    assert "gpt-x-2026-01-31" in shown and "1.000" in shown and "0 of 6" in shown
    path = str(place.folder / "small.yaml")
    board = json.loads(
        place.run("leaderboard", path, "--endpoint", "gpt-x", "--format", "json").stdout
    )
    assert [row["gpt-x_lift"] for row in board["rows"]] == [-1.0, -1.0]


def test_a_task_that_two_bases_share_is_asked_once_and_never_again(place: Place) -> None:
    place.ask()
    prompts = [seen.prompt for seen in place.server.seen]
    expected = {*place.prompts("dates"), *place.prompts("topics")}
    assert len(prompts) == len(expected) and set(prompts) == expected
    again = place.ask()
    assert "0 requests" in again.stderr and len(place.server.seen) == len(prompts)
    place.storage.delete_folder("samples")  # answers alone are enough
    assert place.ask().stdout == again.stdout
    assert len(place.server.seen) == len(prompts)


def test_answers_are_cut_and_graded_as_everybody_s(place: Place) -> None:
    place.server.otherwise = says("\n\n  2024-01-05 \nQuestion: and more", finish="length")
    place.ask(str(place.folder / "small.yaml"), "dates")
    samples, stamp = place.samples("dates")
    assert {(one.output, one.finish_reason) for one in samples} == {("2024-01-05", "stop")}
    assert all("stop" not in seen.body for seen in place.server.seen)
    assert [one.prompt for one in samples] == place.prompts("dates")
    assert {one.score for one in samples} <= {0.0, 1.0} and all(one.parsed for one in samples)
    assert (samples[0].prompt_tokens, samples[0].tokens) == (7, 2)
    assert stamp["base"] == "gpt-x" and stamp["items"] == ITEMS


def test_the_stamp_says_who_answered_when_and_for_how_much(place: Place) -> None:
    place.server.script = [says("a", model="gpt-y", system_fingerprint="fp_9")]
    prices = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 2, "max_usd": 1}
    place.ask("dates", "--max-items", "4", **prices)
    [(task, split)] = questions_on(["dates"], 4)
    distinct = len({task.item(row).prompt for row in split.rows})
    told = place.samples("dates")[1]["endpoint"]
    assert told["models"] == {"gpt-y": 1, "gpt-x-2026-01-31": distinct - 1}
    assert told["system_fingerprints"] == {"fp_9": 1}
    assert told["usd"] == pytest.approx(distinct * 11e-6)
    assert (told["input_tokens"], told["output_tokens"]) == (7 * distinct, 2 * distinct)
    assert told["url"] == place.server.url and told["created"] == [1_760_000_000] * 2
    first, last = told["received"]
    assert first <= last and first.endswith("+00:00")


def test_an_outage_leaves_no_samples_and_what_was_answered_is_kept(place: Place) -> None:
    lost = place.prompts("dates")[2]

    def mostly(handler: Any, seen: Any) -> None:
        (fails(503) if seen.prompt == lost else says("a"))(handler, seen)

    place.server.otherwise = mostly
    told = place.ask(code=1)
    total = len(set(place.prompts("dates")))
    said = " ".join(told.stderr.split())
    assert "endpoint_unavailable" in said
    assert f"'dates' is not complete, and no samples of it are written: {total - 1} of {total}" in (
        said
    )
    assert place.storage.names("samples/gpt-x") == ["topics"]  # which was not harmed
    sent = len(place.server.seen)
    place.server.otherwise = says("a")
    place.ask()
    assert [seen.prompt for seen in place.server.seen[sent:]] == [lost]
    assert place.storage.names("samples/gpt-x") == ["dates", "topics"]


def test_what_belongs_to_an_item_is_a_failed_answer(place: Place) -> None:
    long, filtered, odd, refused = place.prompts("dates")[:4]
    acts = {
        long: fails(400, "context_length_exceeded", "too long"),
        filtered: says(None, finish="content_filter"),
        odd: fails(400, "strange", "no such thing"),
        refused: says("", choices=[{"message": {"content": None, "refusal": "I will not."}}]),
    }

    def act(handler: Any, seen: Any) -> None:
        acts.get(seen.prompt, says("a"))(handler, seen)

    place.server.otherwise = act
    shown = place.ask("dates", "--max-items", str(ITEMS)).stdout
    samples, _ = place.samples("dates")
    failures = {one.prompt: one.failure for one in samples if one.failure}
    assert set(failures) == set(acts) and "4 of 6" in shown
    assert "too long" in str(failures[long]) and "content filter" in str(failures[filtered])
    assert "strange" in str(failures[odd]) and "I will not." in str(failures[refused])
    assert all(one.score == 0.0 and one.output == "" for one in samples if one.failure)


def test_a_form_of_request_that_is_never_taken_says_nothing_about_the_model(place: Place) -> None:
    place.server.otherwise = fails(400, "unsupported_parameter", "use max_completion_tokens")
    said = " ".join(place.ask(code=1).stderr.split())
    assert "endpoint_refused" in said and "use max_completion_tokens" in said
    assert place.storage.names("samples/gpt-x") == []


def test_one_name_stands_for_one_model(place: Place) -> None:
    place.ask("dates", "--max-items", "2")
    said = " ".join(place.ask("dates", model="gpt-y", code=1).stderr.split())
    assert "stands for another model" in said and "a name of its own" in said
    place.ask("dates", "--max-items", "2", concurrency=5, timeout_s=9)  # decide no answer
    write_samples(place.storage, "samples/local-base/dates/base-1.parquet", [], {})
    assert "another name" in place.ask("dates", name="local-base", code=1).stderr


def test_a_dry_run_sends_nothing_and_needs_no_key(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CROOKED_KEY")
    prices = {"usd_per_million_input_tokens": 1, "usd_per_million_output_tokens": 2, "max_usd": 1}
    path = str(place.folder / "small.yaml")
    found = json.loads(place.ask(path, "--dry-run", "--json", **prices).stdout)
    wanted = {*place.prompts("dates"), *place.prompts("topics")}
    assert found["requests"] == len(wanted) and found["answered"] == 0
    assert found["input_tokens"] == sum(-(-len(prompt.encode()) // 4) for prompt in wanted)
    assert 0 < found["usd"] < found["most_usd"] and found["within_caps"] is True
    assert "requests to send" in place.ask(path, "--dry-run").stdout
    assert place.server.seen == [] and place.files() == []
    assert "CROOKED_KEY, which is not set" in " ".join(place.ask(path, code=1).stderr.split())
    monkeypatch.setenv("CROOKED_KEY", KEY)
    place.ask(path, "dates", **prices)
    left = json.loads(place.ask(path, "--dry-run", "--json", **prices).stdout)
    assert left["requests"] == len(set(place.prompts("topics")))
    assert left["spent"]["usd"] > 0


def test_a_cap_ends_the_run_with_what_to_do(place: Place) -> None:
    said = " ".join(place.ask(code=1, max_total_tokens=260).stderr.split())
    assert "budget_exhausted" in said and "max_total_tokens" in said and "kept" in said
    assert "topics" not in place.storage.names("samples/gpt-x")
    assert spent_before(place.storage, "gpt-x").tokens <= 260
    sent = len(place.server.seen)
    assert sent > 0
    place.ask()  # without the cap it goes on
    everything = {*place.prompts("dates"), *place.prompts("topics")}
    assert len(place.server.seen) == len(everything)


def test_the_key_is_nowhere_but_in_the_header(place: Place) -> None:
    place.server.script = [says(f"{KEY} a", model=f"m-{KEY}")]
    place.server.otherwise = fails(401, KEY, f"Incorrect API key provided: {KEY}")
    told = place.ask(code=1)
    assert KEY in place.server.seen[0].headers["authorization"]
    assert "Incorrect API key provided: ***" in " ".join(told.stderr.split())
    place.server.otherwise = says(KEY, system_fingerprint=KEY, finish=KEY)
    done = place.ask("--json", str(place.folder / "small.yaml"))
    assert len(json.loads(done.stdout)["tasks"]) == 2
    files = place.files()
    assert len(files) > ITEMS
    for text in (told.output, done.output, *map(str, files)):
        assert KEY not in text
    for file in files:
        if file.endswith(".parquet"):
            samples, stamp = read_samples(place.storage, file)
            assert KEY not in repr(samples) + repr(stamp)
        assert KEY.encode() not in place.storage.read(file)


def test_tasks_of_a_space_are_named_after_it(place: Place) -> None:
    path = str(place.folder / "small.yaml")
    assert "did you mean 'dates'?" in place.ask(path, "date", code=1).stderr
    found = questions_of(place.space, ["topics"], max_items=2)
    assert [(task.name, len(split.rows)) for task, split in found] == [("topics", 2)]
    with pytest.raises(InvalidConfiguration):
        questions_of(place.space, ["viggo"])


def test_questions_are_those_that_cells_prepare(place: Place) -> None:
    """Also where cells of one task differ in their number of items, or their rows are made up."""
    rehearsal = load_space("rehearsal")
    [(task, split)] = questions_of(rehearsal, ["magicoder"])
    assert split.source == "rehearsal:magicoder" and len(split.rows) == 3
    assert task.metric == "rouge"  # as a rehearsal judges it
    first, second, *others = place.space.cells
    uneven = replace(place.space, cells=(first, second, replace(others[0], max_items=3)))
    assert [len(split.rows) for _, split in questions_of(uneven)] == [ITEMS, ITEMS, 3]


@pytest.mark.slow
def test_a_run_killed_in_the_middle_pays_for_no_answer_twice(place: Place) -> None:
    half, hold = threading.Event(), threading.Event()
    prompts = {*place.prompts("dates"), *place.prompts("topics")}

    def slow(handler: Any, seen: Any) -> None:
        if len(place.server.seen) > len(prompts) // 2:
            half.set()
            hold.wait(60)  # those under way when the process dies
        says("a")(handler, seen)

    place.server.otherwise = slow
    command = [sys.executable, "-m", "loraland.cli", "endpoint", "ask", place.settings()]
    command.append(str(place.folder / "small.yaml"))
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform")}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    assert half.wait(120)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hold.set()
    kept = len(place.storage.walk("answers"))
    assert len(prompts) // 2 - 1 <= kept < len(prompts)
    # What was under way may have been charged: it is counted, before the next run begins.
    counted = spent_before(place.storage, "gpt-x").tokens
    assert counted >= 9 * kept + 100
    sent = len(place.server.seen)
    place.server.otherwise = says("a")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(place.server.seen) - sent == len(prompts) - kept
    assert place.storage.names("samples/gpt-x") == ["dates", "topics"]
    assert spent_before(place.storage, "gpt-x").tokens == counted + 9 * (len(prompts) - kept)
