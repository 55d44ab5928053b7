"""Puts the items of a task to models through an engine, greedily, and grades what comes back.

Base and adapters get the same prompts, in the same batches. Answers that do not come count as
wrong.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from loraland.engine.protocol import Engine, Request, Sampling
from loraland.engine.text import Completion, complete_all, encode
from loraland.errors import ContextTooLong, InvalidRequest, LoraLandError
from loraland.evaluation.samples import Sample
from loraland.evaluation.scoring import grade
from loraland.tasks.task import Item, Task

OF_THE_ITEM = (ContextTooLong, InvalidRequest)  # errors that would come again for the same item

Model = str | None  # a version loaded into the engine, or None for the base


async def answer(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    stop_token_ids: frozenset[int],
    task: Task,
    items: Sequence[Item],
    model: Model,
    on_done: Callable[[], None] | None = None,
) -> list[Sample]:
    """The graded answers of a model, in the order of the items.

    An item that cannot be put to the model (too long for its context) is a failed sample. An engine
    that fails raises, because its trouble says nothing about the model.
    """
    sampling = Sampling(max_new_tokens=task.max_new_tokens, stop_token_ids=stop_token_ids)
    requests = [
        Request(f"{model or 'base'}#{index}", encode(tokenizer, item.prompt), model, sampling)
        for index, item in enumerate(items)
    ]
    tell = None if on_done is None else lambda _: on_done()
    # Many bases begin with a line break; taking that for the end of their answer would flatter the
    # adapter.
    answers = await complete_all(engine, tokenizer, requests, task.stop, trim=True, on_done=tell)
    for given in answers:
        if isinstance(given, LoraLandError) and not isinstance(given, OF_THE_ITEM):
            raise given
    asked = zip(items, answers, strict=True)
    return grade(task, [_sample(index, *pair) for index, pair in enumerate(asked)])


def _sample(index: int, item: Item, given: Completion | LoraLandError) -> Sample:
    row = json.dumps(dict(item.row), sort_keys=True, ensure_ascii=False, default=str)
    unanswered = Sample(
        item=index,
        prompt=item.prompt,
        target=item.target,
        row=row,
        output="",
        parsed=None,
        score=0.0,
        failure=None,
        finish_reason="failed",
        prompt_tokens=0,
        tokens=0,
        ms=0.0,
    )
    if isinstance(given, LoraLandError):
        return replace(unanswered, failure=f"{given.code}: {given.message}")
    return replace(
        unanswered,
        output=given.text.strip(),
        finish_reason=given.finish_reason,
        prompt_tokens=given.prompt_tokens,
        tokens=given.generated_tokens,
        ms=round(given.total_ms, 1),
    )
