"""Which models a load test asks, and how often each. Names and shares; knows no time and no server.

Popularity is uniform or Zipf's: the model of rank k is asked in proportion to 1 / k^s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from loraland.errors import InvalidConfiguration

MOST_MODELS = 10_000
MOST_EXPONENT = 5.0  # of Zipf; beyond it practically one model is asked


@dataclass(frozen=True, slots=True)
class Mix:
    """Models, the most popular first, with the share of requests that each gets."""

    models: tuple[str, ...]
    shares: tuple[float, ...]  # of the same length; they add up to 1

    @classmethod
    def of(cls, models: Sequence[str], zipf: float = 0.0) -> Mix:
        """All of `models` by Zipf's law with exponent `zipf`; 0 is uniform.

        Raises InvalidConfiguration for no models, too many, the same one twice, or an exponent out
        of range.
        """
        if not 1 <= len(models) <= MOST_MODELS or len(set(models)) < len(models):
            raise InvalidConfiguration(
                f"a load test asks 1 to {MOST_MODELS} models, each named once; "
                f"{len(models)} were given, {len(set(models))} of them different"
            )
        if not 0 <= zipf <= MOST_EXPONENT:
            raise InvalidConfiguration(
                f"the exponent of Zipf's law is {zipf:g}; give 0 (uniform) to {MOST_EXPONENT:g}"
            )
        weights = [rank**-zipf for rank in range(1, len(models) + 1)]
        total = sum(weights)
        return cls(tuple(models), tuple(weight / total for weight in weights))

    def draw(self, chance: Random) -> str:
        """A model, as likely as its share."""
        [model] = chance.choices(self.models, cum_weights=list(accumulate(self.shares)))
        return model

    def first(self, count: int) -> Mix:
        """The `count` most popular models alone, with shares in the same proportion."""
        kept = self.shares[:count]
        return Mix(self.models[:count], tuple(share / sum(kept) for share in kept))
