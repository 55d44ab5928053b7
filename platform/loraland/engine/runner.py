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

from loraland.engine.graphs import Batch, Buffers, Capture, DecodeGraphs, Output, Step, batch_sizes
from loraland.engine.paged import PagedKv
from loraland.engine.sampling import NOT_FINITE, Choice, Chooser, choose_rows
from loraland.engine.scheduler import Work
from loraland.engine.spans import Held, Span
from loraland.errors import EngineFailed
from loraland.lora.bank import LoraBank
from loraland.lora.rows import Rows

Outcome = Choice | EngineFailed | None  # None: the row goes on without a choice


class Runner:
    """One model with its cache and its adapters. Not thread-safe."""

    def __init__(
        self,
        model: PreTrainedModel,
        bank: LoraBank,
        kv: PagedKv,
        *,
        graph_rows: int = 0,
        graph_tokens: int = 0,
        capture: Capture | None = None,
    ) -> None:
        """A frozen model in eval mode; `close` gives it back as it was.

        With `capture`, passes in which all rows generate are captured, up to `graph_rows` rows of
        `graph_tokens` tokens each.
        """
        self._model, self._bank, self._kv = model, bank, kv
        self._graphs: DecodeGraphs | None = None
        if capture is not None:
            buffers = Buffers(graph_rows, graph_tokens, kv.block_size, kv.scratch, kv.device)
            self._graphs = DecodeGraphs(
                batch_sizes(graph_rows), buffers, kv.plan_fixed, self._fixed, capture,
                lambda: bank.epoch,
            )  # fmt: skip
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
        logits = self._replayed(works, slots)
        order = list(range(len(works)))
        if logits is None:
            spans = [Span(work.start, work.size, work.row.blocks, work.row) for work in works]
            order = self._kv.begin(spans)
        packed = [works[i] for i in order]
        ends = _ends(packed)
        chosen = [i for i, work in enumerate(packed) if work.chooses]
        outcomes: list[Outcome] = [None] * len(works)
        if logits is None:
            logits = self._logits(
                packed,
                [spans[i] for i in order],
                [slots[i] for i in order],
                [ends[i] for i in chosen],
            )
        elif len(chosen) < len(works):
            logits = logits[chosen]
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
        if self._graphs is not None:
            self._graphs.close()
        self._hook.remove()
        self._kv.detach()
        self._bank.detach()

    @property
    def stats(self) -> dict[str, int]:
        """Passes in which a kernel attended, and those that were replayed from a graph."""
        found = {f"attention_{name}": passes for name, passes in self._kv.stats.items()}
        if self._graphs is not None:
            found |= {"graph_captures": self._graphs.captured, "graph": self._graphs.replayed}
        return found

    def _replayed(self, works: Sequence[Work], slots: Sequence[int]) -> Tensor | None:
        """(works, vocabulary): the logits after each, where all of them generate and a graph can
        be had. None: the pass is to be computed as any other.
        """
        if self._graphs is None or any(work.size > 1 or work.start == 0 for work in works):
            return None
        self._bank.check_held(slots)
        steps = [
            Step(row.tokens[start], slot, Held(row.blocks, start + 1))
            for (row, start, _), slot in zip(works, slots, strict=True)
        ]
        output = self._graphs.run(steps)
        if output is None:
            return None
        self._hidden = output.hidden[None]
        return output.logits

    def _fixed(self, batch: Batch) -> Output:
        """A pass of single tokens as a function of the tensors of its batch alone."""
        self._kv.begin_fixed(batch.fixed)
        self._bank.bind(batch.rows)
        output = self._model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=None,
            use_cache=False,
        )
        assert self._hidden is not None
        hidden, self._hidden = self._hidden[0], None
        return Output(output.logits[0], hidden)

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
