"""Makes an order of what was asked in the words of OpenAI: defaults are filled in here."""

from __future__ import annotations

from collections.abc import Sequence

from loraland.adapters.names import ModelName
from loraland.serving.openai_api import Wishes
from loraland.serving.orders import Order, Prompt, Tool


def order_of(
    asked: Wishes,
    order_id: str,
    model: ModelName,
    prompts: tuple[Prompt, ...],
    *,
    most_new_tokens: int,
    max_new_tokens: int | None,
    n: int = 1,
    logprobs: int | None = None,
    tools: Sequence[Tool] = (),
    whole: bool = False,
) -> Order:
    """The order that answers `prompts`; see `Order` for its fields."""
    return Order(
        id=order_id,
        model=model,
        prompts=prompts,
        n=n,
        max_new_tokens=max_new_tokens,
        most_new_tokens=most_new_tokens,
        temperature=1.0 if asked.temperature is None else asked.temperature,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        top_k=asked.top_k or 0,
        seed=asked.seed,
        stop=asked.stops,
        min_p=asked.min_p or 0.0,
        repetition_penalty=asked.repetition_penalty or 1.0,
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        logprobs=logprobs,
        grammar=asked.grammar,
        tools=tuple(tools),
        ignore_eos=asked.ignore_eos or False,
        whole=whole,
    )
