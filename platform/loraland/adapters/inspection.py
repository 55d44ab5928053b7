"""Looks into an adapter folder: what it holds, and everything that is wrong with it by itself.

Reads the configuration, the header and the numbers; runs nothing from the folder and needs no
tensor library. Knows nothing of bases, cards, the registry or devices.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from loraland.adapters import weights
from loraland.adapters.folder import WEIGHTS, content_hash, read_config, version_of
from loraland.adapters.lora_config import alpha_of, config_problems, expected_module
from loraland.errors import AdapterRejected

_MATRIX = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")
_FOREIGN = (  # part of a tensor's name -> what it belongs to
    ("lora_magnitude_vector", "the magnitudes of DoRA"),
    ("lora_embedding_", "LoRA on an embedding"),
    ("lora_B.bias", "a bias of LoRA"),
    ("modules_to_save", "a whole module (modules_to_save)"),
)
_SHOWN = 5  # examples of one kind of defect in a message


@dataclass(frozen=True, slots=True)
class Limits:
    """What a replica accepts."""

    max_rank: int = 256
    max_bytes: int = 1 << 30  # of the weights file
    targets: frozenset[str] | None = None  # last parts of module names, e.g. "q_proj"; None: any
    max_tensors: int = 20_000  # two for each adapted linear layer
    max_header_bytes: int = 10 << 20
    where: str = "serve_apps/lora_land.yaml"  # where an operator raises them


class LoraModule(NamedTuple):
    """The adapter of one linear layer: y += scaling * B A x."""

    rank: int
    scaling: float  # alpha / rank, or alpha / sqrt(rank) with rsLoRA
    in_features: int
    out_features: int


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """What an adapter folder holds."""

    content_hash: str  # 64 hex digits
    rank: int  # the largest of all modules
    alpha: float  # as configured; a module's own scaling is in `modules`
    targets: tuple[str, ...]  # last parts of module names, sorted
    dtype: str  # as safetensors names it; several are joined by "+"
    parameters: int
    size_bytes: int  # of the weights file
    modules: Mapping[str, LoraModule]  # full module name within the base -> its adapter

    @property
    def version(self) -> str:
        """The first 12 digits of the content hash."""
        return version_of(self.content_hash)


def inspect(folder: Path, limits: Limits) -> tuple[AdapterFacts | None, list[str]]:
    """Facts where the files could be read at all, and every reason against them.

    A reason continues "adapter 'x' ...".
    """
    problems: list[str] = []
    config: dict[str, Any] = {}
    if (folder / "adapter_model.bin").exists():
        problems.append(
            "has pickle weights (adapter_model.bin), which can run code when they are read; "
            "save it again with safe_serialization=True and remove that file"
        )
    try:
        config = read_config(folder)
        problems += config_problems(config)
    except AdapterRejected as error:
        problems.append(f"is without a usable configuration: {error.message}")
    specs = _read_specs(folder, limits, problems)
    if not specs:
        return None, problems
    modules = _pair_up(specs, config, problems)
    problems += _over_limits(modules, limits)
    problems += _bad_numbers(folder / WEIGHTS, specs)
    if not modules or not config:
        return None, problems
    return _facts(folder, config, specs, modules), problems


def _read_specs(folder: Path, limits: Limits, problems: list[str]) -> list[weights.TensorSpec]:
    path = folder / WEIGHTS
    if not path.is_file():
        problems.append(f"has no {WEIGHTS}")
        return []
    size = path.stat().st_size
    if size > limits.max_bytes:
        problems.append(
            f"has {size} bytes of weights, this replica accepts at most {limits.max_bytes}; "
            f"raise max_bytes in {limits.where} or retrain with a smaller rank"
        )
        return []
    try:
        specs = weights.read_header(
            path, max_header_bytes=limits.max_header_bytes, max_tensors=limits.max_tensors
        )
    except ValueError as error:
        problems.append(f"has weights that cannot be read: {WEIGHTS} {error}")
        return []
    if not specs:
        problems.append(f"is empty: {WEIGHTS} holds no tensor")
    return specs


def _pair_up(
    specs: Iterable[weights.TensorSpec], config: Mapping[str, Any], problems: list[str]
) -> dict[str, LoraModule]:
    """The modules whose A and B fit each other and the configuration; the rest become problems."""
    sides: dict[str, dict[str, tuple[int, ...]]] = {}
    foreign = []
    for spec in specs:
        if match := _MATRIX.fullmatch(spec.name):
            sides.setdefault(match["module"], {})[match["side"]] = spec.shape
        else:
            foreign.append(f"'{spec.name}' ({_kind(spec.name)})")
    problems += some("holds tensors that are no LoRA matrix of a linear layer", foreign)
    modules, unfit = {}, []
    for module, shapes in sorted(sides.items()):
        if fault := _fault(shapes):
            unfit.append(f"{module} {fault}")
            continue
        (rank, inputs), outputs = shapes["A"], shapes["B"][0]
        expected = expected_module(config, module)
        if expected is not None and expected.rank != rank:
            unfit.append(f"{module} has rank {rank}, the configuration says {expected.rank}")
        scaling = math.nan if expected is None else expected.scaling
        modules[module] = LoraModule(rank, scaling, inputs, outputs)
    problems += some("has matrices that do not fit", unfit)
    return modules


def _fault(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """What keeps A (rank, in) and B (out, rank) from being multiplied, or None."""
    if set(shapes) != {"A", "B"}:
        return f"has lora_{min(shapes)} alone"
    a, b = shapes["A"], shapes["B"]
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or 0 in (*a, *b):
        return f"has A {list(a)} and B {list(b)}; they must be [rank, in] and [out, rank]"
    return None


def _kind(tensor: str) -> str:
    return next((kind for part, kind in _FOREIGN if part in tensor), "unknown")


def _over_limits(modules: Mapping[str, LoraModule], limits: Limits) -> list[str]:
    found = []
    rank = max((module.rank for module in modules.values()), default=0)
    if rank > limits.max_rank:
        found.append(
            f"has rank {rank}, this replica accepts at most {limits.max_rank}; "
            f"raise max_rank in {limits.where} or retrain"
        )
    if limits.targets is not None:
        others = sorted({_last(module) for module in modules} - limits.targets)
        found += some(
            f"adapts layers outside the ones that this replica accepts ({_join(limits.targets)})",
            others,
        )
    return found


def _bad_numbers(path: Path, specs: list[weights.TensorSpec]) -> list[str]:
    odd = [f"{spec.name} ({spec.dtype})" for spec in specs if spec.dtype not in weights.FLOAT_BYTES]
    kinds = ", ".join(sorted(weights.FLOAT_BYTES))
    found = some(f"has tensors of another type than {kinds}", odd)
    try:
        wild = weights.non_finite(path, specs)
    except ValueError as error:  # cut short while it was being read
        return [*found, f"has weights that cannot be read: {WEIGHTS} {error}"]
    return found + some("has NaN or infinity in its weights", wild)


def _facts(
    folder: Path,
    config: Mapping[str, Any],
    specs: list[weights.TensorSpec],
    modules: Mapping[str, LoraModule],
) -> AdapterFacts:
    return AdapterFacts(
        content_hash=content_hash(folder),
        rank=max(module.rank for module in modules.values()),
        alpha=alpha_of(config),
        targets=tuple(sorted({_last(module) for module in modules})),
        dtype="+".join(sorted({spec.dtype for spec in specs})),
        parameters=sum(math.prod(spec.shape) for spec in specs),
        size_bytes=(folder / WEIGHTS).stat().st_size,
        modules=dict(modules),
    )


def _last(module: str) -> str:
    return module.rpartition(".")[2]


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def some(what: str, examples: list[str]) -> list[str]:
    """One reason with its first examples, or none when there are no examples."""
    if not examples:
        return []
    more = f" and {len(examples) - _SHOWN} more" if len(examples) > _SHOWN else ""
    return [f"{what}: {'; '.join(examples[:_SHOWN])}{more}"]
