"""Remembers what was made of files, as long as these are what they were. Many threads may ask.

Knows nothing of what is made; a file is known by its size and the time of its last change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from pyarrow import fs

from loraland.storage import Storage

T = TypeVar("T")


class FileState(NamedTuple):
    """By which a file is known to be what it was."""

    folder: str  # the name of the one that it lies in
    name: str
    size_bytes: int
    mtime_ns: int


def listed(storage: Storage, folder: str) -> tuple[FileState, ...]:
    """All files below a folder, by one listing; none when it is absent."""
    place = storage.locate(folder)
    return _told(storage, fs.FileSelector(place, allow_not_found=True, recursive=True))


def states(storage: Storage, paths: Sequence[str]) -> tuple[FileState, ...]:
    """Some files; one that is absent has the size 0."""
    return _told(storage, [storage.locate(path) for path in paths])


def _told(storage: Storage, asked: Any) -> tuple[FileState, ...]:
    infos = storage.filesystem.get_file_info(asked)
    return tuple(
        sorted(
            FileState(info.path.split("/")[-2], info.base_name, info.size or 0, info.mtime_ns or 0)
            for info in infos
        )
    )


class Kept(Generic[T]):
    """The newest of each name, for some names.

    Two threads that ask for the same at once may both make it; no other waits for them.
    """

    def __init__(self, most: int) -> None:
        """Keep at most so many; the one that was not asked for the longest goes first."""
        self._most, self._lock = most, threading.Lock()
        self._known: OrderedDict[str, tuple[Hashable, T]] = OrderedDict()

    def get(self, name: str, state: Hashable, make: Callable[[], T]) -> T:
        """What was made under that name of that state; made now when it is another."""
        with self._lock:
            known = self._known.get(name)
            if known is not None and known[0] == state:
                self._known.move_to_end(name)
                return known[1]
        made = make()
        with self._lock:
            self._known[name] = (state, made)
            self._known.move_to_end(name)
            while len(self._known) > self._most:
                self._known.popitem(last=False)
        return made
