"""What a step of decoding costs on a GPU, beside the least that its memory allows.

    python -m benchmarks.gpu_decode --out benchmarks/results/gpu_decode.json
    python -m benchmarks.gpu_decode --tiny --device cpu     # only to see that it runs

Random weights of Mistral-7B's shape in bf16 and in NF4; every row holds `--context` tokens of
random keys and values. A step is one token for each row, sampling included. The bound is the bytes
that a step must read (weights, keys and values, the adapters in use) over the measured bandwidth of
a copy. The tax is the step with adapters over our own with base rows only, measured in turns. Plain
transformers and PEFT, with caches of the same length, run in the same process. Prints one JSON
line.

It has not met a GPU yet: what it measured there, and whether its sizes fit, is not known.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import DynamicCache, PreTrainedModel

from benchmarks.random_adapters import write_random_adapters
from benchmarks.random_bases import MISTRAL_7B, TINY, bytes_per_step, random_base
from benchmarks.report import report
from loraland.engine.cuda_graph import capture_for
from loraland.engine.paged import PagedKv
from loraland.engine.protocol import Request, Sampling
from loraland.engine.runner import Runner
from loraland.engine.sampling import Chooser
from loraland.engine.scheduler import Row, Work
from loraland.lora.bank import LoraBank
from loraland.lora.weights import AdapterWeights, linears_of, read_adapter

BATCHES, ADAPTERS, RANK, BLOCK = (1, 8, 32, 64), (0, 1, 25), 8, 16
WARM = 4  # steps before any is timed: kernels compile, graphs are captured


def median_ms(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """Of `steps` calls, each of which the device has finished."""
    times = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times)


def bandwidth(device: torch.device, size: int) -> float:
    """Bytes per second that a copy within the device's memory reads and writes together."""
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    median_ms(lambda: target.copy_(source), WARM, device)
    return 2 * size / (median_ms(lambda: target.copy_(source), 20, device) / 1000)


class Ours:
    """The engine's runner over rows that hold so many tokens already."""

    def __init__(
        self,
        model: PreTrainedModel,
        folders: dict[str, Path],
        batch: int,
        tokens: int,
        graphs: bool,
    ) -> None:
        """`tokens` is the most that a row comes to hold."""
        self.each = -(-tokens // BLOCK)  # blocks of a row
        linears = linears_of(model)
        self.kv = PagedKv(model, batch * self.each, BLOCK)
        for pool in self.kv._pools.values():
            pool.normal_()
        bank = LoraBank(model, slots=max(ADAPTERS), max_rank=RANK)
        for slot, folder in enumerate(folders.values(), 1):
            bank.write(slot, read_adapter(folder, linears))
        self.runner = Runner(
            model, bank, self.kv, graph_rows=batch, graph_tokens=tokens,
            capture=capture_for(self.kv) if graphs else None,
        )  # fmt: skip

    def steps(self, batch: int, context: int, adapters: int) -> Callable[[], None]:
        """What computes the next token of each row; adapters are dealt out in turn, 0: the base."""
        rows = [
            Row(str(i), None, [1 + i % 200] * context, context, 1 << 30,
                blocks=list(range(i * self.each, (i + 1) * self.each)))
            for i in range(batch)
        ]  # fmt: skip
        slots = [1 + i % adapters if adapters else 0 for i in range(batch)]
        choosers = [Chooser.of(Request(row.id, (1,), None, Sampling())) for row in rows]

        def step() -> None:
            works = [Work(row, len(row.tokens) - 1, 1) for row in rows]
            for row, choice in zip(rows, self.runner.run(works, slots, choosers), strict=True):
                row.tokens.append(choice.token_id)  # type: ignore[union-attr]

        return step


def ours(
    model: PreTrainedModel, folders: dict[str, Path], batch: int, options: argparse.Namespace,
    graphs: bool,
) -> dict[str, Any]:  # fmt: skip
    """Milliseconds of a step by number of adapters, in turns, and how they were computed."""
    most = options.context + WARM + options.rounds * options.steps + 1
    engine = Ours(model, folders, batch, most, graphs)
    try:
        steps = {n: engine.steps(batch, options.context, n) for n in ADAPTERS}
        times: dict[int, list[float]] = {n: [] for n in ADAPTERS}
        for step in steps.values():
            median_ms(step, WARM, engine.kv.device)
        for _ in range(options.rounds):
            for n, step in steps.items():
                times[n].append(median_ms(step, options.steps, engine.kv.device))
        found = {n: statistics.median(each) for n, each in times.items()}
        taxes = {
            n: statistics.median(a / b - 1 for a, b in zip(times[n], times[0], strict=True))
            for n in ADAPTERS[1:]
        }
        return {"ms": found, "tax": taxes, "ops": engine.runner.stats}
    finally:
        engine.runner.close()


@torch.inference_mode()
def theirs_ms(
    model: Any, vocabulary: int, batch: int, options: argparse.Namespace, **how: Any
) -> float:
    """A step of transformers' or PEFT's with a cache of its own."""
    device = torch.device(model.device)
    cache = DynamicCache()
    prompt = torch.randint(3, vocabulary, (batch, options.context), device=device)
    model(input_ids=prompt, past_key_values=cache, use_cache=True, logits_to_keep=1, **how)
    token = prompt[:, :1]

    def step() -> None:
        nonlocal token
        output = model(input_ids=token, past_key_values=cache, use_cache=True, **how)
        token = output.logits[:, -1:].argmax(-1)

    median_ms(step, WARM, device)
    return median_ms(step, options.rounds * options.steps, device)


def peft_ms(
    model: PreTrainedModel, folders: dict[str, Path], batch: int, options: argparse.Namespace
) -> dict[int, float]:
    """PEFT's mixed batches by number of adapters. The model is as it was afterwards."""
    names = list(folders)
    mixed = PeftModel.from_pretrained(model, folders[names[0]], adapter_name=names[0])
    for name in names[1:]:
        mixed.load_adapter(folders[name], name)
    found = {}
    for n in ADAPTERS[1:]:
        chosen = [names[i % n] for i in range(batch)]
        vocabulary = model.config.vocab_size
        found[n] = theirs_ms(mixed.eval(), vocabulary, batch, options, adapter_names=chosen)
    mixed.unload()
    return found


def bound_ms(
    model: PreTrainedModel, adapter: AdapterWeights, batch: int, adapters: int, tokens: float,
    bytes_per_second: float,
) -> float:  # fmt: skip
    """The time to read once what a step reads; `tokens` in each row's cache."""
    config, itemsize = model.config, model.get_input_embeddings().weight.element_size()
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    elements = sum(pair.a.numel() + pair.b.numel() for pair in adapter.modules.values())
    total = bytes_per_step(model) + batch * tokens * per_token * itemsize
    total += min(batch, adapters) * elements * itemsize
    return total / bytes_per_second * 1000


def measure(
    model: PreTrainedModel, folders: dict[str, Path], options: argparse.Namespace, copied: float
) -> dict[str, Any]:
    """All figures of one base, by batch."""
    found: dict[str, Any] = {}
    some = read_adapter(next(iter(folders.values())), linears_of(model))
    middle = options.context + WARM + options.rounds * options.steps / 2
    for batch in options.batches:
        print(f"batch {batch}", file=sys.stderr, flush=True)
        got = ours(model, folders, batch, options, graphs=True)
        bounds = {n: bound_ms(model, some, batch, n, middle, copied) for n in ADAPTERS}
        found[str(batch)] = {
            "ours_ms": _rounded(got["ms"]),
            "tax": _rounded(got["tax"]),
            "bound_ms": _rounded(bounds),
            "of_bound": _rounded({n: bounds[n] / got["ms"][n] for n in ADAPTERS}),
            "ops": got["ops"],
            "ours_without_graphs_ms": _rounded(ours(model, folders, batch, options, False)["ms"]),
            "transformers_ms": round(theirs_ms(model, model.config.vocab_size, batch, options), 3),
            "peft_ms": _rounded(peft_ms(model, folders, batch, options)),
        }
    return found


def _rounded(figures: dict[int, float]) -> dict[str, float]:
    return {str(n): round(value, 4) for n, value in figures.items()}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a shape for a test of this script")
    parser.add_argument("--precisions", nargs="+", choices=["bf16", "nf4"], default=["bf16", "nf4"])
    parser.add_argument("--batches", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20, help="in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    options = parser.parse_args()
    device = torch.device(options.device)
    copied = bandwidth(device, 1 << 24 if options.tiny else 1 << 30)
    found: dict[str, Any] = {"copy_gb_per_s": round(copied / 1e9, 1)}
    for precision in options.precisions:
        torch.manual_seed(0)
        model = random_base(TINY if options.tiny else MISTRAL_7B, precision, device)
        with tempfile.TemporaryDirectory() as place:
            folders = write_random_adapters(model, Path(place), max(ADAPTERS), rank=RANK)
            found[precision] = measure(model, folders, options, copied)
        del model
    setting = (
        f"{'a tiny shape' if options.tiny else 'Mistral-7B'}, random weights, on {device}; "
        f"{options.context} tokens in each row's cache; adapters of rank {RANK} on q_proj, v_proj"
    )
    report("gpu_decode", {"setting": setting, **found}, options.out)


if __name__ == "__main__":
    main()
