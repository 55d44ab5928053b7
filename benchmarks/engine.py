"""Tokens per second of the engine beside transformers and PEFT, in one run on one machine.

    make bench-engine            # or: python -m benchmarks.engine --rounds 3 --out FILE

The embedded base in fp32, 32 requests at a time, 100 tokens of prompt and 64 of answer each,
greedy, 25 adapters of rank 8 on q_proj and v_proj. Prompts are random and new to everyone. Nobody
is measured cold: a wave with adapters goes by first. What is compared is measured in one round, one
right after the other and then in the other order; a ratio is the median of the rounds' ratios, a
figure the median of all its measurements. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from benchmarks.random_adapters import write_random_adapters
from benchmarks.report import Figures, report
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.products import speed_up
from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Engine, Finished, Request, Sampling
from loraland.engine.settings import EngineLimits

AT_ONCE, PROMPT, NEW, ADAPTERS, RESIDENT, RANK = 32, 100, 64, 25, 200, 8
SHARED = 80  # of the prompt's tokens, in the run with shared prefixes

Asked = tuple[list[int], str | None]  # prompt, adapter


def prompts(count: int, seed: int, vocabulary: int) -> list[list[int]]:
    """Random prompts of `PROMPT` tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocabulary, (count, PROMPT), generator=generator).tolist()


def peft_tps(model: Any, asked: Sequence[Asked]) -> float:
    """Generated tokens per second of `generate`, all requests as one batch."""
    ids = torch.tensor([prompt for prompt, _ in asked])
    how: dict[str, Any] = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": NEW,
        "min_new_tokens": NEW, "do_sample": False, "pad_token_id": 0,
    }  # fmt: skip
    if isinstance(model, PeftModel):
        how["adapter_names"] = [adapter or "__base__" for _, adapter in asked]
    begun = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(**how)
    seconds = time.perf_counter() - begun
    assert output.shape[1] == PROMPT + NEW
    return len(asked) * NEW / seconds


async def ours_tps(engine: Engine, asked: Sequence[Asked]) -> float:
    """Generated tokens per second of our engine, all requests at once."""

    async def one(index: int, prompt: list[int], adapter: str | None) -> None:
        request = Request(str(index), tuple(prompt), adapter, Sampling(max_new_tokens=NEW))
        async for event in engine.submit(request):
            if isinstance(event, Finished):
                assert event.generated_tokens == NEW

    begun = time.perf_counter()
    await asyncio.gather(*[one(i, *pair) for i, pair in enumerate(asked)])
    return len(asked) * NEW / (time.perf_counter() - begun)


class Bench:
    """The measurements of one round, over bases that are loaded once."""

    def __init__(self, folders: dict[str, Path], int8: bool) -> None:
        self.folders, self.names = folders, list(folders)
        self.figures = Figures()
        self.seed = 0
        self.base = self._load()
        self.fast = self._load()
        speed_up(self.fast)
        self.vocabulary = self.base.model.config.vocab_size
        self.int8 = self._load(int8=True) if int8 else None

    def _load(self, int8: bool = False) -> LoadedBase:
        base = load_base(find_base("smollm2-135m"), "fp32")
        if int8:
            from loraland.bases.int8 import quantise_for_inference

            quantise_for_inference(base)
        return base

    def asked(self, names: Sequence[str | None]) -> list[Asked]:
        """`AT_ONCE` prompts that nobody has seen yet, for each of the names in turn."""
        self.seed += 1
        found = prompts(AT_ONCE, self.seed, self.vocabulary)
        return [(prompt, names[i % len(names)]) for i, prompt in enumerate(found)]

    def round(self) -> None:
        """Every figure, and what is compared one right after the other."""
        plain = self.asked([None])
        mixed = [(prompt, self.names[i % ADAPTERS]) for i, (prompt, _) in enumerate(plain)]
        self.figures.note("generate_base_tps", peft_tps(self.base.model, plain))
        asyncio.run(self._ours())
        model = PeftModel.from_pretrained(
            self.base.model, self.folders[self.names[0]], adapter_name=self.names[0]
        )
        for name in self.names[1:ADAPTERS]:
            model.load_adapter(self.folders[name], name)
        self.figures.note("peft_mixed_tps", peft_tps(model.eval(), mixed))
        model.unload()
        if self.int8 is not None:
            asyncio.run(self._ours_int8())

    async def _ours(self) -> None:
        few: list[str | None] = [*self.names[:ADAPTERS]]
        many: list[str | None] = [self.names[37 * i % RESIDENT] for i in range(AT_ONCE)]
        async with self._engine(self.fast) as engine:
            await self._warm(engine, few)
            await self._single(engine)
            await self._pairs(engine, "mixed25", few, "base", [None])
            await self._shared(engine)
            await self._warm(engine, [*self.names])
            await self._pairs(engine, "resident200", many, "few25", few)

    async def _ours_int8(self) -> None:
        assert self.int8 is not None
        async with self._engine(self.int8) as engine:
            few = [*self.names[:ADAPTERS]]
            await self._warm(engine, few)
            await self._pairs(engine, "int8_mixed25", few, "int8_base", [None])
            self.figures.note("int8_single_tps", await ours_tps(engine, self.asked([None])[:1]))

    @asynccontextmanager
    async def _engine(self, base: LoadedBase) -> AsyncIterator[Engine]:
        engine = BatchedEngine.of(base, EngineLimits(slots=RESIDENT, kv_tokens=65_536))
        try:
            yield engine
        finally:
            await engine.close()

    async def _warm(self, engine: Engine, names: Sequence[str | None]) -> None:
        """Make adapters resident, and let a wave with all kinds of rows go by unmeasured."""
        for name in names:
            if name is not None:
                await engine.load(name, self.folders[name])
        one = Sampling(max_new_tokens=1)
        for name in names:
            async for _ in engine.submit(Request(f"warm-{name}-{self.seed}", (7, 8, 9), name, one)):
                pass
        await ours_tps(engine, self.asked([None, *names]))

    async def _single(self, engine: Engine) -> None:
        """One request alone, by us and by `generate`."""
        alone = self.asked([None])[:1]
        self.figures.note("single_tps", await ours_tps(engine, alone))
        self.figures.note("generate_single_tps", peft_tps(self.base.model, alone))

    async def _pairs(
        self,
        engine: Engine,
        one: str,
        ones: Sequence[str | None],
        other: str,
        others: Sequence[str | None],
    ) -> None:
        """Two kinds of waves in the order one, other, other, one, so that a drift hits both."""
        for kind, names in ((one, ones), (other, others), (other, others), (one, ones)):
            self.figures.note(f"{kind}_tps", await ours_tps(engine, self.asked(names)))

    async def _shared(self, engine: Engine) -> None:
        """Prompts that share their beginning with earlier ones of their adapter, and new ones."""
        names = self.names[:ADAPTERS]
        beginnings = [prompt[:SHARED] for prompt, _ in self.asked([None])][:ADAPTERS]

        def share() -> list[Asked]:
            return [
                (beginnings[i % ADAPTERS] + prompt[SHARED:], names[i % ADAPTERS])
                for i, (prompt, _) in enumerate(self.asked([None]))
            ]

        await ours_tps(engine, share())
        for kind in ("shared", "unshared", "unshared", "shared"):
            asked = share() if kind == "shared" else self.asked([*names])
            self.figures.note(f"{kind}_prefix_tps", await ours_tps(engine, asked))


# Over, under: of each round's pairs that were measured one right after the other.
RATIOS = {
    "mixed25_over_peft": ("mixed25_tps", "peft_mixed_tps"),
    "mixed25_over_base": ("mixed25_tps", "base_tps"),
    "mixed25_over_generate_base": ("mixed25_tps", "generate_base_tps"),
    "resident200_over_mixed25": ("resident200_tps", "few25_tps"),
    "shared_over_unshared": ("shared_prefix_tps", "unshared_prefix_tps"),
    "single_over_generate": ("single_tps", "generate_single_tps"),
    "int8_mixed25_over_peft": ("int8_mixed25_tps", "peft_mixed_tps"),
}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-int8", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        base = load_base(find_base("smollm2-135m"), "fp32")
        folders = write_random_adapters(base.model, Path(place), RESIDENT, rank=RANK)
        del base
        bench = Bench(folders, int8=not options.no_int8)
        for number in range(options.rounds):
            print(f"round {number + 1}", file=sys.stderr, flush=True)
            bench.round()
    setting = (
        f"smollm2-135m fp32, {AT_ONCE} at a time, {PROMPT}+{NEW} tokens, greedy, "
        f"{ADAPTERS} adapters of rank {RANK} on q_proj and v_proj"
    )
    summary = bench.figures.summary(RATIOS, options.rounds)
    report("engine", {"setting": setting, **summary}, options.out)


if __name__ == "__main__":
    main()
