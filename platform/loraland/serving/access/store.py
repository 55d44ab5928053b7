"""Keys in storage: a file for each, written once, so that no two commands can lose one.

`access/keys/ID.json` is a key that holds. Revoking writes `access/revoked/ID.json` and then takes
the other away. Blocks on storage; knows no HTTP.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import ValidationError

from loraland.errors import InvalidConfiguration, StorageCorrupt, UnknownKey, did_you_mean
from loraland.serving.access.keys import KeyRecord, NewKey, make_key
from loraland.storage import Storage

KEYS, REVOKED = "access/keys", "access/revoked"
_FILE = re.compile(r"([0-9a-f]{16})\.json")


class Listed(NamedTuple):
    """A key of the store."""

    record: KeyRecord
    revoked: bool


class KeyStore:
    """The keys of one storage."""

    def __init__(self, storage: Storage) -> None:
        """Keep keys in `storage`."""
        self._storage = storage

    def create(self, name: str, **fields: object) -> NewKey:
        """Make a key and keep its record. Raises InvalidConfiguration with all that is wrong."""
        try:
            made = make_key(name, **fields)
        except ValidationError as error:
            wrong = [
                f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}"
                for e in error.errors(include_url=False, include_input=False)
            ]
            raise InvalidConfiguration("no such key can be: " + "; ".join(wrong)) from None
        self._storage.write_json(_path(KEYS, made.record.id), made.record.model_dump(mode="json"))
        return made

    def ids(self) -> frozenset[str]:
        """The ids of all keys that hold, by one listing."""
        return frozenset(self._ids(KEYS))

    def read(self, key_id: str) -> KeyRecord:
        """A key that holds. Raises FileNotFoundError, StorageCorrupt."""
        return self._read(KEYS, key_id)

    def listed(self) -> list[Listed]:
        """All keys, the oldest first; a revoked one is listed as such."""
        revoked, found = self._ids(REVOKED), []
        for folder, key_id in [
            *((REVOKED, key_id) for key_id in revoked),
            *((KEYS, key_id) for key_id in self._ids(KEYS) if key_id not in revoked),
        ]:
            try:
                found.append(Listed(self._read(folder, key_id), folder == REVOKED))
            except FileNotFoundError:
                continue  # revoked since it was listed
        return sorted(found, key=lambda one: (one.record.created, one.record.id))

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key; again is fine. Raises UnknownKey, StorageCorrupt."""
        held = self.ids()
        if key_id not in held:
            if key_id in self._ids(REVOKED):
                return self._read(REVOKED, key_id)
            raise UnknownKey(f"no key has the id '{key_id[:80]}'; {did_you_mean(key_id, held)}")
        record = self.read(key_id)
        self._storage.write_json(_path(REVOKED, key_id), record.model_dump(mode="json"))
        self._storage.delete(_path(KEYS, key_id))
        return record

    def _ids(self, folder: str) -> list[str]:
        names = (_FILE.fullmatch(name) for name in self._storage.names(folder))
        return [name[1] for name in names if name]

    def _read(self, folder: str, key_id: str) -> KeyRecord:
        path = _path(folder, key_id)
        try:
            record = KeyRecord.model_validate_json(self._storage.read(path))
        except ValueError:  # pydantic's own text would repeat what is in the file
            record = None
        if record is None or record.id != key_id:
            raise StorageCorrupt(
                f"{self._storage.describe(path)} is not the record of a key; delete the file and "
                "make a new key with `loraland keys create`"
            )
        return record


def _path(folder: str, key_id: str) -> str:
    return f"{folder}/{key_id}.json"
