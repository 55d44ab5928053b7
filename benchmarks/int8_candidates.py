"""The ways of computing the linear layers of a base that `int8_quality` compares.

Some are for one layer, and some for a whole base, which is given back as it was.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from loraland.bases.int8 import Int8Linear, Scheme, quantise_for_inference
from loraland.bases.int8_products import PRODUCTS, ProductName, weight_levels
from loraland.bases.loading import LoadedBase
from loraland.bases.products import InferenceLinear
from loraland.errors import InvalidConfiguration

BLOCKS = 30  # of the base

Replace = Callable[[LoadedBase], object]


class PerTensor(nn.Module):
    """The naive way: one scale for all of the inputs, found at each call; one per weight row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scales = linear.weight.detach().abs().amax(1).clamp(min=1e-30) / weight_levels("fbgemm")
            zeros = torch.zeros(len(scales), dtype=torch.long)
            whole = torch.quantize_per_channel(
                linear.weight.detach(), scales.double(), zeros, 0, torch.qint8
            )
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
        self._packed = torch.ops.quantized.linear_prepack(whole, None)
        torch.backends.quantized.engine = before

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        result: Tensor = torch.ops.quantized.linear_dynamic(inputs, self._packed, False)
        return result


class Bf16(nn.Module):
    """Weights and inputs in bf16, which CPUs with AVX512-BF16 or AMX multiply directly."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("small", linear.weight.detach().bfloat16())

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out), the result rounded to bf16."""
        return nn.functional.linear(inputs.bfloat16(), self.small).float()  # type: ignore[arg-type]


def makers() -> dict[str, Callable[[nn.Linear], nn.Module]]:
    """How each candidate is made of a linear layer; those that this machine has."""
    found: dict[str, Callable[[nn.Linear], nn.Module]] = {
        "fp32": lambda layer: layer,
        "fp32 oneDNN": InferenceLinear,
        "bf16": Bf16,
    }
    for name in PRODUCTS:
        if name == "plain" or not _works(name):
            continue
        bare = Scheme(smoothing=None, exact_channels=0)
        found[f"int8 {name}, scale per token"] = partial(_int8, scheme=bare, product=name)
        found[f"int8 {name}, smoothed, 8 exact"] = partial(_int8, scheme=Scheme(), product=name)
    if _works("fbgemm"):
        found["int8 fbgemm, scale per tensor"] = PerTensor
    return found


def _int8(layer: nn.Linear, scheme: Scheme, product: ProductName) -> nn.Module:
    peaks = torch.linspace(1, 2, layer.in_features)
    return Int8Linear(layer, peaks, scheme, product)


def _works(name: ProductName) -> bool:
    try:
        return weight_levels(name) > 0
    except InvalidConfiguration:
        return False


def attempts() -> dict[str, Replace]:
    """The ways of computing that are compared, by name."""
    whole = quantise_for_inference
    return {
        "bf16": partial(_replace_all, make=Bf16),
        "scale per tensor": partial(_replace_all, make=PerTensor),
        "scale per token": partial(whole, scheme=Scheme(None, 0)),
        "8 exact": partial(whole, scheme=Scheme(None, 8)),
        "smoothed 0.3": partial(whole, scheme=Scheme(0.3, 0)),
        "smoothed 0.5": partial(whole, scheme=Scheme(0.5, 0)),
        "smoothed 0.7": partial(whole, scheme=Scheme(0.7, 0)),
        "smoothed 0.5, 8 exact (default)": whole,
        "smoothed 0.5, 16 exact": partial(whole, scheme=Scheme(0.5, 16)),
        "default, head in fp32": partial(whole, keep={"lm_head"}),
        "default, down_proj in fp32": partial(
            whole, keep={f"model.layers.{n}.mlp.down_proj" for n in range(BLOCKS)}
        ),
        "default, weights in 7 bits": partial(whole, scheme=Scheme(weight_levels=63)),
    }


def _replace_all(base: LoadedBase, make: Callable[[nn.Linear], nn.Module]) -> None:
    for path, module in list(base.model.named_modules()):
        if type(module) is nn.Linear:
            base.model.set_submodule(path, make(module))


@contextmanager
def replaced(base: LoadedBase, replace: Replace) -> Iterator[None]:
    """The base with other linear layers until the block ends."""
    own = {path: m for path, m in base.model.named_modules() if type(m) is nn.Linear}
    try:
        replace(base)
        yield
    finally:
        for path, module in own.items():
            base.model.set_submodule(path, module)
