"""int8 products in place of a CPU base's linear layers, several times faster than fp32.

Each weight row has a scale of its own, and so does each row of the inputs, taken from that row
alone: how a request is rounded never depends on who shares its batch. Channels far larger than the
rest are evened out or kept in fp32 inside the layer, so adapters see its inputs as they were.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import bitsandbytes
import torch
from torch import nn

from loraland.bases.calibration import TEXTS, input_peaks
from loraland.bases.int8_products import (
    FULL_WEIGHTS,
    PRODUCTS,
    ProductName,
    best_product,
    weight_levels,
)
from loraland.bases.loading import LoadedBase
from loraland.errors import InvalidConfiguration, did_you_mean

logger = logging.getLogger(__name__)

SMOOTHING = 0.5  # alpha of SmoothQuant; 0.3 and 0.7 agree less (benchmarks/int8_quality.py)
EXACT_CHANNELS = 8  # inputs of each layer kept in fp32: those with the largest peaks

# Rows below this count as zero. Far under any activation, far over where its inverse overflows.
TINY = 1e-30

SILENT = 16  # a channel's peak counts as at least the median of all peaks over this


class Scheme(NamedTuple):
    """How a layer is rounded. The defaults are what serving uses; the others are for comparison."""

    smoothing: float | None = SMOOTHING  # None: channels stay as uneven as they are
    exact_channels: int = EXACT_CHANNELS
    weight_levels: int = FULL_WEIGHTS  # at most; fewer where the product would saturate


@dataclass(frozen=True, slots=True)
class Int8Report:
    """What `quantise_for_inference` did."""

    product: ProductName
    weight_levels: int  # 127, or 63 where the CPU would saturate
    layers: int  # linear layers that compute in int8 now
    kept: tuple[str, ...]  # paths of those that stay as they were
    bytes_before: int  # of the weights of the replaced layers
    bytes_after: int  # of what replaces them
    seconds: float  # calibration included


class Evened(NamedTuple):
    """A weight split into what is rounded and what is not."""

    weight: torch.Tensor  # (out, in), to be rounded: times the factors, 0 at the exact channels
    inverse_factors: torch.Tensor | None  # (in,): 1 / factor, 0 at the exact ones; None: all are 1
    exact_indices: torch.Tensor | None  # (exact,), ascending
    exact_weight: torch.Tensor | None  # (exact, out)


class Int8Linear(nn.Module):
    """A frozen linear layer: y = W x + b with W and x in int8, sums in int32, the result in fp32.

    A row of x is divided by its largest magnitude and rounded to 1/127; a row of W likewise, to as
    many steps as the product allows. The weights live in the product's own packing and not in the
    state dict: they are made anew from the base at each load.
    """

    bias: torch.Tensor | None  # (out,), fp32
    inverse_factors: torch.Tensor | None
    exact_indices: torch.Tensor | None
    exact_weight: torch.Tensor | None

    def __init__(
        self,
        linear: nn.Linear,
        peaks: torch.Tensor | None = None,
        scheme: Scheme | None = None,
        product: ProductName | None = None,
    ) -> None:
        """Take the weights of `linear`; `peaks` are max|x[c]| of its inputs, shape (in,).

        Without peaks no channel is smoothed or exact. Raises InvalidConfiguration when the product
        does not work here, or when weights or peaks are not finite.
        """
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        product = product or best_product()
        weight = linear.weight.detach().float()
        _require_finite(weight, peaks)
        scheme = scheme or Scheme()
        evened = even_out(weight, peaks, scheme)
        bias = None if linear.bias is None else linear.bias.detach().float().clone()
        self.register_buffer("bias", bias, persistent=False)
        self.register_buffer("inverse_factors", evened.inverse_factors, persistent=False)
        self.register_buffer("exact_indices", evened.exact_indices, persistent=False)
        self.register_buffer("exact_weight", evened.exact_weight, persistent=False)
        levels = min(scheme.weight_levels, weight_levels(product))
        integers, scales = round_rows(evened.weight, levels)
        self._multiply = PRODUCTS[product](integers, scales)
        held = sum(buffer.nbytes for buffer in self.buffers())
        self.weight_bytes = integers.nbytes + scales.nbytes + held

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in) to (..., out) in the type of the inputs.

        A row with NaN or infinity gives a row of values that are not finite. Raises RuntimeError
        where a gradient would be lost.
        """
        if inputs.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("int8 layers pass no gradient on; train over a base in fp32 or nf4")
        rows = inputs.reshape(-1, self.in_features).float()
        if len(rows) == 0:
            return inputs.new_empty(*inputs.shape[:-1], self.out_features)
        even = rows.clone() if self.inverse_factors is None else rows * self.inverse_factors
        largest = even.abs().amax(1, keepdim=True).clamp_(min=TINY)  # (rows, 1); NaN stays NaN
        # In place: for long prompts new memory costs more than the arithmetic.
        result = self._multiply(even.div_(largest)).mul_(largest)
        if self.exact_indices is not None and self.exact_weight is not None:
            result.addmm_(rows.index_select(1, self.exact_indices), self.exact_weight)
        if self.bias is not None:
            result += self.bias
        return result.view(*inputs.shape[:-1], self.out_features).to(inputs.dtype)

    def extra_repr(self) -> str:
        """What print(model) shows of the layer."""
        exact = 0 if self.exact_indices is None else len(self.exact_indices)
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, exact_channels={exact}"
        )


def even_out(weight: torch.Tensor, peaks: torch.Tensor | None, scheme: Scheme) -> Evened:
    """Move unevenness from the inputs into the weight (out, in), and take the worst channels out.

    SmoothQuant (Xiao et al. 2023, equation 4) divides channel c of the inputs by
    f[c] = max|x[c]|^alpha / max|W[:, c]|^(1 - alpha) and multiplies the weight by it. As in
    LLM.int8() (Dettmers et al. 2022) the channels with the largest peaks are computed in fp32.
    """
    if peaks is None or (scheme.smoothing is None and scheme.exact_channels == 0):
        return Evened(weight, None, None, None)
    factors = torch.ones_like(peaks)
    if scheme.smoothing is not None:
        ours, theirs = _floored(peaks), _floored(weight.abs().amax(0))
        factors = ours**scheme.smoothing / theirs ** (1 - scheme.smoothing)
    inverse = 1 / factors
    if scheme.exact_channels == 0:
        return Evened(weight * factors, inverse, None, None)
    count = min(scheme.exact_channels, len(peaks))
    indices = peaks.topk(count).indices.sort().values
    exact = weight[:, indices].t().contiguous()
    rounded = (weight * factors).index_fill_(1, indices, 0)
    return Evened(rounded, inverse.index_fill_(0, indices, 0), indices, exact)


def round_rows(weight: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight (out, in) as int8 and one fp32 scale per row: weight = integers * scale."""
    scales = weight.abs().amax(1).clamp_(min=TINY) / levels
    integers = (weight / scales[:, None]).round_().clamp_(-levels, levels)
    return integers.to(torch.int8), scales


def quantise_for_inference(
    base: LoadedBase,
    *,
    texts: Sequence[str] = TEXTS,
    scheme: Scheme | None = None,
    product: ProductName | None = None,
    keep: Collection[str] = (),
) -> Int8Report:
    """Replace the linear layers of a CPU base in place by int8 ones, the head included.

    Call it after `expand_for_inference` and before adapters are put in; faster fp32 layers
    (`products.speed_up`) are of use only for what is kept. Embeddings, norms and attention stay in
    fp32, tied embeddings too. The precision of the base keeps its name: it says
    which weights the adapters were trained on, and int8 is how a server multiplies by them. `texts`
    show which channels are large; `keep` holds the paths of layers to leave alone.

    Raises InvalidConfiguration, and then the base is as it was, when it is not on a CPU, has 4-bit
    layers or none at all, when `keep` names no layer, or when there is no fast int8 product here.
    """
    start = time.perf_counter()
    found = _linears(base, keep)
    product = product or best_product()
    peaks = input_peaks(base.model, base.tokenizer, found, texts)
    made = {
        path: Int8Linear(layer, peaks.get(path), scheme, product) for path, layer in found.items()
    }
    for path, layer in made.items():
        base.model.set_submodule(path, layer)
    report = Int8Report(
        product=product,
        weight_levels=min((scheme or Scheme()).weight_levels, weight_levels(product)),
        layers=len(made),
        kept=tuple(sorted(keep)),
        bytes_before=sum(layer.weight.nbytes for layer in found.values()),
        bytes_after=sum(layer.weight_bytes for layer in made.values()),
        seconds=round(time.perf_counter() - start, 3),
    )
    logger.info("base %s computes in int8: %s", base.entry.name, report)
    return report


def _linears(base: LoadedBase, keep: Collection[str]) -> dict[str, nn.Linear]:
    """The layers to replace by path. Raises InvalidConfiguration."""
    name = base.entry.name
    if base.device.type != "cpu":
        raise InvalidConfiguration(
            f"int8 is for bases on a CPU, '{name}' is on {base.device}; use precision bf16 or nf4"
        )
    modules = dict(base.model.named_modules())
    if any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in modules.values()):
        raise InvalidConfiguration(
            f"base '{name}' still has 4-bit layers, which int8 cannot replace; expand it first "
            "(expand_for_inference), which needs the memory of fp32 while loading, or compute in "
            "fp32"
        )
    linears = {path: module for path, module in modules.items() if isinstance(module, nn.Linear)}
    if not linears:
        raise InvalidConfiguration(
            f"base '{name}' has no linear layer that int8 could replace; was it done already?"
        )
    strange = sorted(set(keep) - set(linears))
    if strange:
        raise InvalidConfiguration(
            f"base '{name}' has no linear layer '{strange[0]}'; {did_you_mean(strange[0], linears)}"
        )
    return {path: module for path, module in linears.items() if path not in keep}


def _floored(peaks: torch.Tensor) -> torch.Tensor:
    """Peaks, the smallest raised to a share of the median.

    A channel that was silent on the calibration texts may speak later: its factor must not be such
    that it then drowns the others.
    """
    return peaks.clamp(min=max(float(peaks.median()) / SILENT, TINY))


def _require_finite(weight: torch.Tensor, peaks: torch.Tensor | None) -> None:
    if not all(bool(torch.isfinite(part).all()) for part in (weight, peaks) if part is not None):
        raise InvalidConfiguration(
            "a linear layer has weights or inputs that are NaN or infinite, so int8 has no scale "
            "for it; check the base's files"
        )
