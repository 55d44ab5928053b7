"""Names in a text: F1 over entities, whether they are listed by kind or by BIO tag.

Three forms of an answer: JSON of lists by kind; a Python dict of lists by kind; a Python dict of
the words of each B- and I- tag. The words of the latter are put back in their places in the
sentence, and seqeval reads entities from the tags, as is usual for that data.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loraland.tasks.metrics.grade import UNREADABLE, Grade, Judged
from loraland.tasks.metrics.texts import f1
from loraland.tasks.task import Item

MOST_CHARACTERS = 20_000  # of a Python dict; gold ones have hundreds

Entities = Counter[tuple[Any, ...]]  # (kind, name), or (kind, first word, last word)
Lists = dict[str, list[str]]


class EntitiesGrader:
    """Micro F1 over (kind, name) pairs of a JSON object of lists; both empty counts as 1."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score in [0, 1]; unreadable when the output is not a JSON object of lists of texts."""
        said, gold = _from_json(output), _from_json(item.target)
        if said is None or gold is None:
            return UNREADABLE
        found = _named(said)
        # ASCII, so that a lone surrogate behind an escape cannot break a file it is written to
        return Grade(json.dumps(sorted(found.elements())), f1(found, _named(gold)))


@dataclass(frozen=True, slots=True)
class EntityScores:
    """Entity scores beside another headline; `sentence` names the column with the text."""

    sentence: str

    def of_item(self, output: str, item: Item) -> float:
        """F1 over the entities of one answer; 0 when it is unreadable."""
        said, gold = self._entities(output, item), self._entities(item.target, item)
        return f1(said, gold) if said is not None and gold is not None else 0.0

    def readable(self, output: str, item: Item) -> float:
        """1 when entities can be read from the answer, right or wrong."""
        return float(self._entities(output, item) is not None)

    def micro_f1(self, answers: Sequence[Judged]) -> float | None:
        """F1 over the entities of all answers together: the usual score of such data."""
        common = total = 0
        for item, output, _ in answers:
            gold = self._entities(item.target, item) or Counter()
            said = (self._entities(output, item) if output else None) or Counter()
            common += (said & gold).total()
            total += said.total() + gold.total()
        return 2 * common / total if total else None

    def _entities(self, text: str, item: Item) -> Entities | None:
        lists = _from_json(text) or _from_python(text)
        if lists is None:
            return None
        if all(kind[:2] in ("B-", "I-") for kind in lists):
            return _tagged(lists, str(item.row.get(self.sentence, "")).split())
        return _named(lists)


def _named(lists: Lists) -> Entities:
    return Counter(
        (kind, " ".join(name.split())) for kind, names in lists.items() for name in names
    )


def _tagged(lists: Lists, words: Sequence[str]) -> Entities:
    """Entities as (kind, first word, last word), by place in the sentence.

    Words that are not in the sentence, or not in this order, stand behind it, one by one: they are
    entities that nobody else has.
    """
    from seqeval.metrics.sequence_labeling import get_entities  # imports scikit-learn

    waiting = {tag: list(reversed(found)) for tag, found in lists.items()}
    tags = list(_placed(words, waiting))
    for tag, left in waiting.items():
        for word in left:
            tags += ["O", f"B-{tag[2:]} {word}"]
    return Counter(tuple(entity) for entity in get_entities(tags))


def _placed(words: Sequence[str], waiting: dict[str, list[str]]) -> Iterator[str]:
    """The tag of each word of the sentence: the lists are used up from their ends.

    A word goes on with the name before it if it can, else it begins one, else it is outside.
    """
    before = "O"
    for word in words:
        fitting = [tag for tag, left in waiting.items() if left and left[-1] == word]
        going_on = [tag for tag in fitting if tag == f"I-{before[2:]}"]
        beginning = [tag for tag in fitting if tag.startswith("B-")]
        before = next(iter(going_on + beginning), "O")
        if before != "O":
            waiting[before].pop()
        yield before


def _from_json(text: str) -> Lists | None:
    try:
        return _lists(json.loads(text, object_pairs_hook=_without_repeats))
    except (ValueError, RecursionError):
        return None


def _from_python(text: str) -> Lists | None:
    if len(text) > MOST_CHARACTERS:
        return None
    try:
        return _lists(ast.literal_eval(text.strip()))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _lists(found: Any) -> Lists | None:
    if not isinstance(found, dict):
        return None
    for kind, names in found.items():
        if not isinstance(kind, str) or not isinstance(names, list):
            return None
        if not all(isinstance(name, str) for name in names):
            return None
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in a JSON object")
    return found
