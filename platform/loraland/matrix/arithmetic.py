"""Which matrix products a run trains on: a part of its key, the same from first update to last.

The kind of device and processor decides (`training/products.py`), so that a run that was begun on
one kind of machine is not gone on with on another kind, whose sums are rounded otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import bitsandbytes
import torch

from loraland.bases.loading import LoadedBase
from loraland.errors import NotEnoughMemory
from loraland.matrix.cell import Loop
from loraland.training.products import fast_products, has_fast_products

Products = Literal["torch", "onednn"]


def products_on(device: str | None, loop: Loop) -> Products:
    """What a loop multiplies with on a device; None: a GPU where there is one, as for a base.

    The workers of a parallel run keep torch's own.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return "onednn" if loop != "parallel" and has_fast_products(place) else "torch"


@contextmanager
def training_products(base: LoadedBase) -> Iterator[None]:
    """A base on the products that `products_on` told of, inside the block.

    Raises NotEnoughMemory where 4-bit weights would have to be written out and cannot be: they
    would be multiplied by torch, and how much memory is free must not change a result.
    """
    with fast_products(base) as faster:
        if faster and _has_four_bits(base):
            needed = 4 * base.entry.parameters / 1e9
            raise NotEnoughMemory(
                f"base '{base.entry.name}' is trained here with its 4-bit weights written out, "
                f"which takes about {needed:.1f} GB more than is free; use a larger machine, a "
                "smaller base or a GPU, or run fewer trials at a time (--cpus)"
            )
        yield


def _has_four_bits(base: LoadedBase) -> bool:
    return any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in base.model.modules())
