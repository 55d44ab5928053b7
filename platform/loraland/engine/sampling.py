"""Chooses the next token of one row from its logits.

Every row has a generator of its own, so that a seeded answer is the same whoever shares the batch.
"""

from __future__ import annotations

import math

import torch

from loraland.engine.protocol import Sampling
from loraland.errors import EngineFailed, InvalidRequest


def check(sampling: Sampling) -> None:
    """Raises InvalidRequest that lists every field out of its range."""
    wrong = [
        f"{field} is {getattr(sampling, field)}, it must be {rule}"
        for field, (holds, rule) in {
            "max_new_tokens": (sampling.max_new_tokens >= 1, "at least 1"),
            "temperature": (0 <= sampling.temperature < math.inf, "0 (greedy) or more"),
            "top_p": (0 < sampling.top_p <= 1, "above 0 and at most 1"),
            "top_k": (sampling.top_k >= 0, "0 (off) or more"),
            "seed": (-(2**63) <= (sampling.seed or 0) < 2**63, "a signed 64-bit integer"),
        }.items()
        if not holds
    ]
    if wrong:
        raise InvalidRequest("; ".join(wrong))


class Chooser:
    """The choices of one request, token after token."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """The next token id for `logits` of shape (vocabulary,).

        Raises EngineFailed when the logits hold NaN or infinity.
        """
        logits = logits.detach().float().cpu()
        if not bool(torch.isfinite(logits).all()):
            raise EngineFailed(
                "the model computed logits that are not finite; the adapter or the base is "
                "damaged, or its numbers overflow at this precision"
            )
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        probabilities = probabilities_of(logits, self._sampling)
        return int(torch.multinomial(probabilities, 1, generator=self._generator))


def probabilities_of(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What is drawn from, shape (vocabulary,): temperature, then top-k, then top-p, renormalised.

    The most likely token is always kept, so the sum is 1. Needs temperature > 0.
    """
    # Subtracting the maximum first keeps a tiny temperature from overflowing to infinity.
    scaled = (logits - logits.max()) / sampling.temperature
    if 0 < sampling.top_k < scaled.numel():
        kept = scaled.topk(sampling.top_k).indices
        scaled = torch.full_like(scaled, -math.inf).scatter(0, kept, scaled[kept])
    probabilities = scaled.softmax(0)
    if sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True)
        before = ordered.cumsum(0) - ordered  # the mass of all likelier tokens
        ordered[1:][before[1:] >= sampling.top_p] = 0
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
        probabilities /= probabilities.sum()
    return probabilities
