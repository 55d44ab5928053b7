"""The steps of a fit as tasks on the connected Ray cluster; the only module here that knows Ray.

The functions are those that run in-process, with the same seeds, so the strata are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayTaskError


def on_ray(
    function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], cpus: float = 1.0
) -> list[Any]:
    """Call a function once for each tuple of arguments, each call a task; results in that order.

    What several calls share travels once. Errors of a call are raised as they are. A Runner of
    `model.fit_strata`.
    """
    shipped: dict[int, Any] = {}

    def ship(value: Any) -> Any:
        if isinstance(value, int | float | str):
            return value
        if id(value) not in shipped:
            shipped[id(value)] = ray.put(value)
        return shipped[id(value)]

    task = ray.remote(num_cpus=cpus, max_retries=2)(_call)
    tasks = [task.remote(function, *map(ship, each)) for each in arguments]
    try:
        return list(ray.get(tasks))
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from None
        raise


def _call(function: Callable[..., Any], *values: Any) -> Any:
    # Arrays from the object store are read-only, and compiled loops may want to write.
    return function(
        *(np.array(value) if isinstance(value, np.ndarray) else value for value in values)
    )
