"""Makes samples of what an endpoint answered, alike to those of bases and adapters.

Decides which troubles are failures of an item and count as wrong answers. Asks nothing and writes
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from loraland.engine.text import StopFilter
from loraland.errors import LoraLandError
from loraland.evaluation.endpoint import Endpoint
from loraland.evaluation.endpoint_answers import Answer
from loraland.evaluation.endpoint_replies import Trouble
from loraland.evaluation.samples import Sample
from loraland.tasks.task import Item, Task


def failures_of_items(
    troubles: Mapping[str, Trouble], *, any_answer: bool
) -> dict[str, LoraLandError]:
    """Those that belong to their items and count as wrong answers.

    A request that was called wrong without a reason we know is one of them only where a request of
    the same form was answered: then it was its prompt.
    """
    verdicts = ("item", "doubt") if any_answer else ("item",)
    return {key: one.error for key, one in troubles.items() if one.verdict in verdicts}


def sample_of(index: int, item: Item, given: Answer | LoraLandError, task: Task) -> Sample:
    """An answer, or why there is none, as an ungraded sample, cut as everybody's are."""
    sample = Sample.unanswered(index, item)
    if isinstance(given, LoraLandError):
        return replace(sample, failure=f"{given.code}: {given.message}")
    sample = replace(
        sample, prompt_tokens=given.input_tokens or 0, tokens=given.output_tokens or 0, ms=given.ms
    )
    if given.refusal is not None:
        return replace(sample, failure=f"refused: {given.refusal}")
    cutter = StopFilter(task.stop, trim=True)
    text = (cutter.push(given.text) + cutter.flush()).strip()
    finish = "stop" if cutter.stopped else given.finish_reason
    return replace(sample, output=text, finish_reason=finish)


def provenance(endpoint: Endpoint, answers: Iterable[Answer]) -> dict[str, Any]:
    """Who answered, when, and for how much."""
    kept = list(answers)
    received = sorted(one.received for one in kept)
    created = sorted(one.created for one in kept if one.created is not None)
    return {
        **endpoint.identity,
        "models": dict(Counter(one.model or "not told" for one in kept)),
        "system_fingerprints": dict(
            Counter(one.system_fingerprint for one in kept if one.system_fingerprint)
        ),
        "received": [received[0], received[-1]] if received else None,
        "created": [created[0], created[-1]] if created else None,
        "input_tokens": sum(one.input_tokens or 0 for one in kept),
        "output_tokens": sum(one.output_tokens or 0 for one in kept),
        "without_usage": sum(one.usage is None for one in kept),
        "usd": None
        if endpoint.max_usd is None
        else float(sum(one.usd for one in kept if one.usd is not None)),
    }
