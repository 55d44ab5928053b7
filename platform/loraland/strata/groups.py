"""Which groups each way of training is robust over: group numbers from labels, strata or chance.

Pure numbers. The five ways stand side by side in every result: ERM knows no groups, superclass-GDRO
the labels, random-GDRO groups of the right sizes with the wrong members, GEORGE the strata that
were found, the oracle the true subclasses.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from loraland.errors import MetricUnavailable
from loraland.strata.features import Whole

Mode = Literal["erm", "superclass", "random", "george", "oracle"]
MODES: tuple[Mode, ...] = get_args(Mode)


def groups_of(
    mode: Mode,
    superclasses: Whole,
    *,
    strata: Whole | None = None,
    subclasses: Whole | None = None,
    seed: int = 0,
) -> Whole | None:
    """The group of each training or validation example: (n,), or None for ERM.

    Numbers of several splits belong together. Random groups keep the counts of the true subclasses
    within each superclass, or of the strata where no subclasses are known. Raises MetricUnavailable
    when a mode needs labels that are absent.
    """
    if mode == "erm":
        return None
    if mode == "superclass":
        return superclasses
    needed = {"george": strata, "oracle": subclasses}.get(mode)
    if mode == "random":
        needed = subclasses if subclasses is not None else strata
    if needed is None:
        raise MetricUnavailable(
            f"'{mode}' needs {'strata' if mode == 'george' else 'true subclasses'}, which these "
            f"examples do not have; possible without: erm, superclass"
        )
    return shuffled_within(superclasses, needed, seed) if mode == "random" else needed


def shuffled_within(superclasses: Whole, groups: Whole, seed: int) -> Whole:
    """The same groups dealt out at random within each superclass: (n,)."""
    draws, found = np.random.default_rng([seed, 2]), groups.copy()
    for one in np.unique(superclasses):
        members = np.flatnonzero(superclasses == one)
        found[members] = groups[draws.permutation(members)]
    return found


def numbered(groups: Whole, others: Whole) -> tuple[Whole, Whole]:
    """Two splits' groups as 0, 1, ... in the order of the first's numbers.

    For group DRO, where every group has training examples: one that only the second split has
    becomes -1 there, and is left out of its figures.
    """
    known = np.unique(groups)
    places = np.minimum(np.searchsorted(known, others), len(known) - 1)
    return (
        np.searchsorted(known, groups).astype(np.int64),
        np.where(known[places] == others, places, -1).astype(np.int64),
    )
