"""Features of a language model's classification: what it knows where it is about to answer.

Of each prompt the last hidden state after the final norm at its last token, and the logits of the
labels' first tokens. The adapter's rows and the frozen base's share forward passes; nothing is
dropped. Knows a base and an adapter; knows nothing of tasks in storage or of strata.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from loraland.bases.loading import LoadedBase
from loraland.lora.bank import LoraBank
from loraland.lora.rows import BASE, Rows
from loraland.lora.weights import AdapterWeights
from loraland.strata.features import Features, Floats, Whole

ROWS = 32  # prompts of one pass
PADDED_TOKENS = 4096  # of one pass, at most, unless one prompt alone is longer
_ADAPTER = 1  # its slot


class Prompt(NamedTuple):
    """One question, tokenised, with the number of its right answer."""

    key: str  # unique within its split
    ids: tuple[int, ...]  # up to the token that tells the label
    label: int  # 0..B-1
    subclass: int | None = None  # the true one, where it is known; for reports alone


class Read(NamedTuple):
    """What a pass leaves of one prompt."""

    hidden: Tensor  # (d,) float32
    logits: Tensor  # (B,) float32


class Extracted(NamedTuple):
    """Features of the same prompts by the adapter, and by the base that it stands on."""

    adapter: Features
    base: Features | None


def extract(
    base: LoadedBase,
    adapter: AdapterWeights,
    tokens: Sequence[int],
    prompts: Sequence[Prompt],
    split: str,
    *,
    with_base: bool = True,
) -> Extracted:
    """Features of a split. `tokens` are the labels' first tokens.

    Without gradients and in evaluation mode; the base is left without a bank. Raises
    AdapterRejected when the adapter does not fit, DataRefused when values are not finite.
    """
    base.model.eval()
    bank = LoraBank(base.model, slots=_ADAPTER, max_rank=max(1, adapter.rank))
    slots = (_ADAPTER, BASE) if with_base else (_ADAPTER,)
    found: dict[int, list[Read | None]] = {slot: [None] * len(prompts) for slot in slots}
    try:
        bank.write(_ADAPTER, adapter)
        for places in passes([len(prompt.ids) for prompt in prompts], len(slots)):
            rows = [(slot, place) for slot in slots for place in places]
            reads = _read(base, bank, tokens, [(slot, prompts[place].ids) for slot, place in rows])
            for (slot, place), read in zip(rows, reads, strict=True):
                found[slot][place] = read
    finally:
        bank.detach()
    head = _head(base, tokens)
    made = [_features(split, prompts, found[slot], head) for slot in slots]
    return Extracted(made[0], made[1] if with_base else None)


def passes(lengths: Sequence[int], times: int) -> Iterator[list[int]]:
    """Places by length, as many as one pass takes; every place comes `times` in its pass."""
    group: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        padded = (len(group) + 1) * times * lengths[place]  # ascending: this one is the longest
        if group and ((len(group) + 1) * times > ROWS or padded > PADDED_TOKENS):
            yield group
            group = []
        group.append(place)
    if group:
        yield group


@torch.no_grad()
def _read(
    base: LoadedBase,
    bank: LoraBank,
    tokens: Sequence[int],
    rows: Sequence[tuple[int, Sequence[int]]],
) -> list[Read]:
    """One pass over rows of (slot, ids), padded at the end."""
    width = max(len(ids) for _, ids in rows)
    ids = torch.full((len(rows), width), int(base.tokenizer.pad_token_id), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (_, its) in enumerate(rows):
        ids[row, : len(its)] = torch.tensor(its)
        mask[row, : len(its)] = 1
    bank.bind(
        Rows.of([slot for slot, _ in rows for _ in range(width)], base.device),
        head=Rows.of([slot for slot, _ in rows], base.device),
    )
    hidden = base.model.get_decoder()(
        input_ids=ids.to(base.device), attention_mask=mask.to(base.device), use_cache=False
    ).last_hidden_state  # (rows, width, d), after the final norm
    last = torch.tensor([len(its) - 1 for _, its in rows], device=base.device)
    states = hidden[torch.arange(len(rows), device=base.device), last]  # (rows, d)
    logits = base.model.get_output_embeddings()(states)[:, list(tokens)]
    pairs = zip(states.float().cpu(), logits.float().cpu(), strict=True)
    return [Read(state, each) for state, each in pairs]


def _head(base: LoadedBase, tokens: Sequence[int]) -> Floats:
    """The unembedding's rows of the labels, (B, d): the base's own, as no adapter changes them."""
    weight = base.model.get_output_embeddings().weight
    return np.asarray(weight[list(tokens)].detach().float().cpu().numpy(), dtype=np.float32)


def _features(
    split: str, prompts: Sequence[Prompt], reads: Sequence[Read | None], head: Floats
) -> Features:
    there = [read for read in reads if read is not None]
    labels = torch.tensor([prompt.label for prompt in prompts], dtype=torch.long)
    logits = torch.stack([read.logits for read in there])
    subclasses = [prompt.subclass for prompt in prompts if prompt.subclass is not None]
    return Features(
        split=split,
        ids=tuple(prompt.key for prompt in prompts),
        values=torch.stack([read.hidden for read in there]).numpy(),
        logits=logits.numpy(),
        losses=functional.cross_entropy(logits, labels, reduction="none").numpy(),
        superclasses=labels.numpy(),
        subclasses=_whole(subclasses) if len(subclasses) == len(prompts) else None,
        head=head,
    )


def _whole(numbers: Sequence[int]) -> Whole:
    return np.asarray(numbers, dtype=np.int64)
