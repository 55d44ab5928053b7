"""Items as token ids: prompt, a space, the answer, the end token. The prompt is not supervised.

The prompt's tokens are those that a server will see when it gets the prompt alone, so that training
and serving agree on the boundary. Knows tokenizers; knows no models and no batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from loraland.tasks.task import Item

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Example(NamedTuple):
    """One item, tokenised."""

    ids: tuple[int, ...]  # prompt, answer, end token
    prompt_tokens: int  # ids[prompt_tokens:] are supervised
    group: int | tuple[float, ...] | None = None  # or the shares of all groups; for group DRO

    @property
    def supervised(self) -> tuple[int, ...]:
        """The ids that the loss is computed on, the end token last."""
        return self.ids[self.prompt_tokens :]


class Misfit(NamedTuple):
    """Why an item cannot become an example."""

    reason: str


def encode(item: Item, tokenizer: PreTrainedTokenizerBase) -> Example | Misfit:
    """Tokenise an item; a Misfit when prompt and answer do not survive the tokenizer."""
    if not item.target:
        return Misfit("the answer is empty")
    prompt = tuple(tokenizer(item.prompt).input_ids)
    if not prompt:
        return Misfit("the prompt is empty")
    whole = tuple(tokenizer(f"{item.prompt} {item.target}").input_ids)
    if tokenizer.eos_token_id is not None and whole[-1] == tokenizer.eos_token_id:
        whole = whole[:-1]  # some tokenizers append it themselves
        prompt = prompt[:-1] if prompt[-1] == tokenizer.eos_token_id else prompt
    if whole[: len(prompt)] != prompt:
        return Misfit("the tokens of prompt + answer do not begin with the tokens of the prompt")
    answer = tokenizer.decode(whole[len(prompt) :], skip_special_tokens=False)
    if answer.strip() != item.target:
        return Misfit(f"the answer comes back from the tokenizer as {answer.strip()[:80]!r}")
    return Example((*whole, tokenizer.eos_token_id), len(prompt))
