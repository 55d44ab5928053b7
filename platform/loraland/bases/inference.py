"""Makes a loaded base ready to answer: whole weights in place of 4-bit ones, and fast products.

For inference only: afterwards the base passes no gradient on.
"""

from __future__ import annotations

from loraland.bases.expansion import expand_for_inference
from loraland.bases.int8 import quantise_for_inference
from loraland.bases.loading import LoadedBase
from loraland.bases.products import speed_up


def prepare_for_inference(base: LoadedBase, *, int8: bool = False) -> None:
    """Give a base the fastest products that there are for it; with `int8`, coarser ones on a CPU.

    Raises InvalidConfiguration for int8 where it cannot be.
    """
    expand_for_inference(base)
    if int8:
        quantise_for_inference(base)
    else:
        speed_up(base)
