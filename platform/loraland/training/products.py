"""oneDNN's products for the frozen linear layers of a CPU base while it is trained on.

As `bases.products` does for inference: MKL, with which torch multiplies, is slow on processors that
are not Intel's. Frozen weights need one product forwards and one backwards, and no gradient of
their own. The same arithmetic in another order; the layers are put back afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from loraland.bases.expansion import expand_for_inference
from loraland.bases.loading import LoadedBase
from loraland.bases.products import SMALLEST, has_onednn, onednn


class FrozenLinear(nn.Linear):
    """`nn.Linear` in fp32 on a CPU whose weights are constants, with oneDNN's products."""

    def __init__(self, plain: nn.Linear) -> None:
        has_bias = plain.bias is not None
        super().__init__(plain.in_features, plain.out_features, has_bias, device="meta")
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out); the gradient reaches x alone."""
        rows = x.reshape(-1, self.in_features)
        y: Tensor = _FrozenProduct.apply(  # type: ignore[no-untyped-call]
            rows, self.weight, self.bias
        )
        # As torch's own linear does: nobody holds y, so its new shape need not count as a view,
        # into which adapters could not add in place.
        shaped: Tensor = torch.ops.aten._unsafe_view(y, [*x.shape[:-1], self.out_features])
        return shaped


class _FrozenProduct(torch.autograd.Function):
    """y = x W^T + b forwards, dx = dy W backwards."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.weight = weight  # a constant: nothing need watch it for changes
        return onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        # oneDNN takes the transposed view as it is, at the speed of a copy.
        wanted = ctx.needs_input_grad[0]
        return (onednn(gradients[0].contiguous(), ctx.weight.t()) if wanted else None), None, None


def has_fast_products(device: torch.device) -> bool:
    """Whether `fast_products` changes the arithmetic of training there; always the same answer."""
    return device.type == "cpu" and has_onednn() and _mkl_is_slow()


@contextmanager
def fast_products(base: LoadedBase) -> Iterator[bool]:
    """A base that trains faster inside the block, where that can be; whether it does.

    4-bit layers are expanded to the fp32 numbers they stand for, where memory suffices. What
    decides is the kind of processor and never a measurement, so that a run that is killed and
    started again goes on with the same arithmetic. Changes nothing on a GPU or in bf16.
    """
    if not has_fast_products(base.device):
        yield False
        return
    found = [
        (parent, name, child)
        for parent in base.model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
    ]
    expand_for_inference(base)
    for parent, name, _ in found:
        child = getattr(parent, name)
        if _can_replace(child):
            setattr(parent, name, FrozenLinear(child).train(child.training))
    try:
        yield True
    finally:
        for parent, name, child in found:
            setattr(parent, name, child)


def _can_replace(layer: nn.Module) -> bool:
    return (
        type(layer) is nn.Linear
        and layer.weight.dtype == torch.float32
        and layer.weight.numel() >= SMALLEST
        and not layer.weight.requires_grad
    )


def _mkl_is_slow(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this is a processor that MKL was not made for."""
    try:
        return "AuthenticAMD" in cpuinfo.read_text()
    except OSError:
        return False
