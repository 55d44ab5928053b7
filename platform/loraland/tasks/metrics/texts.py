"""Answers in words: equality, ROUGE-L, overlap of words, sets of topics, one day of the calendar.

Pure text; ROUGE-L is the library rouge-score's.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import date
from functools import cache
from typing import Any

from loraland.tasks.metrics.grade import UNREADABLE, Grade
from loraland.tasks.task import Item
from loraland.tasks.text import normalised

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_WORD = re.compile(r"[^\w\s.]|\.(?!\d)")  # punctuation, but the point of a decimal number


class ExactGrader:
    """The trimmed output equals the gold answer, letter by letter."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when equal; an empty output is unreadable."""
        said = output.strip()
        return Grade(said, float(said == item.target)) if said else UNREADABLE


class RougeGrader:
    """ROUGE-L F-measure (Lin 2004) on lower-case letters and digits, without stemming."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score in [0, 1]; an empty output is unreadable."""
        said = output.strip()
        if not said:
            return UNREADABLE
        if said == item.target:
            return Grade(said, 1.0)  # also where a text has no letter or digit to count
        score = _rouge_l().score(item.target, said)["rougeL"].fmeasure
        return Grade(said, min(1.0, float(score)))


@cache
def _rouge_l() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # imports nltk: only when needed

    return RougeScorer(["rougeL"])


def exact_match(output: str, item: Item) -> float:
    """1 when output and gold answer are the same up to case, width and runs of white space."""
    return float(normalised(output) == normalised(item.target))


def word_f1(output: str, item: Item) -> float:
    """F1 over words without articles and punctuation (Rajpurkar et al. 2016, SQuAD).

    A number in the gold answer must be met, as in DROP (Dua et al. 2019): otherwise 0.
    """
    said, gold = _words(output), _words(item.target)
    numbers = {word for word in gold if _is_number(word)}
    if numbers and not numbers & set(said):
        return 0.0
    return f1(said, gold)


def _words(text: str) -> Counter[str]:
    plain = _NO_WORD.sub(" ", normalised(text).replace(",", ""))
    return Counter(_ARTICLES.sub(" ", plain).split())


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\d+(?:\.\d+)?", word, re.ASCII) is not None


def topic_f1(output: str, item: Item) -> float:
    """F1 over the set of texts between commas, up to case."""
    return f1(_topics(output), _topics(item.target))


def _topics(text: str) -> Counter[str]:
    return Counter(set(filter(None, (normalised(part) for part in text.split(",")))))


def f1(said: Counter[Any], gold: Counter[Any]) -> float:
    """2 x common / (said + gold), counting repeats; 1 when both are empty."""
    total = said.total() + gold.total()
    return 2 * (said & gold).total() / total if total else 1.0


class IsoDateGrader:
    """The whole output is one day of the calendar as YYYY-MM-DD."""

    def grade(self, output: str, item: Item) -> Grade:
        """Score 1 when it is the gold day; unreadable when it is no day, or written otherwise."""
        said = output.strip()
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", said, re.ASCII) is None:
            return UNREADABLE
        try:
            day = date.fromisoformat(said).isoformat()
        except ValueError:  # such as a 30th of February
            return UNREADABLE
        return Grade(day, float(day == item.target))
