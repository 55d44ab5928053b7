"""The device slots of a batched engine: adapters are written into them, and newcomers examined.

A newcomer is examined in a slot that no row ever runs in, so that it costs nobody a place. All of
it happens in the engine's worker, between two passes. Knows nothing of versions, files or requests.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from loraland.engine.desk import Worker
from loraland.engine.runner import Runner
from loraland.errors import AdapterRejected
from loraland.lora.bank import LoraBank
from loraland.lora.weights import AdapterWeights


class Slots:
    """Slots 1 to the last but one of a bank; the last is for examinations."""

    def __init__(self, bank: LoraBank, runner: Runner, worker: Worker) -> None:
        """The bank of the runner's model."""
        self._bank, self._runner, self._worker = bank, runner, worker

    async def write(self, slot: int, weights: AdapterWeights) -> float:
        """Put an adapter into a slot: the milliseconds it took, without the wait for the pass."""
        return await self._worker.do(self._write, slot, weights)

    def _write(self, slot: int, weights: AdapterWeights) -> float:
        begun = time.perf_counter()
        self._bank.write(slot, weights)
        return (time.perf_counter() - begun) * 1000

    async def probe(
        self, prompt: Sequence[int], token_ids: Sequence[int], weights: AdapterWeights
    ) -> list[float]:
        """The logits of `token_ids` after a prompt, with an adapter that has no slot of its own.

        Raises AdapterRejected for token ids that the model does not have.
        """
        return await self._worker.do(self._probe, prompt, token_ids, weights)

    def _probe(
        self, prompt: Sequence[int], token_ids: Sequence[int], weights: AdapterWeights
    ) -> list[float]:
        most = self._runner.vocabulary
        if not all(0 <= token < most for token in (*prompt, *token_ids)):
            raise AdapterRejected(f"the card's canary has token ids outside of 0 to {most - 1}")
        exam = self._bank.slots
        self._bank.write(exam, weights)
        try:
            logits = self._runner.probe(prompt, exam)
        finally:
            self._bank.clear(exam)
        return [float(logits[token]) for token in token_ids]
