"""One forward pass over rows of several adapters, and the loss of each row.

Binds every token to its row's slot and every row to its own stream of dropout. Knows a base and a
bank of adapters; knows nothing of runs, updates or optimisers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from loraland.bases.loading import LoadedBase
from loraland.lora.bank import LoraBank
from loraland.lora.dropout import Span
from loraland.lora.rows import Rows
from loraland.training.fused_batches import Row
from loraland.training.loss import Batch, token_losses


def backward(base: LoadedBase, bank: LoraBank, rows: Sequence[Row]) -> list[float]:
    """Add the gradients of a pass to the adapters; the share of each row in its run's loss (nats).

    Needs the model in training mode.
    """
    shares = torch.tensor([row.share for row in rows], device=base.device)
    parts = _row_losses(base, bank, rows) * shares
    parts.sum().backward()  # type: ignore[no-untyped-call]
    found: list[float] = parts.tolist()
    return found


@torch.no_grad()
def evaluate(base: LoadedBase, bank: LoraBank, rows: Sequence[Row]) -> list[float]:
    """The share of each row in its run's loss (nats). Needs the model in evaluation mode."""
    losses: list[float] = _row_losses(base, bank, rows).tolist()
    return [loss * row.share for loss, row in zip(losses, rows, strict=True)]


def _row_losses(base: LoadedBase, bank: LoraBank, rows: Sequence[Row]) -> Tensor:
    """The mean negative log-likelihood per supervised token of each row: (rows,)."""
    examples = [row.example for row in rows]
    batch = Batch.of(examples, int(base.tokenizer.pad_token_id), base.device)
    _bind(bank, rows, batch.ids.shape[1], base.device)
    losses = token_losses(base.model, batch)
    return losses.new_zeros(len(rows)).index_add(0, batch.rows, losses)


def _bind(bank: LoraBank, rows: Sequence[Row], width: int, device: torch.device) -> None:
    tokens = [row.slot for row in rows for _ in range(width)]  # padding goes with its row
    supervised = [row.slot for row in rows for _ in row.example.supervised]
    bank.bind(
        Rows.of(tokens, device),
        head=Rows.of(supervised, device),
        dropout=_spans(rows, [len(row.example.ids) for row in rows], width),
        head_dropout=_spans(rows, [len(row.example.supervised) for row in rows]),
    )


def _spans(rows: Sequence[Row], lengths: Sequence[int], width: int | None = None) -> list[Span]:
    """The tokens of each row, rows `width` apart or one after the other."""
    spans, start = [], 0
    for row, length in zip(rows, lengths, strict=True):
        spans.append(Span(start, start + length, row.slot, row.dropout, row.stream))
        start += width or length
    return spans
