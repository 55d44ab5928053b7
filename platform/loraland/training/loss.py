"""The loss on answers only, with logits computed at no other position.

Over a large vocabulary the output head is a good part of a step's cost, and all but a few positions
are prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from loraland.training.examples import Example


class Batch(NamedTuple):
    """Examples side by side, and their supervised tokens in the order of the examples."""

    ids: Tensor  # (examples, longest), padded at the end
    mask: Tensor  # like ids; 0 where padded
    rows: Tensor  # (supervised,): the example of each supervised token
    places: Tensor  # (supervised,): where it stands in its example
    weights: Tensor  # (supervised,): those of one example sum to 1

    @classmethod
    def of(cls, examples: Sequence[Example], pad_id: int, device: torch.device) -> Batch:
        """One forward pass."""
        return cls(*_padded(examples, pad_id, device), *_supervised(examples, device))


def summed_loss(model: PreTrainedModel, examples: Sequence[Example], pad_id: int) -> Tensor:
    """The sum over examples of each one's mean negative log-likelihood per supervised token (nats).

    Scalar, differentiable. Divide by the number of examples of the update to get its loss: the same
    number however the update is split into forward passes.
    """
    return token_losses(model, Batch.of(examples, pad_id, model.device)).sum()


def example_losses(model: PreTrainedModel, examples: Sequence[Example], pad_id: int) -> Tensor:
    """The mean negative log-likelihood per supervised token of each: (examples,), nats."""
    batch = Batch.of(examples, pad_id, model.device)
    losses = token_losses(model, batch)
    return losses.new_zeros(len(examples)).index_add(0, batch.rows, losses)


def token_losses(model: PreTrainedModel, batch: Batch) -> Tensor:
    """The share of each supervised token in the loss of its example: (supervised,), nats."""
    hidden = model.get_decoder()(
        input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
    ).last_hidden_state
    logits = model.get_output_embeddings()(
        hidden[batch.rows, batch.places - 1]
    ).float()  # (supervised, vocabulary)
    targets = batch.ids[batch.rows, batch.places]
    return functional.cross_entropy(logits, targets, reduction="none") * batch.weights


def _padded(
    examples: Sequence[Example], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    longest = max(len(example.ids) for example in examples)
    ids = torch.full((len(examples), longest), pad_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)] = torch.tensor(example.ids)
        mask[row, : len(example.ids)] = 1
    return ids.to(device), mask.to(device)


def _supervised(examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    rows: list[int] = []
    places: list[int] = []
    weights: list[float] = []
    for row, example in enumerate(examples):
        count = len(example.supervised)
        rows += [row] * count
        places += range(example.prompt_tokens, len(example.ids))
        weights += [1.0 / count] * count
    return (
        torch.tensor(rows, device=device),
        torch.tensor(places, device=device),
        torch.tensor(weights, device=device),
    )
