"""Adapters with random weights, each another function, for measurements of speed."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from loraland.adapters.made_up import write_random_adapter
from loraland.lora.weights import linears_of


def write_random_adapters(
    model: nn.Module, root: Path, count: int, *, rank: int
) -> dict[str, Path]:
    """`count` adapter folders below `root`, by name."""
    linears = linears_of(model)
    folders = {f"adapter{number:03d}": root / f"adapter{number:03d}" for number in range(count)}
    for number, folder in enumerate(folders.values()):
        write_random_adapter(folder, linears, rank=rank, seed=number)
    return folders
