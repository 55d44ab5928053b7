"""Our own server asked as an outside endpoint: the base must meet itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from loraland.evaluation.endpoint import parse_endpoint
from loraland.evaluation.endpoint_run import Report, ask_endpoint
from loraland.evaluation.samples import read_samples
from loraland.matrix.ledger import Ledger
from loraland.matrix.questions import questions_of
from loraland.matrix.run import run_cell
from loraland.matrix.space import Space, parse_space
from loraland.matrix.standings import standings
from loraland.serving import local
from loraland.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
BASE = "tiny-llama-2-7b-chat"


@pytest.fixture(scope="module")
def url(ray_cluster: Any) -> Iterator[str]:
    with local.running_app(BASE, "fp32", "127.0.0.1", 0, (1, 0)) as address:
        yield f"{address}/v1"


@pytest.fixture
def space() -> Space:
    """Two tasks of the rehearsal on one base, with more items."""
    content = yaml.safe_load((ROOT / "tune_spaces" / "rehearsal.yaml").read_text())
    content |= {"bases": [BASE], "tasks": ["dbpedia", "glue_mnli"], "max_items": 8}
    return parse_space(yaml.safe_dump(content), "here")


def ask(url: str, space: Space, storage: Storage, api: str, model: str = BASE) -> Report:
    fields = {"name": f"ours-{api}", "url": url, "model": model, "api": api, "attempts": 2}
    endpoint = parse_endpoint(yaml.safe_dump(fields), "here")
    return ask_endpoint(endpoint, None, questions_of(space), storage)


def test_the_base_answers_through_its_own_server_as_it_was_judged(
    url: str, space: Space, tmp_path: Path
) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    for cell in space.cells:
        result = run_cell(cell, storage, lambda event: None)
        Ledger(storage).record_result(cell, result, seconds=1.0)
    for api in ("completions", "chat"):
        report = ask(url, space, storage, api)
        assert report.error is None and [one.failures for one in report.judged] == [0, 0]
        assert all(one.stamp["endpoint"]["models"] == {BASE: 8} for one in report.judged)
        assert report.requests == 16 and report.spent.tokens > 16
    found = standings(space, storage, ["ours-completions", "ours-chat"])
    for judged in found:
        assert set(judged.opponents) == {"base", "ours-completions", "ours-chat"}
        [place] = storage.names(f"samples/ours-completions/{judged.task}")
        theirs, _ = read_samples(storage, f"samples/ours-completions/{judged.task}/{place}")
        ours, _ = read_samples(storage, judged.score.base_samples)
        assert [one.output for one in theirs] == [one.output for one in ours]
        assert len({one.output for one in ours}) > 1
        assert [one.prompt_tokens for one in theirs] == [one.prompt_tokens for one in ours]


def test_a_model_that_is_not_served_is_refused_once(url: str, space: Space, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    report = ask(url, space, storage, "chat", "tiny-phi-2")
    assert report.error is not None and report.judged == []
    assert re.search(r"status 404 \(model_not_found\)", report.error.message)
    assert report.requests <= 8 and report.spent_in_all.tokens == 0
