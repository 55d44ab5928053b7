"""From the logits of one row to the token that is drawn: penalties, filters, the draw itself.

Pure functions of CPU tensors of shape (vocabulary,), float32. Tokens of equal weight are taken in
the order of their ids, so that every result is defined. Knows nothing of requests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from loraland.engine.protocol import Sampling


def penalised(
    logits: torch.Tensor, sampling: Sampling, seen: Iterable[int], counts: Mapping[int, int]
) -> torch.Tensor:
    """New logits after the repetition, presence and frequency penalties.

    `seen` are the tokens of prompt and answer: their logits are divided by the repetition penalty
    when positive, multiplied when negative (Keskar et al. 2019, arXiv:1909.05858, section 4.1, with
    the sign handled as in transformers). `counts` are the tokens of the answer: then
    presence + frequency * count goes off (OpenAI's API reference).
    """
    logits = logits.clone()
    if sampling.repetition_penalty != 1:
        ids = torch.tensor(sorted(seen), dtype=torch.long)
        old = logits[ids]
        penalty = sampling.repetition_penalty
        logits[ids] = torch.where(old > 0, old / penalty, old * penalty)
    if counts and (sampling.presence_penalty or sampling.frequency_penalty):
        ids = torch.tensor(list(counts), dtype=torch.long)
        times = torch.tensor(list(counts.values()), dtype=logits.dtype)
        logits[ids] -= sampling.presence_penalty + sampling.frequency_penalty * times
    most = torch.finfo(logits.dtype).max
    return logits.clamp_(-most, most)  # huge logits stay numbers


def probabilities_of(logits: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """What is drawn from: temperature, then top-k, top-p and min-p, renormalised.

    `logits` may be -inf for tokens that are not allowed, though not for all. The most likely token
    is always kept, so the sum is 1. Needs temperature > 0.
    """
    # Less the maximum and in double precision, so that no temperature makes 0 / 0 or infinity.
    scaled = ((logits - logits.max()).double() / sampling.temperature).float()
    if 0 < sampling.top_k < scaled.numel():
        scaled = _only(scaled, likeliest(scaled, sampling.top_k), -math.inf)
    probabilities = scaled.softmax(0)
    if sampling.top_p < 1:
        probabilities = _only(probabilities, nucleus(probabilities, sampling.top_p), 0.0)
    if sampling.min_p > 0:
        probabilities[probabilities < sampling.min_p * probabilities.max()] = 0
    return probabilities / probabilities.sum()


def likeliest(values: torch.Tensor, k: int) -> torch.Tensor:
    """The ids of the k largest values, the largest first, without those that are -inf."""
    least = values.topk(k).values[-1]
    # More than k where some tie with the least.
    ids = ((values >= least) & (values > -math.inf)).nonzero().squeeze(1)
    return ids[values[ids].sort(descending=True, stable=True).indices[:k]]


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The ids of the fewest likeliest tokens that together have at least `top_p` of the mass.

    Holtzman et al. 2019, arXiv:1904.09751, equation 2.
    """
    # Tokens below this weigh less than 1 - top_p all together, so the nucleus lies above; sorting
    # only those takes a tenth of the time of sorting a whole vocabulary.
    light = (1 - top_p) / probabilities.numel() / 2
    ids = (probabilities > light).nonzero().squeeze(1)
    ordered, order = probabilities[ids].sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered  # the mass of all likelier tokens
    return ids[order[: max(1, int((before < top_p).sum()))]]


def draw(probabilities: torch.Tensor, generator: torch.Generator) -> int:
    """A token id with its probability, by one uniform number from `generator`.

    Inverts the cumulative distribution in the order of ids: rounding noise of the logits moves the
    bounds by as little, and seldom changes an answer. A token of probability 0 is never drawn.
    """
    cumulative = probabilities.double().cumsum(0)
    wanted = torch.rand((), dtype=torch.float64, generator=generator) * cumulative[-1]
    last = torch.searchsorted(cumulative, cumulative[-1:])  # beyond it all are 0
    return int(torch.searchsorted(cumulative, wanted.reshape(1), right=True).minimum(last))


def _only(values: torch.Tensor, ids: torch.Tensor, elsewhere: float) -> torch.Tensor:
    return torch.full_like(values, elsewhere).scatter(0, ids, values[ids])
