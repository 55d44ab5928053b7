"""Computes a pass: packs the tokens of its rows, runs the model once, and chooses next tokens.

Works on tensors in one thread. Told rows, their slots and their choosers by the engine; decides
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from loraland.engine.paged import PagedKv
from loraland.engine.sampling import NOT_FINITE, Choice, Chooser, choose_rows
from loraland.engine.scheduler import Work
from loraland.engine.spans import Span
from loraland.errors import EngineFailed
from loraland.lora.bank import LoraBank
from loraland.lora.rows import Rows

Outcome = Choice | EngineFailed | None  # None: the row goes on without a choice


class Runner:
    """One model with its cache and its adapters. Not thread-safe."""

    def __init__(self, model: PreTrainedModel, bank: LoraBank, kv: PagedKv) -> None:
        """A frozen model in eval mode; `close` gives it back as it was."""
        self._model, self._bank, self._kv = model, bank, kv
        self._hidden: Tensor | None = None
        decoder: Any = model.base_model
        self._hook = decoder.register_forward_hook(self._keep_hidden)
        self.vocabulary = int(model.get_input_embeddings().weight.shape[0])

    def _keep_hidden(self, _module: Any, _inputs: Any, output: Any) -> None:
        self._hidden = output[0]

    def run(
        self, works: Sequence[Work], slots: Sequence[int], choosers: Sequence[Chooser]
    ) -> list[Outcome]:
        """Compute the tokens of each work with the adapter in its slot (0: the base).

        Returns what came of each: a choice where it was due, or why the row must end. A row whose
        numbers are damaged harms no other.
        """
        if not works:
            return []
        spans = [Span(work.start, work.size, work.row.blocks, work.row) for work in works]
        order = self._kv.begin(spans)
        packed = [works[i] for i in order]
        ends = _ends(packed)
        chosen = [i for i, work in enumerate(packed) if work.chooses]
        outcomes: list[Outcome] = [None] * len(works)
        logits = self._logits(
            packed, [spans[i] for i in order], [slots[i] for i in order], [ends[i] for i in chosen]
        )
        choices = choose_rows([choosers[order[i]] for i in chosen], logits)
        for i, choice in zip(chosen, choices, strict=True):
            outcomes[order[i]] = choice
        for i in self._damaged(packed, ends):
            outcomes[order[i]] = EngineFailed(NOT_FINITE)
        return outcomes

    @torch.inference_mode()
    def probe(self, prompt: Sequence[int], slot: int) -> Tensor:
        """The logits after a prompt of its own, (vocabulary,), fp32, on the CPU."""
        span = Span(0, len(prompt), ())
        self._kv.begin([span])
        return self._forward(prompt, [span], [slot], [len(prompt) - 1])[0].float().cpu()

    def clean(self, blocks: Sequence[int]) -> None:
        """Make the content of blocks harmless to whoever gets them next."""
        with torch.inference_mode():
            self._kv.clean(blocks)

    def close(self) -> None:
        """Give the model its own layers and its own attention back."""
        self._hook.remove()
        self._kv.detach()
        self._bank.detach()

    @torch.inference_mode()
    def _logits(
        self,
        works: Sequence[Work],
        spans: Sequence[Span],
        slots: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        tokens: list[int] = []
        for row, start, size in works:
            tokens += row.tokens[start : start + size]
        return self._forward(tokens, spans, slots, wanted)

    def _forward(
        self,
        tokens: Sequence[int],
        spans: Sequence[Span],
        slots: Sequence[int],
        wanted: Sequence[int],
    ) -> Tensor:
        """(wanted, vocabulary): the logits after the tokens at the indices `wanted`."""
        device = self._kv.device
        positions: list[int] = []
        of_tokens: list[int] = []
        for span, slot in zip(spans, slots, strict=True):
            positions += range(span.start, span.start + span.size)
            of_tokens += [slot] * span.size
        # At least one position goes through the head, whose product is not made for none.
        heads = list(wanted) or [len(tokens) - 1]
        self._bank.bind(
            Rows.of(of_tokens, device), head=Rows.of([of_tokens[i] for i in heads], device)
        )
        output = self._model(
            input_ids=torch.tensor([tokens], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=None,
            use_cache=False,
            logits_to_keep=torch.tensor(heads, device=device),
        )
        logits: Tensor = output.logits[0]
        return logits[: len(wanted)]

    def _damaged(self, works: Sequence[Work], ends: Sequence[int]) -> list[int]:
        """The works that left anything not finite in the cache: it shows in the last layer too."""
        assert self._hidden is not None
        hidden, self._hidden = self._hidden[0], None  # (tokens, hidden)
        # A sum is finite only if all its terms are, and is cheaper than looking at each.
        well = hidden.sum(-1, dtype=torch.float32).isfinite()
        if bool(well.all()):
            return []
        well = hidden.isfinite().all(-1)
        return [
            i
            for i, (work, end) in enumerate(zip(works, ends, strict=True))
            if not bool(well[end + 1 - work.size : end + 1].all())
        ]


def _ends(works: Sequence[Work]) -> list[int]:
    """The index of the last token of each work in the pass."""
    ends, total = [], 0
    for work in works:
        total += work.size
        ends.append(total - 1)
    return ends
