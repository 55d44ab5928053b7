"""Proof that an adapter does something: its first logits on a canary prompt, and the base's.

They go onto the card, where whoever loads the adapter later can hold them against what he gets. An
adapter without effect would be scored, and served, as the base under another name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from loraland.adapters.card import Canary
from loraland.bases.loading import LoadedBase
from loraland.errors import NoEffect

KEPT_LOGITS = (
    16  # the largest of the adapter's; enough to tell adapters apart, few enough for a card
)
LEAST_DIFFERENCE = 1e-3  # of any logit; equal models differ by exactly nothing on one device


def measure_canary(base: LoadedBase, folder: Path, prompt_ids: Sequence[int]) -> Canary:
    """The logits after `prompt_ids` with and without the adapter in `folder`. Raises NoEffect."""
    before = _next_logits(base, prompt_ids)
    model = PeftModel.from_pretrained(base.model, folder)
    try:
        model.eval()
        after = _next_logits(base, prompt_ids)
    finally:
        model.unload()
        base.model.eval().requires_grad_(False)
    difference = float((after - before).abs().max())
    if difference < LEAST_DIFFERENCE:
        raise NoEffect(
            f"the adapter in {folder.name} changes no logit of the canary prompt by more than "
            f"{difference:.1e}; it was not trained, or its weights were not read; raise "
            "learning_rate or the number of updates"
        )
    top = after.topk(min(KEPT_LOGITS, after.numel())).indices
    return Canary(
        prompt_ids=list(prompt_ids),
        top_ids=top.tolist(),
        logits=after[top].tolist(),
        base_logits=before[top].tolist(),
        max_difference=difference,
    )


@torch.no_grad()
def _next_logits(base: LoadedBase, prompt_ids: Sequence[int]) -> Tensor:
    """The logits of the token after the prompt: (vocabulary,), fp32, on the CPU."""
    ids = torch.tensor([list(prompt_ids)], device=base.device)
    logits: Tensor = base.model(input_ids=ids, use_cache=False).logits
    return logits[0, -1].float().cpu()
