"""Measures whether a group of runs is faster fused than one after the other, before it is decided.

A few updates each way, on the real examples; nothing of them is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from loraland.adapters.card import CurvePoint
from loraland.bases.loading import LoadedBase
from loraland.errors import LoraLandError
from loraland.training.fused import train_fused
from loraland.training.fused_member import FusedMember
from loraland.training.loop import train

SIZES = (4, 8)  # group sizes that are tried
PLAIN_RUNS = 2  # members that are measured alone
UPDATES = 3  # of each run: the first warms up, the last also evaluates, those between count
WORTH = 1.05  # times the plain loop's speed; a smaller gain is within what a probe can tell


class Gain(NamedTuple):
    """What a probe found."""

    plain_tps: float  # trained tokens (prompts included) per second, one run alone
    fused_tps: dict[int, float]  # the same of all members together, by group size

    @property
    def slots(self) -> int:
        """The group size that is fastest, 1 when fusing does not pay."""
        best = max(self.fused_tps, key=lambda size: self.fused_tps[size], default=1)
        pays = best > 1 and self.fused_tps[best] > WORTH * self.plain_tps
        return best if pays else 1

    def __str__(self) -> str:
        sizes = ", ".join(f"{tps:.0f} with {size}" for size, tps in sorted(self.fused_tps.items()))
        verdict = f"fusing {self.slots} pays" if self.slots > 1 else "fusing does not pay"
        return f"trained tokens/s: {self.plain_tps:.0f} alone, fused {sizes or 'none'}; {verdict}"


def measure_gain(
    base: LoadedBase, members: Sequence[FusedMember], sizes: Sequence[int] = SIZES
) -> Gain:
    """Train copies of the first members for a few updates, alone and in groups.

    Sizes above the number of members become that number. Raises what a member's training raises.
    """
    sizes = sorted({min(size, len(members)) for size in sizes} - {1})
    with tempfile.TemporaryDirectory(prefix="loraland-") as place:
        probes = [_probe(member, Path(place)) for member in members]
        alone = [_alone(base, probe) for probe in probes[:PLAIN_RUNS]]
        fused = {size: _together(base, probes[:size]) for size in sizes}
    return Gain(sum(tokens for tokens, _ in alone) / sum(s for _, s in alone), fused)


def _probe(member: FusedMember, place: Path) -> FusedMember:
    """The member's first updates, without its checkpoints and its reports."""
    changes: dict[str, Any] = {
        "examples_seen": UPDATES * member.recipe.examples_per_update,
        "max_epochs": None,
        "evaluate_every": UPDATES,
        "patience": UPDATES,
    }
    return replace(
        member,
        validation=member.validation[:1],
        recipe=member.recipe.model_copy(update=changes),
        folder=place / member.name.replace("/", "-"),
        checkpoints=None,
        on_update=None,
    )


def _alone(base: LoadedBase, probe: FusedMember) -> tuple[int, float]:
    trained = train(
        base, probe.training, probe.validation, probe.recipe, probe.folder, seed=probe.seed
    )
    return _measured(trained.curve)


def _together(base: LoadedBase, probes: Sequence[FusedMember]) -> float:
    outcomes = train_fused(base, probes, slots=len(probes)).values()
    measured = []
    for outcome in outcomes:
        if isinstance(outcome, LoraLandError):
            raise outcome
        measured.append(_measured(outcome.curve))
    return sum(tokens for tokens, _ in measured) / max(seconds for _, seconds in measured)


def _measured(curve: Sequence[CurvePoint]) -> tuple[int, float]:
    """(tokens, seconds) of the updates that count; a tiny data set may have but one."""
    first, last = (curve[0], curve[-2]) if len(curve) > 2 else (None, curve[-1])
    tokens = last.tokens - (first.tokens if first else 0)
    seconds = last.seconds - (first.seconds if first else 0.0)
    return tokens, max(seconds, 1e-3)
