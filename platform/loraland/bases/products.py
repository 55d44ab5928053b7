"""Linear layers of a CPU base with the fastest fp32 products that torch ships.

torch multiplies fp32 matrices with MKL, which is slow on processors that are not Intel's, and uses
one thread for a single token. oneDNN, in the same wheel, takes 0.4 of the time on an AMD EPYC
(benchmarks/products.py). The same arithmetic in another order; for inference only, no gradients.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import psutil
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from loraland.bases.loading import LoadedBase

logger = logging.getLogger(__name__)

SAMPLE_TOKENS = 32  # of the product that decides; a full batch that generates
SMALLEST = 1 << 16  # weights of a layer; below, the call costs more than the product
WORTH = 0.9  # of the plain product's time; a smaller gain is not worth the memory


class InferenceLinear(nn.Linear):
    """`nn.Linear` in fp32 on a CPU: oneDNN, or for a single token one product per thread."""

    def __init__(self, plain: nn.Linear, blocked: bool = True) -> None:
        """`blocked` keeps a second copy of the weights in the layout that oneDNN likes best."""
        has_bias = plain.bias is not None
        super().__init__(plain.in_features, plain.out_features, has_bias, device="meta")
        self.weight, self.bias = plain.weight, plain.bias
        weight = plain.weight.detach()
        with torch.inference_mode():
            self._blocked = _blocked(weight) if blocked else weight
        parts = next(n for n in (8, 4, 2, 1) if plain.out_features % n == 0)
        self._parts = weight.view(parts, -1, plain.in_features).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        rows = x.reshape(-1, self.in_features)
        if rows.shape[0] != 1:
            y = onednn(rows, self._blocked, self.bias)
        else:
            y = torch.bmm(rows.expand(self._parts.shape[0], 1, -1), self._parts).view(1, -1)
            if self.bias is not None:
                y += self.bias
        return y.view(*x.shape[:-1], self.out_features)


# What torch's own compiler calls for a linear layer with constant weights.
def _blocked(weight: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, SAMPLE_TOKENS)
    return found


def onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (rows, in), weight (out, in), plain or blocked -> (rows, out); passes no gradient on."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def speed_up(base: LoadedBase) -> bool:
    """Replace the fp32 linear layers of a CPU base where that pays; say whether it did.

    Takes as much memory again as these layers where that is to be had. Changes nothing on a GPU, or
    where the plain product is as fast.
    """
    layers = [
        (parent, name, child)
        for parent in base.model.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear
        and child.weight.dtype == torch.float32
        and child.weight.numel() >= SMALLEST
    ]
    if base.device.type != "cpu" or not layers or not has_onednn():
        return False
    if not _pays(max((child for _, _, child in layers), key=lambda child: child.in_features)):
        return False
    needed = sum(child.weight.nbytes for _, _, child in layers)
    blocked = needed < psutil.virtual_memory().available // 2
    if not blocked:
        logger.info("base %s: no memory for a second copy of its weights", base.entry.name)
    for parent, name, child in layers:
        setattr(parent, name, InferenceLinear(child, blocked).eval())
    return True


def has_onednn() -> bool:
    """Whether torch brings the products of `onednn`."""
    found: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    ops = ("_linear_pointwise", "_reorder_linear_weight")
    return found and all(hasattr(torch.ops.mkldnn, name) for name in ops)


@torch.inference_mode()
def _pays(layer: nn.Linear) -> bool:
    x = torch.ones(SAMPLE_TOKENS, layer.in_features)
    blocked = _blocked(layer.weight.detach())
    return _seconds(lambda: onednn(x, blocked)) < WORTH * _seconds(lambda: linear(x, layer.weight))


def _seconds(product: Callable[[], Tensor], repeats: int = 15) -> float:
    """The shortest of several runs, which other work on the machine disturbs least."""
    best = float("inf")
    for _ in range(repeats):
        begun = time.perf_counter()
        product()
        best = min(best, time.perf_counter() - begun)
    return best
