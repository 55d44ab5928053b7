"""Whether a loaded adapter is the one that its card describes: its first logits on a known prompt.

An adapter that was mapped to wrong layers, scaled wrongly or not applied at all computes other
logits, and would give wrong answers that nobody notices. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loraland.adapters.card import Canary
from loraland.errors import AdapterRejected


class Tolerance(NamedTuple):
    """How far logits may lie from the card's."""

    share: float  # of the adapter's own effect, the largest change of the logits on the card
    floor: float  # absolute, for rounding where the effect is small

    def allowed(self, canary: Canary) -> float:
        """The largest difference that is still the same adapter."""
        effect = max(
            abs(adapter - base)
            for adapter, base in zip(canary.logits, canary.base_logits, strict=True)
        )
        return self.share * effect + self.floor


# The same arithmetic on another machine, and a coarser one than the card's.
EXACT = Tolerance(share=0.05, floor=0.02)
COARSE = Tolerance(share=0.3, floor=0.5)


def require_canary(
    version: str, canary: Canary, logits: Sequence[float], tolerance: Tolerance
) -> None:
    """Raises AdapterRejected unless `logits`, at the card's `top_ids`, are those of the card."""
    found = max(abs(ours - card) for ours, card in zip(logits, canary.logits, strict=True))
    allowed = tolerance.allowed(canary)
    if not found <= allowed:  # also NaN
        raise AdapterRejected(
            f"adapter '{version}' does not compute what its card says: on the canary prompt its "
            f"logits are off by {found:.3g}, {allowed:.3g} is allowed; its files, the base or the "
            "scaling are not those it was trained with; publish it again"
        )
