"""Measures the multi-LoRA layer: each operation alone, and the tax over the plain linear layers.

Linear layers of SmolLM2-135M's shape with random weights, 25 adapters of rank 8 in 25 slots, fp32.
Prints one JSON line. The thresholds in `loraland/lora/choice.py` come from here.

    python benchmarks/lora_ops.py [--threads 2] [--repeats 15] [--cpu-time]

With --cpu-time the thread's own time is counted instead of the wall clock, on one thread: for a
machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))

from loraland.lora.bank import LoraBank
from loraland.lora.factors import Layout, ServedFactors, TrainedFactors
from loraland.lora.ops import OPS
from loraland.lora.rows import Rows
from loraland.lora.weights import AdapterWeights, LoraPair, linears_of

Clock = Callable[[], float]  # seconds

ADAPTERS, RANK, LAYERS = 25, 8, 30
SIZES = (1, 8, 16, 32, 64)  # tokens of a segment
SHAPES = {  # (in, out) of each linear layer in one block
    "q_proj": (576, 576), "k_proj": (576, 192), "v_proj": (576, 192), "o_proj": (576, 576),
    "gate_proj": (576, 1536), "up_proj": (576, 1536), "down_proj": (1536, 576),
}  # fmt: skip

# Slots of the tokens of one pass. Neighbours in decoding have different adapters.
DECODE = [1 + row % ADAPTERS for row in range(32)]
PREFILL = [1 + segment for segment in range(5) for _ in range(100)]
PASSES = {
    "decode_32_rows_25_adapters": DECODE,
    "decode_32_rows_1_adapter": [1] * 32,
    "decode_1_row": [1],
    "prefill_5_segments_of_100": PREFILL,
    "prefill_4_of_100_and_decode_28": [*DECODE[:28], *PREFILL[:400]],
}


class Stack(nn.Module):
    """The linear layers of a model without what is between them."""

    def __init__(self) -> None:
        super().__init__()
        for layer in range(LAYERS):
            block = nn.ModuleDict({n: nn.Linear(*s, bias=False) for n, s in SHAPES.items()})
            self.add_module(f"block{layer}", block)
        self.requires_grad_(False).eval()

    def forward(self, inputs: dict[int, Tensor]) -> None:
        """Each layer on the input of its width; the results are thrown away."""
        for block in self.children():
            for layer in block.children():
                layer(inputs[layer.in_features])


def _adapter(targets: Sequence[str]) -> AdapterWeights:
    return AdapterWeights.of(
        {
            path: LoraPair(torch.randn(RANK, inputs), torch.randn(outputs, RANK), 2.0)
            for path, (inputs, outputs) in linears_of(Stack()).items()
            if path.rpartition(".")[2] in targets
        }
    )


def fastest_ms(
    calls: dict[str, Callable[[], object]], repeats: int, clock: Clock
) -> dict[str, float]:
    """The shortest of `repeats` runs of each, taken in turns so that noise meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            start = clock()
            call()
            if repeat:  # the first warms up
                times[name].append((clock() - start) * 1000)
    return {name: round(min(found), 4) for name, found in times.items()}


@torch.inference_mode()
def measure_ops(repeats: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Milliseconds for one layer, averaged over 30 of them so that no cache holds all stacks."""
    layout = Layout((0, *[RANK] * ADAPTERS), RANK)
    found = {}
    for shape in ((576, 576), (576, 1536)):
        layers = [
            ServedFactors(
                torch.randn(ADAPTERS + 1, RANK, shape[0]),
                torch.randn(ADAPTERS + 1, RANK, shape[1]),
                layout,
                {},
            )
            for _ in range(LAYERS)
        ]
        for factors in layers:
            for slot in range(1, ADAPTERS + 1):
                pair = LoraPair(torch.randn(RANK, shape[0]), torch.randn(shape[1], RANK), 1.0)
                factors.prepare(slot, pair, layout)()
        bases = [torch.randn(shape[1], shape[0]) for _ in range(LAYERS)]
        segments = {
            f"4_segments_of_{n}": [1 + s for s in range(4) for _ in range(n)] for n in SIZES
        }
        for name, slots in {**segments, **PASSES}.items():
            case = f"{name}, {shape[0]} -> {shape[1]}"
            found[case] = _one_shape(layers, bases, slots, repeats, clock)
    return found


def _one_shape(
    layers: list[ServedFactors], bases: list[Tensor], slots: list[int], repeats: int, clock: Clock
) -> dict[str, float]:
    rows, x = Rows.of(slots, "cpu"), torch.randn(len(slots), bases[0].shape[1])
    y = torch.randn(len(slots), bases[0].shape[0])

    def run(name: str) -> None:
        for factors in layers:
            OPS[name].add(y, x, factors, rows)

    def base() -> None:
        for weight in bases:
            nn.functional.linear(x, weight)

    calls: dict[str, Callable[[], object]] = {n: lambda n=n: run(n) for n in OPS}  # type: ignore[misc]
    times = fastest_ms({"base": base, **calls}, repeats, clock)
    return {name: round(ms / LAYERS, 4) for name, ms in times.items()}


@torch.inference_mode()
def measure_tax(targets: Sequence[str], repeats: int, clock: Clock) -> dict[str, dict[str, float]]:
    """All linear layers of the model: base rows only, and with adapters, in one process."""
    plain, served = Stack(), Stack()
    for one, other in zip(plain.parameters(), served.parameters(), strict=True):
        other.data = one.data  # the same memory, so that only the adapters make a difference
    bank = LoraBank(served, slots=ADAPTERS, max_rank=64)
    for slot in range(1, ADAPTERS + 1):
        bank.write(slot, _adapter(targets))
    found = {}
    for name, slots in PASSES.items():
        inputs = {width: torch.randn(1, len(slots), width) for width in (576, 1536)}

        def with_adapters(slots: list[int] = slots, inputs: dict[int, Tensor] = inputs) -> None:
            bank.bind(Rows.of(slots, "cpu"))
            served(inputs)

        times = fastest_ms(
            {"base": lambda inputs=inputs: plain(inputs), "adapters": with_adapters},  # type: ignore[misc]
            repeats,
            clock,
        )
        found[name] = {
            "base_ms": times["base"],
            "adapters_ms": times["adapters"],
            "tax": round(times["adapters"] / times["base"] - 1, 4),
        }
    return found


def measure_training(repeats: int, clock: Clock) -> dict[str, dict[str, float]]:
    """Milliseconds forward and backward through the adapters of one 576 -> 576 layer."""
    found = {}
    passes = {f"8_slots_{n}_segments_of_{1440 // n}": n for n in (8, 16, 24, 48, 96)}
    for name, count in passes.items():
        layout = Layout((0, *[RANK] * 8), RANK)
        factors = TrainedFactors((576, 576), layout, torch.device("cpu"), torch.float32)
        for slot in range(1, 9):
            pair = LoraPair(torch.randn(RANK, 576), torch.randn(576, RANK), 1.0)
            factors.prepare(slot, pair, layout)()
        slots = [1 + part % 8 for part in range(count) for _ in range(1440 // count)]
        rows, x = Rows.of(slots, "cpu"), torch.randn(1440, 576, requires_grad=True)
        upwards = torch.randn(1440, 576)

        def step(
            op: str, x: Tensor = x, rows: Rows = rows, factors: TrainedFactors = factors,
            upwards: Tensor = upwards,
        ) -> None:  # fmt: skip
            OPS[op].delta(x, factors, rows).backward(upwards)

        calls = {op: lambda op=op: step(op) for op in OPS if OPS[op].differentiable}  # type: ignore[misc]
        del calls["gathered"]  # a copy of the matrices per token: gigabytes here
        found[name] = fastest_ms(calls, repeats, clock)
    return found


def main() -> None:
    """Measure everything and print one line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--repeats", type=int, default=15)
    options.add_argument("--cpu-time", action="store_true")
    given = options.parse_args()
    given.threads = 1 if given.cpu_time else given.threads
    clock = time.thread_time if given.cpu_time else time.perf_counter
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    result = {
        "benchmark": "lora_ops",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": {"machine": platform.machine(), "cpu": _cpu(), "threads": given.threads},
        "clock": clock.__name__,
        "versions": {"torch": torch.__version__, "python": platform.python_version()},
        "tax_q_v": measure_tax(["q_proj", "v_proj"], given.repeats, clock),
        "tax_all_linear": measure_tax(list(SHAPES), given.repeats, clock),
        "ms_per_layer": measure_ops(given.repeats, clock),
        "ms_training": measure_training(max(3, given.repeats // 3), clock),
    }
    print(json.dumps(result))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((n.split(":")[1].strip() for n in lines if n.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
