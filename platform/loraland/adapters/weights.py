"""What a safetensors file says about itself, and whether its numbers are finite.

Reads the header and the raw numbers only: numpy has no bfloat16, and admission must judge files
that no tensor library has loaded. Every size is checked before memory is spent on it. Knows
nothing of LoRA.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from loraland.adapters.strict_json import parse_object

FLOAT_BYTES = {"F32": 4, "F16": 2, "BF16": 2}  # dtypes that adapters are served in
_CHUNK = 1 << 22  # numbers examined at once: at most 16 MiB


class TensorSpec(NamedTuple):
    """One tensor of a file."""

    name: str
    dtype: str  # as safetensors names it: "F32", "BF16", ...
    shape: tuple[int, ...]
    start: int  # byte in the file
    size_bytes: int


def read_header(path: Path, *, max_header_bytes: int, max_tensors: int) -> list[TensorSpec]:
    """The tensors of a safetensors file, by name. Raises ValueError saying what is wrong."""
    header_bytes = _header_size(path, max_header_bytes)
    _check_layout(path)
    with path.open("rb") as file:
        file.seek(8)
        header = parse_object(file.read(header_bytes))
    header.pop("__metadata__", None)
    if len(header) > max_tensors:
        raise ValueError(f"holds {len(header)} tensors, at most {max_tensors} are read")
    return [_spec(name, header[name], 8 + header_bytes) for name in sorted(header)]


def non_finite(path: Path, specs: list[TensorSpec]) -> list[str]:
    """The names of the tensors that hold NaN or infinity; those of other dtypes are passed over."""
    with path.open("rb") as file:
        return [
            spec.name
            for spec in specs
            if spec.dtype in FLOAT_BYTES
            and not all(_all_finite(part, spec.dtype) for part in _numbers(file, spec))
        ]


def _header_size(path: Path, limit: int) -> int:
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
    size = int.from_bytes(head, "little")
    if len(head) < 8 or size > file_bytes - 8:
        raise ValueError(f"is no whole safetensors file ({file_bytes} bytes)")
    if size > limit:
        raise ValueError(f"has a header of {size} bytes, at most {limit} are read")
    return size


def _check_layout(path: Path) -> None:
    """Let the library check offsets, shapes and gaps against the length of the file."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"is no valid safetensors file: {error}") from error


def _spec(name: str, entry: dict[str, Any], data_start: int) -> TensorSpec:
    start, end = entry["data_offsets"]
    return TensorSpec(name, entry["dtype"], tuple(entry["shape"]), data_start + start, end - start)


def _numbers(file: BinaryIO, spec: TensorSpec) -> Iterator[NDArray[Any]]:
    stored = np.dtype("<f4" if spec.dtype == "F32" else "<u2")
    file.seek(spec.start)
    left = math.prod(spec.shape)
    while left > 0:
        part = np.fromfile(file, dtype=stored, count=min(left, _CHUNK))
        if part.size == 0:
            raise ValueError(f"ends within tensor '{spec.name}'")
        left -= part.size
        yield part


def _all_finite(numbers: NDArray[Any], dtype: str) -> bool:
    if dtype == "F32":
        return bool(np.isfinite(numbers).all())
    # Of a 16-bit float only the exponent matters here: all ones means NaN or infinity.
    exponent = np.uint16(0x7F80 if dtype == "BF16" else 0x7C00)
    return not bool(((numbers & exponent) == exponent).any())
