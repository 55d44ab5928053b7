"""Makes the engine of a base: the batched one, or the plain one where that is asked for or needed.

Told the bounds; knows no configuration file and no caller.
"""

from __future__ import annotations

import logging
from typing import Literal

from loraland.bases.loading import LoadedBase
from loraland.engine.batched import BatchedEngine
from loraland.engine.canary import EXACT, Tolerance
from loraland.engine.reference import ReferenceEngine
from loraland.engine.settings import EngineLimits
from loraland.errors import BaseUnavailable

logger = logging.getLogger(__name__)

EngineKind = Literal["batched", "reference", "any"]  # any: reference where batched cannot run


def make_engine(
    base: LoadedBase,
    limits: EngineLimits,
    *,
    kind: EngineKind = "batched",
    tolerance: Tolerance = EXACT,
) -> BatchedEngine | ReferenceEngine:
    """An engine over a base that is ready for inference. Of the limits, reference heeds two.

    Those are `rows` and `waiting`. Raises BaseUnavailable when `kind` is batched and the base
    cannot attend over blocks.
    """
    if kind != "reference":
        try:
            return BatchedEngine.of(base, limits, tolerance)
        except BaseUnavailable as error:
            if kind == "batched":
                raise
            logger.info("the reference engine takes over: %s", error.message)
    return ReferenceEngine.of(base, max_batch=limits.rows, max_waiting=limits.waiting)
