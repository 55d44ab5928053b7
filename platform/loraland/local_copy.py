"""Folders of this machine that can be made again, shared by its processes.

A copy appears whole or not at all; processes that want the same one at the same moment wait for
one of them to make it, and a process killed meanwhile leaves nothing that another would take for
a copy. Knows nothing of what is in them.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def local_copy(
    place: Path, *, is_good: Callable[[Path], bool], fill: Callable[[Path], None]
) -> Path:
    """Make sure that a good copy lies at `place`, and return it.

    `fill` writes the copy into an empty folder beside it and raises when it cannot be made;
    `place` is then as it was. A copy that is not good is replaced. Only local disks are meant:
    the lock is the system's.
    """
    if is_good(place):
        return place
    with _alone(place.with_name(f".{place.name}.lock")):
        if is_good(place):
            return place
        temporary = place.with_name(f".{place.name}.tmp")  # the lock's holder is its only user
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            fill(temporary)
            if place.exists():
                shutil.rmtree(place)
            temporary.rename(place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return place


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock between processes and threads; the system frees it when its holder dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
