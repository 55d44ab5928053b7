from __future__ import annotations

import math
from typing import Any

import pytest

from loraland.adapters.card import Canary, Card, CurvePoint, DataStamp, Score
from loraland.errors import DataRefused, InvalidRequest
from loraland.palate.adapter_catalogue import (
    catalogue_of_cards,
    choose_adapters,
    fit_adapters,
    task_text,
)
from loraland.palate.model import PalateModel
from loraland.palate.scoring import Wish

WHEN = "2026-01-31T12:00:00+00:00"
TASKS = ("wikisql", "dbpedia", "gsm8k", "glue_sst2", "conllpp", "viggo", "magicoder", "boolq")
# Parameters in millions, and what its adapters score.
BASES = {"gemma-2b": 0.7, "mistral-7b": 0.9, "smollm2-135m": 0.6}


def score(mean: float, created: str = WHEN) -> Score:
    return Score(
        metric="accuracy", items=100, mean=mean, low=mean - 0.05, high=mean + 0.05,
        base_mean=0.3, base_low=0.2, base_high=0.4, lift=mean - 0.3, lift_low=mean - 0.4,
        lift_high=mean - 0.2, unparsable=0, base_unparsable=0, failures=0, confidence=0.95,
        samples="a", base_samples="b", data_source="made up", created=created,
    )  # fmt: skip


def card(base: str, task: str, version: int, **changes: Any) -> Card:
    values: dict[str, Any] = {
        "base": base, "base_fingerprint": "f" * 64, "hub_id": "", "precision": "nf4",
        "task": task, "version": f"{version:012x}", "recipe": {}, "seed": 0,
        "data": DataStamp(fingerprint="d", source="made up", train_rows=10, validation_rows=0,
                          dropped_long=0),
        "curve": [CurvePoint(step=1, tokens=40_000, train_loss=1.0, validation_loss=None,
                             learning_rate=1e-4, seconds=60.0 + version)],
        "best_step": 1,
        "canary": Canary(prompt_ids=[1], top_ids=[1], logits=[1.0], base_logits=[0.0],
                         max_difference=1.0),
        "scores": [score(BASES[base])], "packages": {}, "git_commit": None, "git_dirty": None,
        "hardware": "2 cores", "created": WHEN,
    }  # fmt: skip
    return Card(**{**values, **changes})


@pytest.fixture(scope="module")
def cards() -> list[Card]:
    pairs = [(base, task) for task in TASKS for base in BASES]
    return [card(base, task, number) for number, (base, task) in enumerate(pairs)]


@pytest.fixture(scope="module")
def chooser(cards: list[Card]) -> PalateModel:
    return fit_adapters(catalogue_of_cards(cards))


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Write a SQL query that answers a question about this table", "wikisql"),
        ("Find the named entities: persons, organizations and locations", "conllpp"),
        ("Is the sentiment of this sentence positive or negative?", "glue_sst2"),
        ("Solve this grade school math problem", "gsm8k"),
    ],
)
def test_a_text_finds_the_adapters_of_its_work(chooser: PalateModel, text: str, task: str) -> None:
    found = choose_adapters(chooser, text)
    assert found[0].pick.kind == task
    assert found[0].nearness >= found[-1].nearness > 0


def test_a_budget_keeps_large_bases_out(chooser: PalateModel) -> None:
    text = "Write a SQL query for a table"
    free = choose_adapters(chooser, text, Wish(count=3))
    small = choose_adapters(chooser, text, Wish(count=3, budget=200))
    assert {one.pick.kind for one in free} == {"wikisql"}
    assert {one.pick.maker for one in small} == {"smollm2-135m"}
    assert all(one.pick.price is not None and one.pick.price <= 200 for one in small)


def test_the_newest_score_counts_and_unjudged_adapters_do_not(cards: list[Card]) -> None:
    later = score(0.95, "2026-02-01T12:00:00+00:00")
    judged = cards[0].model_copy(update={"scores": [later, score(0.1)]})
    unjudged = cards[1].model_copy(update={"scores": []})
    found = catalogue_of_cards([judged, unjudged, *cards[2:]], quality="score")
    assert len(found) == len(cards) - 1
    assert found.quality[0] == pytest.approx(95)
    assert str(cards[1].name) not in found.keys


def test_costs_are_what_they_are_called(cards: list[Card]) -> None:
    parameters = catalogue_of_cards(cards, "parameters")
    small = [str(c.name) for c in cards].index(str(cards[2].name))
    assert cards[2].base == "smollm2-135m" and 100 < parameters.price[small] < 200
    assert catalogue_of_cards(cards, "tokens").price[0] == 40
    assert catalogue_of_cards(cards, "seconds").price[3] == 63
    nowhere = cards[0].model_copy(update={"base": "someone-s-own", "curve": []})
    for cost in ("parameters", "tokens"):
        assert math.isnan(catalogue_of_cards([nowhere, *cards], cost).price[0])


def test_no_adapter_is_offered_for_work_that_none_does(chooser: PalateModel) -> None:
    assert choose_adapters(chooser, "zzz qqq xyzzy") == []


def test_a_registry_with_too_little_in_it_is_told(cards: list[Card]) -> None:
    with pytest.raises(DataRefused, match="3 adapters have a score; at least 4"):
        catalogue_of_cards(cards[:3])


def test_an_empty_text_is_refused(chooser: PalateModel) -> None:
    with pytest.raises(InvalidRequest, match="empty text"):
        choose_adapters(chooser, "  ")


def test_a_budget_below_every_adapter_names_the_cheapest(chooser: PalateModel) -> None:
    with pytest.raises(InvalidRequest, match="the cheapest costs"):
        choose_adapters(chooser, "SQL", Wish(budget=0.001))


def test_a_task_of_one_s_own_is_known_by_its_name() -> None:
    assert task_text("my-secret_task") == "my secret task"
    assert "SQL generation" in task_text("wikisql")
