from __future__ import annotations

import json
from pathlib import Path

import pyarrow.csv as pacsv
import pytest
from typer.testing import CliRunner

from loraland.adapters.card import Card
from loraland.cli import app
from loraland.palate.generator import World


def call(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["palate", *arguments], env={"COLUMNS": "160"})
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def fitted(tmp_path: Path, world: World) -> str:
    """The version of a model in the default storage, fitted on a CSV file."""
    pacsv.write_csv(world.reviews, tmp_path / "reviews.csv")
    code, out, err = call("fit", str(tmp_path / "reviews.csv"), "--palates", "6", "--json")
    assert code == 0, err
    return str(json.loads(out)["version"])


@pytest.mark.parametrize(
    "command", [[], ["fit"], ["recommend"], ["find"], ["cards"], ["evaluate"], ["adapters"]]
)
def test_every_command_teaches(command: list[str]) -> None:
    code, out, _ = call(*command, "--help")
    assert code == 0
    assert len(out.split()) > 20


def test_from_a_file_to_a_list_with_reasons(fitted: str) -> None:
    code, out, _ = call("cards", "--count", "6", "--json")
    cards = json.loads(out)
    assert code == 0 and len(cards) == 6
    asked = ("recommend", "--like", cards[0]["key"], "--dislike", cards[1]["key"])
    code, out, _ = call(*asked, "--budget", "60", "--count", "5", "--json")
    shelf = json.loads(out)
    assert code == 0
    assert shelf["model_version"] == fitted
    assert len(shelf["picks"]) == 5
    assert all(pick["price"] <= 60 for pick in shelf["picks"])
    assert shelf["theta"][cards[0]["palate_id"]] == max(shelf["theta"].values())
    code, out, _ = call(*asked, "--budget", "60")
    assert code == 0
    assert shelf["picks"][0]["title"][:30] in out
    assert "usual here for such points" in out


def test_wines_are_found_and_named_by_their_titles(fitted: str) -> None:
    code, out, _ = call("find", "Lot 7 ", "--json")
    one = json.loads(out)[0]
    assert code == 0
    by_title = call("recommend", "--like", one["title"], "--json")[1]
    by_key = call("recommend", "--like", one["key"], "--json")[1]
    assert json.loads(by_title)["theta"] == json.loads(by_key)["theta"]
    code, _, err = call("recommend", "--like", "valley")
    assert code == 1 and "give more words of the title" in err
    code, _, err = call("recommend", "--like", "no such wine")
    assert code == 1 and "no item has the key" in err
    code, _, err = call("find", "nowhere-to-be-found")
    assert code == 0 and "no title holds" in err


def test_fitting_a_name_again_keeps_its_palates(fitted: str, tmp_path: Path) -> None:
    code, out, _ = call("fit", str(tmp_path / "reviews.csv"), "--palates", "7", "--json")
    again = json.loads(out)
    assert code == 0
    assert again["refit_of"] == fitted
    assert {f"p{at:02d}" for at in range(6)} <= {palate["id"] for palate in again["palates"]}


def test_made_up_reviews_are_the_default_and_are_judged_by_made_up_people() -> None:
    code, out, err = call("fit", "--rows", "1500", "--planted", "6", "--palates", "6")
    assert code == 0, err
    assert "NMI with varieties" in out
    code, out, _ = call("evaluate", "--people", "20", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["cases"] == "20 made-up people with true palates"
    of = {row["ranker"]: row["ndcg@10"] for row in found["rankers"]}
    assert of["palates, by score"][1] > of["most reviewed"][2]


@pytest.mark.ray
def test_the_scan_of_a_fit_runs_on_ray(ray_cluster: object) -> None:
    code, out, err = call("fit", "--rows", "600", "--planted", "4", "--json")
    assert code == 0, err
    assert len(json.loads(out)["scan"]) == 17


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("description,score\na,1\n")
    code, out, err = call("fit", str(tmp_path / "bad.csv"), "--json")
    assert code == 1 and "lack the columns points" in err
    assert json.loads(out)["error"]["code"] == "data_refused"
    code, _, err = call("recommend")
    assert code == 1 and "`loraland palate fit` makes some" in err
    code, _, err = call("adapters", "write SQL")
    assert code == 1 and "0 adapters have a score" in err


def test_an_adapter_is_chosen_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    from typing import NamedTuple

    from loraland.adapters.registry import Registry
    from tests.palate.test_adapter_catalogue import BASES, TASKS, card

    class Entry(NamedTuple):
        card: Card

    pairs = [(base, task) for task in TASKS for base in BASES]
    entries = [Entry(card(base, task, n)) for n, (base, task) in enumerate(pairs)]
    monkeypatch.setattr(Registry, "list", lambda self: entries)
    code, out, _ = call("adapters", "Write a SQL query for a table", "--budget", "3000", "--json")
    found = json.loads(out)
    assert code == 0
    assert found[0]["model"].split("/")[1].startswith("wikisql@")
    assert all(one["price"] <= 3000 for one in found)
    code, out, _ = call("adapters", "Write a SQL query for a table")
    assert code == 0 and "cost in million parameters" in out


def test_the_ray_job_takes_the_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    from train_jobs.palate import main

    main(data=None, palates=4, rows=600, planted=4)
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == "wine" and len(found["palates"]) == 4
