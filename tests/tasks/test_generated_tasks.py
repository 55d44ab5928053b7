from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import date
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import UnknownTask
from loraland.tasks.catalogue import generated_tasks, get_task
from loraland.tasks.generated import GENERATORS, Generator, get_generator, is_test
from loraland.tasks.generated.dates import FORMS, number_words, ordinal, ordinal_words, year_words
from loraland.tasks.generated.topics import TOPICS
from loraland.tasks.grading import gold_score
from loraland.tasks.sources import fingerprint, load_split
from loraland.tasks.task import Row, SplitName, Task
from loraland.tasks.text import normalised, normalised_hash

EACH = pytest.mark.parametrize("generator", GENERATORS.values(), ids=GENERATORS)

# Of the first 50 train rows with seed 0: another value means that published adapters were trained
# on other rows than the ones which the code gives now.
PINNED = {
    "dates": "fd8fe502478eab7d",
    "entities": "1126f20ff0d8c3be",
    "planted_rare": "41fb70dbb79223d6",
    "planted_shortcut": "51e89f87e7f53a7d",
    "sql": "83d5a8f035602c99",
    "topics": "7944543714c21544",
}


def take(generator: Generator, split: SplitName, count: int, seed: int = 0) -> list[Row]:
    return list(islice(generator.rows(split, seed), count))


@EACH
def test_train_and_test_share_no_question_whatever_the_seeds(generator: Generator) -> None:
    task = get_task(generator.name)
    train, test = (
        {
            normalised_hash(task.render(row))
            for seed in seeds
            for row in take(generator, split, 3000, seed)
        }
        for split, seeds in (("train", (0, 1, 2)), ("test", (0, 7)))
    )
    assert train.isdisjoint(test)


@EACH
def test_the_split_of_a_row_follows_from_its_content(generator: Generator) -> None:
    assert all(not is_test(generator.key(row)) for row in take(generator, "train", 500))
    assert all(is_test(generator.key(row)) for row in take(generator, "test", 500))


def test_test_dates_are_never_seen_in_training_in_any_form() -> None:
    generator = get_generator("dates")
    train = {row["iso"] for seed in range(3) for row in take(generator, "train", 5000, seed)}
    assert train.isdisjoint(row["iso"] for row in take(generator, "test", 5000))


@EACH
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(generator: Generator) -> None:
    assert take(generator, "train", 100, 3) == take(generator, "train", 100, 3)
    assert take(generator, "train", 100, 3) != take(generator, "train", 100, 4)
    assert take(generator, "train", 100, 3) == take(generator, "train", 200, 3)[:100]


@EACH
def test_rows_are_the_same_on_every_machine(generator: Generator) -> None:
    rows = take(generator, "train", 50)
    assert fingerprint(get_task(generator.name), rows)[:16] == PINNED[generator.name]


@EACH
def test_rows_vary(generator: Generator) -> None:
    task = get_task(generator.name)
    for split in ("train", "test"):
        prompts = {task.render(row) for row in take(generator, split, 1000)}
        assert len(prompts) > 950


@EACH
def test_every_gold_answer_scores_one_and_holds_no_stop_string(generator: Generator) -> None:
    task = get_task(generator.name)
    for split in ("train", "test"):
        items = load_split(task, split, limit=400).items()
        assert gold_score(task, items) == 1.0
        assert not any(end in item.target for item in items for end in task.stop)


@pytest.mark.parametrize("task", generated_tasks(), ids=lambda task: task.name)
def test_prompts_stay_short(task: Task) -> None:
    items = load_split(task, "train", limit=300).items()
    assert sum(len(item.prompt) for item in items) / len(items) < 260
    assert max(len(item.prompt) for item in items) < 360


def test_an_unknown_generator_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownTask, match="did you mean 'dates'"):
        get_generator("date")


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)))
def test_no_two_dates_are_written_alike(day: date) -> None:
    after = date.fromordinal(day.toordinal() % date(2099, 12, 31).toordinal() + 1)
    assert all(form(day) != form(after) for form in FORMS)
    assert all(str(day.day) in form(day) or ordinal_words(day.day) in form(day) for form in FORMS)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (ordinal(1), "1st"), (ordinal(2), "2nd"), (ordinal(3), "3rd"), (ordinal(11), "11th"),
        (ordinal(12), "12th"), (ordinal(13), "13th"), (ordinal(21), "21st"), (ordinal(30), "30th"),
        (ordinal_words(12), "twelfth"), (ordinal_words(20), "twentieth"),
        (ordinal_words(22), "twenty-second"), (ordinal_words(30), "thirtieth"),
        (ordinal_words(31), "thirty-first"), (number_words(40), "forty"),
        (number_words(7), "seven"),
        (year_words(1905), "nineteen oh five"), (year_words(1994), "nineteen ninety-four"),
        (year_words(2000), "two thousand"), (year_words(2009), "two thousand and nine"),
        (year_words(2021), "twenty twenty-one"), (year_words(1900), "nineteen hundred"),
    ],
)  # fmt: skip
def test_numbers_are_spoken_as_people_do(shown: str, expected: str) -> None:
    assert shown == expected


def test_in_numbers_the_day_stands_before_the_month() -> None:
    day = date(1982, 5, 8)
    shown = {form(day) for form in FORMS}
    assert {"8/5/1982", "08.05.1982"} <= shown
    assert not {"5/8/1982", "05.08.1982"} & shown


def test_years_in_words_never_coincide() -> None:
    assert len({year_words(year) for year in range(1900, 2100)}) == 200


def test_entities_stand_in_the_text_in_the_order_of_the_lists() -> None:
    for row in take(get_generator("entities"), "train", 500):
        found = json.loads(row["entities"])
        assert list(found) == ["person", "organization", "place"]
        assert any(found.values())
        for names in found.values():
            places = [row["text"].index(name) for name in names]
            assert places == sorted(places)
            assert len(set(names)) == len(names)


def test_topics_are_balanced_and_are_the_labels_of_the_catalogue() -> None:
    counts = Counter(row["topic"] for row in take(get_generator("topics"), "train", 4000))
    assert set(counts) == set(TOPICS) == set(get_task("topics").labels)
    assert all(350 < count < 650 for count in counts.values())


def test_messages_are_filled_and_begin_with_a_capital() -> None:
    for row in take(get_generator("topics"), "train", 1000):
        assert not set("{}") & set(row["message"])
        assert row["message"][0] == row["message"][0].upper()


@given(st.text(), st.sampled_from([str.upper, str.lower, lambda text: f"  {text}\n", str.title]))
def test_the_normal_form_ignores_case_and_outer_space(
    text: str, change: Callable[[str], str]
) -> None:
    ascii_text = text.encode("ascii", "ignore").decode()
    assert normalised(change(ascii_text)) == normalised(ascii_text)
    assert normalised(f" {text}\t") == normalised(text)


@pytest.mark.parametrize(
    ("left", "right"),
    [("Straße  X", "STRASSE x"), ("\uff21bc", "abc"), ("a\u00a0b", "a b"), ("\ufb01ne", "FINE")],
)
def test_texts_that_read_the_same_have_one_hash(left: str, right: str) -> None:
    assert normalised_hash(left) == normalised_hash(right)
    assert normalised_hash(left) != normalised_hash(right + "!")


def shares(name: str, split: SplitName, count: int) -> dict[str, float]:
    groups = Counter(str(row["group"]) for row in take(get_generator(name), split, count))
    return {group: number / count for group, number in groups.items()}


def test_the_place_gives_nineteen_of_twenty_train_labels_away_and_no_test_label() -> None:
    usual = {"land bird by the wood", "water bird by the lake"}
    train, test = (shares("planted_shortcut", split, 4000) for split in ("train", "test"))
    assert len(train) == len(test) == 4
    assert sum(train[group] for group in usual) == pytest.approx(0.95, abs=0.015)
    assert min(test.values()) > 0.21 and max(test.values()) < 0.29


def test_the_rare_form_is_under_two_percent_of_its_label_in_training_and_as_frequent_in_test() -> (
    None
):
    train, test = (shares("planted_rare", split, 6000) for split in ("train", "test"))
    urgent = ("alarm", "halted", "hurt", "polite")
    assert 0.006 < train["polite"] / sum(train[form] for form in urgent) < 0.02
    assert test["polite"] / sum(test[form] for form in urgent) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("name", ["planted_shortcut", "planted_rare"])
def test_the_true_subclass_is_in_no_prompt_and_changes_no_fingerprint(name: str) -> None:
    task = get_task(name)
    assert task.hidden == ("group",) and "group" not in task.prompt
    rows = load_split(task, "train", limit=50).rows
    others = [dict(row) | {"group": "another"} for row in rows]
    assert [task.render(row) for row in rows] == [task.render(row) for row in others]
    assert fingerprint(task, rows) == fingerprint(task, others)
