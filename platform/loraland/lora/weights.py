"""Reads an adapter folder into memory, and lists the linear layers that adapters may target.

What may enter is decided by `adapters.admission`; here what passed becomes tensors. Knows nothing
of slots, rows or devices: what is read stays on the host, in the dtype it was saved in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
from torch import Tensor, nn

from loraland.adapters.admission import AdapterFacts, Limits, Linears, examine
from loraland.adapters.folder import WEIGHTS, hash_content, read_config, read_limited
from loraland.errors import AdapterRejected

PEFT_PREFIX = "base_model.model."


class LoraPair(NamedTuple):
    """The adapter of one linear layer: y += scale * b a x."""

    a: Tensor  # (rank, in_features)
    b: Tensor  # (out_features, rank)
    scale: float  # alpha / rank, or alpha / sqrt(rank) with rsLoRA


@dataclass(frozen=True, slots=True)
class AdapterWeights:
    """An adapter in host memory."""

    modules: Mapping[str, LoraPair]  # path inside the base -> matrices
    rank: int  # the largest of all modules
    size_bytes: int  # in memory

    @classmethod
    def of(cls, modules: Mapping[str, LoraPair]) -> AdapterWeights:
        """An adapter from its matrices. Raises AdapterRejected when there are none."""
        if not modules:
            raise AdapterRejected("an adapter needs the matrices of at least one linear layer")
        return cls(
            modules=dict(modules),
            rank=max(pair.a.shape[0] for pair in modules.values()),
            size_bytes=sum(pair.a.nbytes + pair.b.nbytes for pair in modules.values()),
        )


def read_adapter(folder: Path, linears: Linears, limits: Limits | None = None) -> AdapterWeights:
    """The adapter of a PEFT folder, once nothing speaks against it.

    `linears` gives (in_features, out_features) of every linear layer of the base by its path.
    Raises AdapterRejected with every reason: another kind than plain LoRA, other layers or shapes
    than the base's, NaN, a damaged or a pickled file, a rank above the limit.
    """
    facts = examine(folder, limits, linears=linears)
    tensors = _load(folder, facts, limits or Limits())
    return AdapterWeights.of(
        {
            path: LoraPair(
                tensors[peft_name(path, "A")], tensors[peft_name(path, "B")], module.scaling
            )
            for path, module in facts.modules.items()
        }
    )


def peft_name(path: str, side: str) -> str:
    """What PEFT calls one matrix (side "A" or "B") of the linear layer at `path` when it saves."""
    return f"{PEFT_PREFIX}{path}.lora_{side}.weight"


def linears_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    """(in_features, out_features) of every linear layer of a model by its path, lm_head included.

    A linear layer is any module that has both numbers: torch's, bitsandbytes', our int8 one, and
    the multi-LoRA layer that stands in for one of them.
    """
    return {
        path: (int(module.in_features), int(module.out_features))  # type: ignore[arg-type]
        for path, module in _outermost_linears(model)
    }


def _outermost_linears(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    if all(isinstance(getattr(module, n, None), int) for n in ("in_features", "out_features")):
        yield path, module
        return  # a linear layer inside a linear layer is its own affair
    for name, child in module.named_children():
        yield from _outermost_linears(child, f"{path}.{name}" if path else name)


def _load(folder: Path, facts: AdapterFacts, limits: Limits) -> dict[str, Tensor]:
    """The tensors in memory of our own: the file may be replaced or removed afterwards."""
    content = read_limited(folder, WEIGHTS, limits.max_bytes)
    if hash_content(read_config(folder), content) != facts.content_hash:
        raise AdapterRejected(
            f"adapter '{folder.name}' was changed while it was being read; load it again"
        )
    tensors: dict[str, Tensor] = safetensors.torch.load(content)
    return tensors
