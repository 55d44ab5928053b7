"""Keeps one team of OpenMP threads where a second would slow both down.

libgomp keeps a team of threads for every thread that ever ran a parallel loop. As soon as all teams
together have more threads than the machine has cores, waiting threads no longer spin: each of the
thousand small loops of a forward pass then pays for waking them, a third of the pass on 2 cores.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path

_SOFT = 1  # omp_pause_soft of OpenMP 5.0, section 3.2.43: give threads back, keep settings


def release_team() -> None:
    """Give back the team of the calling thread; it gets a new one when it needs it.

    To be called in a thread that has done its parallel work, before another thread does the rest.
    Does nothing where the runtime is not libgomp.
    """
    if (pause := _pause()) is not None:
        pause(_SOFT)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    except OSError:
        return None
    paths = {line.split(maxsplit=5)[-1] for line in maps.splitlines() if "libgomp" in line}
    for path in sorted(paths):
        try:
            pause: Callable[[int], int] = ctypes.CDLL(path).omp_pause_resource_all
        except (OSError, AttributeError):
            continue
        return pause
    return None
