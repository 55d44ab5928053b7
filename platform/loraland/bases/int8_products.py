"""The int8 matrix products that this machine's PyTorch offers, behind one signature.

A product gets a weight as integers with one scale per output, and rows that lie in [-1, 1]. It
rounds the rows to 1/127 and multiplies in integers, so a row's result is the same whoever shares
the batch. Knows nothing of models, nor of how a row came to lie in [-1, 1].
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch

from loraland.errors import InvalidConfiguration

LEVELS = 127  # steps of a row on each side of zero
ZERO = 128  # the unsigned byte that stands for 0

# The steps a weight may use on each side of zero. CPUs without VNNI add two byte products in 16
# bits: 2 * 255 * 127 does not fit there and saturates silently, 2 * 255 * 63 does.
FULL_WEIGHTS, NARROW_WEIGHTS = 127, 63

Packed = Callable[[torch.Tensor], torch.Tensor]  # (rows, in) in [-1, 1] -> (rows, out), both fp32
Pack = Callable[[torch.Tensor, torch.Tensor], Packed]  # int8 (out, in), fp32 scales (out,)
ProductName = Literal["fbgemm", "onednn", "plain"]


def pack_plain(weight: torch.Tensor, scales: torch.Tensor) -> Packed:
    """The definition in three fp32 operations: for tests, as slow and as large as fp32."""
    held = weight.float().t().contiguous()  # (in, out)
    steps = scales / LEVELS

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        return (rows * LEVELS).round() @ held * steps

    return multiply


def pack_fbgemm(weight: torch.Tensor, scales: torch.Tensor) -> Packed:
    """FBGEMM rounds, multiplies and scales in one call: the fastest here for few rows.

    `benchmarks/int8_quality.py` compares.
    """
    with warnings.catch_warnings(), _engine("fbgemm"):
        # PyTorch will drop quantised tensors some day; `best_product` then takes oneDNN.
        warnings.filterwarnings("ignore", message=r"(?s).*quantized tensor creation functions")
        zeros = torch.zeros(len(scales), dtype=torch.long)
        quantised = torch._make_per_channel_quantized_tensor(weight, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantised, None)
    product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = product(rows, 1 / LEVELS, ZERO, packed)
        return result

    return multiply


def pack_onednn(weight: torch.Tensor, scales: torch.Tensor) -> Packed:
    """OneDNN takes rows as unsigned bytes: signed ones fall back to a loop 1000 times slower."""
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    steps = scales / LEVELS
    zeros = torch.zeros(len(scales), dtype=torch.long)
    product = torch.ops.onednn.qlinear_pointwise

    def multiply(rows: torch.Tensor) -> torch.Tensor:
        # One rounding to the nearest step, ties to even, as the others do.
        small = (rows * LEVELS).round_().add_(ZERO).to(torch.uint8)
        # x: bytes, scale, zero; w: packed, scales, zeros; bias; y: scale, zero, type; no epilogue.
        result: torch.Tensor = product(
            small, 1.0, ZERO, packed, steps, zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    return multiply


PRODUCTS: dict[ProductName, Pack] = {  # in order of preference
    "fbgemm": pack_fbgemm,
    "onednn": pack_onednn,
    "plain": pack_plain,
}


@cache
def weight_levels(name: ProductName) -> int:
    """The steps on each side of zero that a weight may use with a product, found by trying.

    Raises InvalidConfiguration when this PyTorch or CPU does not have the product, or when it does
    not multiply exactly even with few steps.
    """
    for levels in (FULL_WEIGHTS, NARROW_WEIGHTS):
        try:
            exact = _is_exact(PRODUCTS[name], levels)
        except (RuntimeError, AttributeError, NotImplementedError) as error:
            raise InvalidConfiguration(
                f"int8 product '{name}' does not work here: {type(error).__name__}: {error}; "
                "compute in fp32"
            ) from error
        if exact:
            return levels
    raise InvalidConfiguration(
        f"int8 product '{name}' gives wrong sums on this CPU even with {NARROW_WEIGHTS} levels; "
        "compute in fp32"
    )


def best_product() -> ProductName:
    """The fastest product that works here. Raises InvalidConfiguration when there is none."""
    refused = []
    names: tuple[ProductName, ...] = ("fbgemm", "onednn")
    for name in names:
        try:
            weight_levels(name)
        except InvalidConfiguration as error:
            refused.append(error.message)
        else:
            return name
    raise InvalidConfiguration(
        "this machine has no int8 product faster than fp32; compute in fp32. " + " ".join(refused)
    )


def _is_exact(pack: Pack, levels: int) -> bool:
    """Whether the largest sums of both signs come out whole, for one row and for many."""
    signs = torch.tensor([1, -1], dtype=torch.int8).repeat(16)  # of the outputs
    weight = (signs[:, None] * levels).expand(32, 256).contiguous()
    multiply = pack(weight, torch.ones(32))
    rows = torch.ones(40, 256)
    rows[1::2] = -1
    expected = rows[:, :1] * signs.float() * levels * 256
    return all(torch.allclose(multiply(rows[:n]), expected[:n], rtol=1e-5) for n in (1, 4, 40))


@contextmanager
def _engine(name: str) -> Iterator[None]:
    """PyTorch's quantised engine, set for a moment: packing takes the one that is set."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = name
    try:
        yield
    finally:
        torch.backends.quantized.engine = before
