"""Which versions are to stay on every device, kept in storage so that new replicas know.

    pins/<base>/<task>/<version>.json    {"created": ...}

Knows nothing of replicas; each of them reads this for its base, and does what it says.
"""

from __future__ import annotations

from loraland.adapters.card import utc_now
from loraland.adapters.names import ModelName
from loraland.errors import InvalidName
from loraland.storage import Storage

FOLDER = "pins"


class Pins:
    """The pins in one storage. Reads and writes block."""

    def __init__(self, storage: Storage) -> None:
        """Keep them in `storage`."""
        self._storage = storage

    def add(self, name: ModelName) -> None:
        """Pin a version, from now on and on replicas to come."""
        self._storage.write_json(_path(name), {"created": utc_now()})

    def remove(self, name: ModelName) -> None:
        """Let it go; one that is not pinned is fine."""
        try:
            self._storage.delete(_path(name))
        except FileNotFoundError:
            return

    def of(self, base: str) -> list[ModelName]:
        """The pinned versions of a base, sorted."""
        found = []
        for path in self._storage.walk(f"{FOLDER}/{base}"):
            task, _, file = path.partition("/")
            try:
                found.append(ModelName(base, task, version=file.removesuffix(".json")))
            except InvalidName:
                continue  # something else that lies there
        return found


def _path(name: ModelName) -> str:
    return f"{FOLDER}/{name.base}/{name.task}/{name.version}.json"
