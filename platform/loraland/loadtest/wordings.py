"""Prompts and lengths from a task's held-out items: real texts, answers as long as the gold ones.

Reads data and, for lengths in tokens, a base's tokenizer. Knows no server.
"""

from __future__ import annotations

from loraland.bases.catalogue import get_base
from loraland.errors import BaseUnavailable, UnknownBase
from loraland.loadtest.schedule import Wording, Wordings, drawn_from
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split

MOST_ITEMS = 1000
ANY_VOCABULARY = 256  # ids that every vocabulary has


def vocabulary_of(base: str) -> int:
    """The size of a base's vocabulary, or one that every base has where that is not known."""
    try:
        shape = get_base(base).shape
    except UnknownBase:
        return ANY_VOCABULARY
    return ANY_VOCABULARY if shape is None else shape.vocabulary


def task_wordings(task: str, base: str, new_tokens: int | None) -> Wordings:
    """Prompts of a task's first held-out items; answers of at most `new_tokens`.

    By default each answer may be as long as the item's target and its end, in the base's tokens.
    Raises UnknownTask, SourceUnavailable, BaseUnavailable.
    """
    items = load_split(get_task(task), "test", limit=MOST_ITEMS).items()
    if new_tokens is not None:
        return drawn_from([Wording(item.prompt, new_tokens) for item in items])
    try:
        from loraland.bases.loading import load_tokenizer

        tokenizer = load_tokenizer(get_base(base))
    except (UnknownBase, BaseUnavailable) as error:
        raise BaseUnavailable(
            f"the answers of '{task}' cannot be counted in tokens of '{base}', whose tokenizer is "
            f"not here ({error.message}); give their length with --new-tokens"
        ) from error
    texts = [f" {item.target}" for item in items]
    counts = [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]]
    pairs = zip(items, counts, strict=True)
    return drawn_from([Wording(item.prompt, count + 1) for item, count in pairs])
