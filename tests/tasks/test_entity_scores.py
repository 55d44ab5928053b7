"""Entities listed by kind, and put back into their sentence from BIO tags."""

from __future__ import annotations

import json

import pytest
from seqeval.metrics import f1_score

from loraland.tasks.catalogue import get_task
from loraland.tasks.converters import BC5CDR_TAGS, CONVERTERS
from loraland.tasks.grading import Grade, Judged, grader_for, over_all
from loraland.tasks.task import Item

SENTENCE = "valproic acid and lithium caused acute liver failure and acute pain"
GOLD = str(
    {
        "B-Chemical": ["valproic", "lithium"],
        "B-Disease": ["acute", "acute"],
        "I-Disease": ["liver", "failure", "pain"],
        "I-Chemical": ["acid"],
    }
)  # four entities


def tagged(output: str, target: str = GOLD, sentence: str = SENTENCE) -> Grade:
    item = Item("prompt:", target, {"tokens_concatenated": sentence})
    return grader_for(get_task("bc5cdr")).grade(output, item)


def test_the_gold_tags_find_every_entity() -> None:
    assert tagged(GOLD).secondary == {"entity_f1": 1.0, "entities_readable": 1.0}


@pytest.mark.parametrize(
    ("change", "score"),
    [
        (("'valproic', 'lithium'", "'valproic'"), 2 * 3 / (3 + 4)),  # one missing
        (("'I-Chemical': ['acid']", "'I-Chemical': []"), 2 * 3 / (4 + 4)),  # cut short
        (("'failure', ", ""), 2 * 3 / (4 + 4)),
        (("'acid'", "'salt'"), 2 * 3 / (5 + 4)),  # cut short, and one that is not in the sentence
        (("'valproic', 'lithium'", "'lithium', 'valproic'"), 2 * 3 / (5 + 4)),  # wrong order
    ],
)
def test_entities_count_whole_and_in_their_place(change: tuple[str, str], score: float) -> None:
    changed = GOLD.replace(*change)
    assert changed != GOLD
    assert tagged(changed).secondary["entity_f1"] == pytest.approx(score)


def test_a_kind_of_its_own_is_another_entity() -> None:
    swapped = GOLD.replace("Chemical", "x").replace("Disease", "Chemical").replace("x", "Disease")
    assert tagged(swapped).secondary["entity_f1"] == 0.0


def test_json_in_place_of_python_is_read_too() -> None:
    as_json = GOLD.replace("'", '"')
    assert json.loads(as_json)
    assert tagged(as_json).secondary["entity_f1"] == 1.0
    assert tagged(as_json).score == 1.0  # rouge looks at words


def test_nothing_to_find_and_nothing_found_is_right() -> None:
    empty = "{'B-Chemical': [], 'B-Disease': [], 'I-Disease': [], 'I-Chemical': []}"
    assert tagged(empty, empty).secondary["entity_f1"] == 1.0
    assert tagged(GOLD, empty).secondary["entity_f1"] == 0.0


@pytest.mark.parametrize(
    "output",
    ["", "acute pain", "{'B-Disease': 'acute'}", "{'B-Disease': [1]}", "{1: ['acute']}",
     "['acute']", "{'B-Disease': ['acute']", "__import__('os').getcwd()", "{" * 5000,
     "{'B-Disease': ['a' * 3]}", "{'B-Disease': ['" + "x" * 30_000 + "']}"],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_what_is_no_dict_of_lists_scores_nothing_and_is_counted(output: str) -> None:
    assert tagged(output).secondary == {"entity_f1": 0.0, "entities_readable": 0.0}


def test_conll_names_are_compared_by_kind() -> None:
    gold = '{"person": ["Ana Li"], "organization": ["Orbit"], "location": [], "miscellaneous": []}'
    grader, item = grader_for(get_task("conllpp")), Item("p:", gold, {"input": "Ana Li at Orbit"})
    assert grader.grade(gold, item).secondary["entity_f1"] == 1.0
    half = '{"person": ["Ana  Li"], "location": ["Orbit"]}'
    assert grader.grade(half, item).secondary["entity_f1"] == 0.5


# Sentences as the data set has them: words and tag numbers.
SENTENCES = [
    (["Acute", "pain", "after", "valproic", "acid"], [2, 3, 0, 1, 4]),
    (["no", "names", "here"], [0, 0, 0]),
    (["lithium", "lithium", "salt", "pain"], [1, 1, 4, 2]),
]
SAID = [
    (["Acute", "pain", "after", "valproic", "acid"], [2, 3, 0, 1, 0]),  # one whole, one cut short
    (["no", "names", "here"], [0, 2, 0]),  # one invented
    (["lithium", "lithium", "salt", "pain"], [1, 1, 4, 0]),  # one missing
]


def test_the_score_over_all_sentences_is_seqeval_s() -> None:
    convert, task = CONVERTERS["bc5cdr"], get_task("bc5cdr")
    answers = []
    for (words, gold), (_, said) in zip(SENTENCES, SAID, strict=True):
        row = convert({"tokens": words, "tags": gold})
        other = convert({"tokens": words, "tags": said})
        assert row is not None and other is not None
        answers.append(Judged(task.item(row), other["collected_tags"], Grade("", 0.0)))
    names = [[[BC5CDR_TAGS[tag] for tag in tags] for _, tags in part] for part in (SENTENCES, SAID)]
    found = over_all(task, answers)["entity_micro_f1"]
    assert found == pytest.approx(f1_score(*names))
    assert found == pytest.approx(2 * 3 / (5 + 5))


def test_a_missing_answer_misses_its_entities() -> None:
    item = Item("p:", GOLD, {"tokens_concatenated": SENTENCE})
    both = [Judged(item, GOLD, Grade("", 1.0)), Judged(item, None, Grade(None, 0.0))]
    assert over_all(get_task("bc5cdr"), both)["entity_micro_f1"] == pytest.approx(2 * 4 / (4 + 8))
