"""Tokens per second of the engine beside transformers and PEFT, in one run on one machine.

    make bench-engine            # or: python -m benchmarks.engine --rounds 3 --out FILE

The embedded base in fp32, 32 requests at a time, 100 tokens of prompt and 64 of answer each,
greedy, 25 adapters of rank 8 on q_proj and v_proj. Everyone gets the same prompts. The measurements
of a round follow one another and rounds are repeated; each figure is the median over the rounds.
Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from benchmarks.random_adapters import write_random_adapters
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.products import speed_up
from loraland.engine.batched import BatchedEngine
from loraland.engine.protocol import Engine, Finished, Request, Sampling
from loraland.engine.settings import EngineLimits
from loraland.matrix.provenance import git_state, hardware, package_versions

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


async def ours_tps(engine: Engine, asked: Sequence[Asked], name: str) -> float:
    """Generated tokens per second of our engine, `AT_ONCE` requests under way at any moment."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(index: int, prompt: list[int], adapter: str | None) -> None:
        request = Request(f"{name}-{index}", tuple(prompt), adapter, Sampling(max_new_tokens=NEW))
        async with gate:
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
        self.figures: dict[str, list[float]] = {}
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

    def note(self, name: str, value: float) -> None:
        """Keep a figure, and show it on the way."""
        self.figures.setdefault(name, []).append(value)
        print(f"{name} {value:.1f}", file=sys.stderr, flush=True)

    def asked(self, count: int, seed: int, names: Sequence[str | None]) -> list[Asked]:
        """Distinct prompts for each of the adapters in turn."""
        found = prompts(count, seed, self.vocabulary)
        return [(prompt, names[i % len(names)]) for i, prompt in enumerate(found)]

    def round(self, number: int) -> None:
        """Every figure once."""
        mixed = self.asked(AT_ONCE, number, self.names[:ADAPTERS])
        plain: list[Asked] = [(prompt, None) for prompt, _ in mixed]
        self.note("generate_base_tps", peft_tps(self.base.model, plain))
        self.note("generate_single_tps", peft_tps(self.base.model, plain[:1]))
        asyncio.run(self._ours(self.fast, "", mixed, plain, number))
        model = PeftModel.from_pretrained(
            self.base.model, self.folders[self.names[0]], adapter_name=self.names[0]
        )
        for name in self.names[1:ADAPTERS]:
            model.load_adapter(self.folders[name], name)
        self.note("peft_mixed_tps", peft_tps(model.eval(), mixed))
        model.unload()
        if self.int8 is not None:
            asyncio.run(self._ours(self.int8, "int8_", mixed, plain, number))

    async def _ours(
        self, base: LoadedBase, prefix: str, mixed: list[Asked], plain: list[Asked], number: int
    ) -> None:
        engine = BatchedEngine.of(base, EngineLimits(slots=RESIDENT, kv_tokens=65_536))
        try:
            await ours_tps(engine, self.asked(4, 999, [None]), "warm")
            self.note(f"{prefix}base_tps", await ours_tps(engine, plain, "base"))
            self.note(f"{prefix}single_tps", await ours_tps(engine, plain[:1], "single"))
            for name in self.names[:ADAPTERS]:
                await engine.load(name, self.folders[name])
            await self._make_resident(engine, self.names[:ADAPTERS])
            self.note(f"{prefix}mixed25_tps", await ours_tps(engine, mixed, "mixed"))
            if prefix:
                return
            await self._shared(engine, number)
            for name in self.names[ADAPTERS:]:
                await engine.load(name, self.folders[name])
            await self._make_resident(engine, self.names)
            crowd = [
                (prompt, self.names[(37 * i + number) % RESIDENT])
                for i, (prompt, _) in enumerate(self.asked(AT_ONCE, 300 + number, [None]))
            ]
            self.note("resident200_tps", await ours_tps(engine, crowd, "resident"))
        finally:
            await engine.close()

    async def _make_resident(self, engine: Engine, names: Sequence[str]) -> None:
        asked = [([7, 8, 9], name) for name in names]
        for prompt, name in asked:
            request = Request(f"r-{name}", tuple(prompt), name, Sampling(max_new_tokens=1))
            async for _ in engine.submit(request):
                pass

    async def _shared(self, engine: Engine, number: int) -> None:
        """Two waves with what came before kept: prompts that share their beginning, and not."""
        names = self.names[:ADAPTERS]
        beginnings = prompts(ADAPTERS, 500 + number, self.vocabulary)
        ends = prompts(3 * AT_ONCE, 700 + number, self.vocabulary)
        share = [
            (beginnings[i % ADAPTERS][:SHARED] + end[SHARED:], names[i % ADAPTERS])
            for i, end in enumerate(ends)
        ]
        await ours_tps(engine, share[:AT_ONCE], "shared-first")
        self.note("shared_prefix_tps", await ours_tps(engine, share[AT_ONCE:], "shared"))
        apart = self.asked(2 * AT_ONCE, 900 + number, names)
        self.note("unshared_prefix_tps", await ours_tps(engine, apart, "apart"))


RATIOS = {
    "mixed25_over_peft": ("mixed25_tps", "peft_mixed_tps"),
    "mixed25_over_base": ("mixed25_tps", "base_tps"),
    "mixed25_over_generate_base": ("mixed25_tps", "generate_base_tps"),
    "resident200_over_mixed25": ("resident200_tps", "mixed25_tps"),
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
            bench.round(number)
    medians = {name: statistics.median(values) for name, values in bench.figures.items()}
    ratios = {
        name: medians[over] / medians[under]
        for name, (over, under) in RATIOS.items()
        if over in medians and under in medians
    }
    line = json.dumps(
        {
            "benchmark": "engine",
            "date": datetime.now(UTC).date().isoformat(),
            "commit": git_state(),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "versions": package_versions(),
            "setting": f"smollm2-135m fp32, {AT_ONCE} at a time, {PROMPT}+{NEW} tokens, greedy, "
            f"{ADAPTERS} adapters of rank {RANK} on q_proj and v_proj",
            "rounds": options.rounds,
            **{name: round(value, 1) for name, value in medians.items()},
            "ratios": {name: round(value, 3) for name, value in ratios.items()},
            "all": {name: [round(v, 1) for v in values] for name, values in bench.figures.items()},
        }
    )
    if options.out:
        options.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
