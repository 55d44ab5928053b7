"""How an item is put to a model, and what becomes of its answer.

Greedily, and alike for bases and adapters. An answer that cannot come is a failed sample; nothing
is graded here but by `answer`, which asks one model plainly. Whole columns are `generation`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from loraland.engine.protocol import Engine, Request, Sampling
from loraland.engine.text import Completion, complete_all, encode
from loraland.errors import ContextTooLong, InvalidRequest, LoraLandError
from loraland.evaluation.exam import Model
from loraland.evaluation.samples import Sample
from loraland.evaluation.scoring import grade
from loraland.tasks.task import Item, Task

OF_THE_ITEM = (ContextTooLong, InvalidRequest)  # errors that would come again for the same item

# Many bases begin with a line break; taking that for the end of their answer would flatter the
# adapter.
TRIM = True


def request_of(
    request_id: str,
    item: Item,
    model: Model,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: frozenset[int],
) -> Request:
    """An item as an engine is asked it; `model` is a version loaded there, or None."""
    sampling = Sampling(max_new_tokens=task.max_new_tokens, stop_token_ids=stop_token_ids)
    return Request(request_id, encode(tokenizer, item.prompt), model, sampling)


def sample_of(index: int, item: Item, given: Completion | LoraLandError) -> Sample:
    """An answer, or why there is none, as an ungraded sample.

    Raises the error itself when it says nothing about this item: an engine that failed.
    """
    unanswered = Sample.unanswered(index, item)
    if isinstance(given, OF_THE_ITEM):
        return replace(unanswered, failure=f"{given.code}: {given.message}")
    if isinstance(given, LoraLandError):
        raise given
    return replace(
        unanswered,
        output=given.text.strip(),
        finish_reason=given.finish_reason,
        prompt_tokens=given.prompt_tokens,
        tokens=given.generated_tokens,
        ms=round(given.total_ms, 1),
    )


async def answer(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: frozenset[int],
    task: Task,
    items: Sequence[Item],
    model: Model,
    on_done: Callable[[], None] | None = None,
) -> list[Sample]:
    """The graded answers of one model, in the order of the items; keeps nothing.

    The plain way: the oracle of `generation` in tests. An engine that fails raises, because its
    trouble says nothing about the model.
    """
    requests = [
        request_of(f"{model or 'base'}#{index}", item, model, task, tokenizer, stop_token_ids)
        for index, item in enumerate(items)
    ]
    tell = None if on_done is None else lambda _: on_done()
    answers = await complete_all(engine, tokenizer, requests, task.stop, trim=TRIM, on_done=tell)
    asked = zip(items, answers, strict=True)
    return grade(task, [sample_of(index, *pair) for index, pair in enumerate(asked)])
