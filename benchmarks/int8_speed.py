"""How long int8 products take beside others, by shape and rows, and in all layers of one pass."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.int8_candidates import BLOCKS, makers

SHAPES = {  # (in, out) of the layers in one block; the head is 576 -> 49,152
    "q_proj": (576, 576), "k_proj": (576, 192), "v_proj": (576, 192), "o_proj": (576, 576),
    "gate_proj": (576, 1536), "up_proj": (576, 1536), "down_proj": (1536, 576),
}  # fmt: skip
HEAD = (576, 49_152)
HEAD_ROWS = 32
ROWS = (1, 8, 32, 128, 512)

Clock = Callable[[], float]


def _plain_linear(shape: tuple[int, int]) -> nn.Linear:
    return nn.Linear(*shape, bias=False).requires_grad_(False)


@torch.inference_mode()
def measure_products(repeats: int, clock: Clock) -> dict[str, Any]:
    """Milliseconds by shape, rows and candidate; and of a whole pass, where no cache holds all."""
    blocks = [{n: _plain_linear(s) for n, s in SHAPES.items()} for _ in range(BLOCKS)]
    head = _plain_linear(HEAD)
    single: dict[str, dict[str, float]] = {}
    whole: dict[str, dict[str, float]] = {}
    for name, make in makers().items():
        made = [[make(layer) for layer in block.values()] for block in blocks]
        made_head = make(head)
        for rows in ROWS:
            inputs = {width: torch.randn(rows, width) for width in (576, 1536)}

            def blocks_pass(
                made: list[list[nn.Module]] = made, inputs: dict[int, Tensor] = inputs
            ) -> None:
                for block in made:
                    for layer in block:
                        layer(inputs[layer.in_features])  # type: ignore[index]

            ends = inputs[576][:HEAD_ROWS]
            ms = _fastest(blocks_pass, repeats, clock)
            head_ms = _fastest(partial(made_head, ends), repeats, clock)
            whole.setdefault(f"{rows} rows", {})[name] = round(ms + head_ms, 2)
            cell = single.setdefault(f"576 -> 49152, {len(ends)} rows", {})
            cell[name] = round(min(head_ms, cell.get(name, head_ms)), 4)
            for layer, shape in ((0, "576 -> 576"), (1, "576 -> 192"), (4, "576 -> 1536")):
                cell = single.setdefault(f"{shape}, {rows} rows", {})
                cell[name] = _fastest(partial(made[7][layer], inputs[576]), 3 * repeats, clock)
            cell = single.setdefault(f"1536 -> 576, {rows} rows", {})
            cell[name] = _fastest(partial(made[7][6], inputs[1536]), 3 * repeats, clock)
        print(name, {rows: times[name] for rows, times in whole.items()}, file=sys.stderr)
    return {"all_layers_ms": whole, "one_layer_ms": single}


def _fastest(call: Callable[[], object], repeats: int, clock: Clock) -> float:
    call()
    times = []
    for _ in range(repeats):
        begun = clock()
        call()
        times.append((clock() - begun) * 1000)
    return round(min(times), 4)
