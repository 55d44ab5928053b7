"""Milliseconds of one pass's linear layers by each fp32 product: MKL, oneDNN, and for one token a
product per thread.

    python -m benchmarks.products --threads 2

The shapes of SmolLM2-135M with random weights; copies enough that no cache holds them. The sums are
over 30 layers and the head. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from loraland.bases.products import InferenceLinear
from loraland.matrix.provenance import git_state, hardware, package_versions

LAYERS, TOKENS = 30, (1, 8, 32, 128, 512)
# (in, out) -> how many in one pass
SHAPES = {
    (576, 576): 2 * LAYERS, (576, 192): 2 * LAYERS, (576, 1536): 2 * LAYERS,
    (1536, 576): LAYERS, (576, 49_152): 1,
}  # fmt: skip
COLD_BYTES = 60_000_000  # of the weights that one measurement goes through


def milliseconds(layers: list[nn.Module], x: Tensor, repeats: int = 7) -> float:
    """Of one layer, in the shortest of several runs through all of them."""
    return min(_run(lambda: [layer(x) for layer in layers]) for _ in range(repeats)) / len(layers)


def _run(products: Callable[[], object]) -> float:
    begun = time.perf_counter()
    products()
    return (time.perf_counter() - begun) * 1000


@torch.inference_mode()
def measure() -> dict[str, dict[int, float]]:
    """By product and tokens, the milliseconds of all linear layers of one pass."""
    sums = {name: dict.fromkeys(TOKENS, 0.0) for name in ("mkl", "chosen", "chosen_dense")}
    for (inputs, outputs), times in SHAPES.items():
        copies = max(1, COLD_BYTES // (4 * inputs * outputs))
        plain = [nn.Linear(inputs, outputs, bias=False) for _ in range(copies)]
        layers: dict[str, list[nn.Module]] = {
            "mkl": [*plain],
            "chosen": [InferenceLinear(layer) for layer in plain],
            "chosen_dense": [InferenceLinear(layer, blocked=False) for layer in plain],
        }
        for tokens in TOKENS:
            x = torch.randn(tokens, inputs)
            for name, chosen in layers.items():
                sums[name][tokens] += times * milliseconds(chosen, x)
    return sums


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sums = measure()
    line = json.dumps(
        {
            "benchmark": "products",
            "date": datetime.now(UTC).date().isoformat(),
            "commit": git_state(),
            "hardware": hardware(),
            "threads": torch.get_num_threads(),
            "versions": package_versions(),
            "ms": {name: {m: round(v, 1) for m, v in by.items()} for name, by in sums.items()},
            "ratio_to_mkl": {
                m: round(sums["mkl"][m] / sums["chosen"][m], 2) for m in TOKENS
            },
        }
    )  # fmt: skip
    if options.out:
        options.out.write_text(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
