"""The JSON behind the pages: tasks, cards, spaces, leaderboards, samples."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.testclient import TestClient

from loraland.analysis.study import load_study
from loraland.matrix.ledger import Ledger
from loraland.matrix.space import load_space
from loraland.matrix.standings import standings
from loraland.report.scale import step
from loraland.serving import site_studies
from loraland.serving.site_studies import EVERYTHING
from loraland.storage import Storage
from loraland.tasks.catalogue import all_tasks, get_task
from tests.report.fabricated import finish, version_of
from tests.serving.web_stage import BASE, OUTCOMES, Player, furnish, stage

CELLS = load_space("embedded").cells
DATES = f"{BASE}/dates@{version_of(CELLS[0])}"


def furnished(folder: Path) -> Storage:
    storage = Storage.open(str(folder))
    furnish(storage)
    return storage


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    return furnished(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def client(storage: Storage) -> TestClient:
    app = stage(storage, Player(storage))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def samples(client: TestClient, cell: str = CELLS[0].id, space: str = "embedded", **query: object):
    return client.get(f"/v1/spaces/{space}/cells/{cell}/samples", params=query)


def test_tasks_are_those_of_the_catalogue(client: TestClient) -> None:
    data = client.get("/v1/tasks").json()["data"]
    assert [one["name"] for one in data] == [task.name for task in all_tasks()]


def test_a_task_tells_how_its_held_out_items_are_asked(client: TestClient) -> None:
    told, task = client.get("/v1/tasks/dates").json(), get_task("dates")
    assert (told["prompt"], told["inputs"], told["stop"]) == (task.prompt, ["text"], ["\n"])
    assert told["examples_from"] == "judged" and len(told["examples"]) == 12
    for example in told["examples"]:
        assert example["prompt"] == task.render(example["values"])


def test_examples_are_made_where_no_adapter_was_judged(client: TestClient) -> None:
    assert client.get("/v1/tasks/sql").json()["examples_from"] == "generator"
    told = client.get("/v1/tasks/boolq").json()  # on the hub, which is never asked
    assert (told["examples"], told["examples_from"]) == ([], None)


def test_samples_of_another_prompt_are_no_examples(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    finish(storage, CELLS[0], OUTCOMES)  # its rows are empty and its prompts made up
    client = TestClient(stage(storage, Player(storage)))
    told = client.get("/v1/tasks/dates").json()
    assert told["examples_from"] == "generator"


def test_a_card_is_found_by_any_name_of_its_adapter(client: TestClient) -> None:
    cards = [client.get(f"/v1/cards/{name}").json() for name in (DATES, f"{BASE}/dates")]
    assert cards[0] == cards[1]
    assert (cards[0]["model"], cards[0]["aliases"]) == (DATES, ["latest"])
    assert cards[0]["scores"][0]["lift"] == pytest.approx(0.5)
    assert cards[0]["updates"] == 30 and "canary" not in cards[0] and "curve" not in cards[0]
    missing = client.get(f"/v1/cards/{BASE}")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


def test_spaces_are_listed_with_what_is_finished(client: TestClient) -> None:
    lines = {one["name"]: one for one in client.get("/v1/spaces").json()["data"]}
    assert (lines["embedded"]["cells"], lines["embedded"]["results"]) == (4, 3)
    assert (lines["paper"]["cells"], lines["paper"]["results"]) == (310, 6)
    assert lines[EVERYTHING]["results"] == 9


def test_a_board_has_every_cell_with_its_result_or_the_reason_for_none(client: TestClient) -> None:
    board = client.get("/v1/spaces/embedded/leaderboard").json()
    assert [cell["id"] for cell in board["cells"]] == [cell.id for cell in CELLS]
    assert [cell["state"] for cell in board["cells"]] == ["done", "done", "done", "failed"]
    first, marked, _, failed = board["cells"]
    lift = first["result"]["lift"]
    assert lift["mean"] == pytest.approx(0.5) and lift["low"] < 0.5 < lift["high"]
    assert first["result"]["step"] == step(lift["mean"]) and first["result"]["verdict"] == "better"
    assert marked["result"]["marks"] == ["collapsed"]
    assert failed["result"] is None and failed["attempts"] == 3
    assert failed["reason"].startswith("training_diverged: the loss became NaN at update 7")
    assert board["claims"][0].startswith("3 of 3 adapters beat their base")
    assert [mean["kind"] for mean in board["means"]][:2] == ["all", "base"]


def test_a_board_of_the_paper_has_its_printed_figures_beside_ours(client: TestClient) -> None:
    board = client.get("/v1/spaces/paper/leaderboard").json()
    told = {(c["base"], c["task"]): c["result"] for c in board["cells"] if c["result"]}
    assert len(told) == 6 and board["finished"] == 6
    printed = {(cell.base, cell.task): cell for cell in load_study().cells}
    for place, result in told.items():
        assert result["published"]["lift"] == pytest.approx(printed[place].lift)
        assert result["published"]["tuned"] == printed[place].tuned
    embedded = client.get("/v1/spaces/embedded/leaderboard").json()
    assert embedded["cells"][0]["result"]["published"] is None


def test_everything_finished_takes_the_newest_of_a_base_and_task(tmp_path: Path) -> None:
    from dataclasses import replace

    storage = furnished(tmp_path)
    other = replace(CELLS[0], seed=7)
    finish(storage, other, "RW" * 20)
    record = Ledger(storage).results([other])[other.id]
    for finished, lift in (("2020-01-01T00:00:00+00:00", 0.5), ("2099-01-01T00:00:00+00:00", -1.0)):
        old = record.model_copy(update={"finished": finished})
        storage.write_json(f"cells/{other.id}/result.json", old.model_dump(mode="json"))
        client = TestClient(stage(storage, Player(storage)))
        board = client.get(f"/v1/spaces/{EVERYTHING}/leaderboard").json()
        [dates] = [c for c in board["cells"] if (c["base"], c["task"]) == (BASE, "dates")]
        assert dates["result"]["lift"]["mean"] == pytest.approx(lift)
        assert (len(board["cells"]), board["left_out"]) == (9, 1)


def test_a_board_is_made_again_when_a_record_changes_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = furnished(tmp_path)
    made: list[str] = []

    def noted(space, *more):
        made.append(space.name)
        return standings(space, *more)

    monkeypatch.setattr(site_studies, "standings", noted)
    studies = site_studies.Studies(storage)
    assert studies.board("embedded") is studies.board("embedded")
    assert made == ["embedded"]
    finish(storage, CELLS[3], OUTCOMES)
    assert studies.board("embedded").finished == 4
    assert made == ["embedded"] * 2


def test_what_the_adapter_broke_comes_first_and_pages_follow_one_another(
    client: TestClient,
) -> None:
    whole = samples(client, limit=50).json()
    assert whole["total"] == whole["matching"] == 20
    outcomes = [one["outcome"] for one in whole["data"]]
    assert outcomes[:2] == ["broken"] * 2 and outcomes[2:14] == ["mended"] * 12
    assert whole["counts"] == {"broken": 2, "mended": 12, "both_wrong": 2, "both_right": 4}
    pages = [samples(client, offset=n, limit=7).json()["data"] for n in (0, 7, 14, 21)]
    assert [one for page in pages for one in page] == whole["data"]


def test_answers_are_chosen_by_outcome_and_text(client: TestClient) -> None:
    broken = samples(client, outcome="broken").json()
    assert {one["outcome"] for one in broken["data"]} == {"broken"} and broken["matching"] == 2
    one = broken["data"][0]
    assert one["base"]["right"] and not one["adapter"]["right"]
    assert get_task("dates").render(one["values"]) == one["prompt"]
    found = samples(client, q=one["adapter"]["output"].upper()).json()
    assert found["matching"] >= 1 and one in found["data"]
    assert samples(client, q="nothing says this").json()["matching"] == 0


@pytest.mark.parametrize(
    ("query", "named"),
    [({"limit": 51}, "limit"), ({"limit": 0}, "limit"), ({"offset": -1}, "offset"),
     ({"outcome": "good"}, "outcome"), ({"q": "x" * 201}, "q"), ({"offset": "1e9"}, "offset")],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_by_name(client, query, named) -> None:
    answer = samples(client, **query)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"]) == ("invalid_request_error", named)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/v1/tasks/datez", "task_not_found"),
        ("/v1/tasks/dates%0Asamples", "task_not_found"),
        ("/v1/spaces/nothing/leaderboard", "space_not_found"),
        ("/v1/spaces/..%2F..%2Fetc%2Fx.yaml/leaderboard", None),
        ("/v1/spaces/tune_spaces%2Fembedded.yaml/leaderboard", None),
        (f"/v1/spaces/embedded/cells/{CELLS[3].id}/samples", "space_not_found"),
        ("/v1/spaces/embedded/cells/..%2F../samples", None),
        (f"/v1/spaces/search/cells/{CELLS[0].id}/samples", "space_not_found"),
    ],
)
def test_what_is_not_there_is_told_as_everywhere(client, path: str, code: str | None) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == (code or "not_found")


def test_answers_that_are_gone_are_told_and_the_board_stays(tmp_path: Path) -> None:
    storage = furnished(tmp_path)
    storage.delete_folder(f"samples/{BASE}/topics")
    client = TestClient(stage(storage, Player(storage)))
    board = client.get("/v1/spaces/embedded/leaderboard").json()
    assert board["cells"][1]["result"]["verdict"] is None
    gone = samples(client, CELLS[1].id)
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "samples_missing")


def test_storage_that_fails_is_no_surprise(tmp_path: Path, monkeypatch) -> None:
    storage = furnished(tmp_path)
    client = TestClient(stage(storage, Player(storage)), raise_server_exceptions=False)

    def fail(*_: object) -> None:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(site_studies, "listed", fail)
    answer = client.get("/v1/spaces")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "storage_unavailable")
    assert "fire" not in answer.text
