"""The registry of adapters: versions by content, names as aliases, on any storage.

The card of a version is its manifest: written last and deleted first, so a version without a card
does not exist. There is no index and no lock; every answer is read from storage. Loads no weights
into any model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from loraland.adapters import layout
from loraland.adapters.admission import Limits, examine
from loraland.adapters.card import Card
from loraland.adapters.folder import (
    CARD,
    CONFIG,
    MAX_CARD_BYTES,
    MAX_CONFIG_BYTES,
    MAX_WEIGHTS_BYTES,
    WEIGHTS,
    canonical_config,
    content_hash,
    hash_content,
    read_config,
    read_limited,
    version_of,
)
from loraland.adapters.names import LATEST, ModelName, is_part, is_version
from loraland.adapters.strict_json import parse_object
from loraland.errors import (
    AdapterProtected,
    AdapterRejected,
    InvalidName,
    StorageCorrupt,
    UnknownModel,
    did_you_mean,
)
from loraland.local_copy import local_copy
from loraland.storage import Storage

_READERS = 16  # files read at once: on an object store each is a round trip

Key = TypeVar("Key")
Value = TypeVar("Value")
OnCorrupt = Callable[[StorageCorrupt], None]


class Entry(NamedTuple):
    """One version in the registry."""

    name: ModelName  # with its version
    card: Card
    aliases: tuple[str, ...]  # that point at it, sorted


class Registry:
    """Publishes, finds and fetches adapters. Many processes and threads may use one at once."""

    def __init__(self, storage: Storage, limits: Limits | None = None) -> None:
        """Keep adapters in `storage`; `limits` bound what may be published."""
        self.storage = storage
        self.limits = limits or Limits()

    def publish(self, folder: Path, card: Card, aliases: Iterable[str] = (LATEST,)) -> ModelName:
        """Store an adapter folder with its card, point the aliases at it, return its name.

        The stored configuration is canonical and names the card's hub id as its base, so no path
        of this machine is published. Publishing the same content again gives the same version:
        damaged files are repaired, the first card stays, and the scores of the new one are added
        to it. Killed at any moment, either the whole version is there or none of it. Raises
        AdapterRejected, and InvalidName for an illegal alias; nothing is written then.
        """
        wanted = [_legal_alias(alias) for alias in aliases]
        name = card.name
        examine(folder, self.limits, name=str(name))
        config, weights = read_config(folder), read_limited(folder, WEIGHTS, MAX_WEIGHTS_BYTES)
        found = version_of(hash_content(config, weights))
        if found != card.version:
            raise AdapterRejected(
                f"adapter '{name}' has content {found}; its card must name that version"
            )
        known = self._usable_card(name)
        if known is not None:
            _require_same(known, card)
        if known is None or not self._is_whole(name):
            settled = canonical_config(config, card.hub_id or None)
            self.storage.write(layout.version_file(name, WEIGHTS), weights)
            self.storage.write(layout.version_file(name, CONFIG), settled)
        self._write_manifest(name, card)
        for alias in wanted:
            self._point(name, alias)
        return name

    def list(self, on_corrupt: OnCorrupt | None = None) -> list[Entry]:
        """Every version with its card and aliases, sorted by adapter and time of creation.

        A damaged card or alias raises StorageCorrupt; with `on_corrupt` the error is handed over
        and the rest is listed.
        """
        index = layout.index(self.storage.walk(layout.ROOT))
        names = [name.at(version) for name, found in index.items() for version in found.versions]
        pairs = [(name, alias) for name, found in index.items() for alias in found.aliases]
        cards = _read_all(self._card_if_any, names, on_corrupt)
        pointed = _read_all(lambda pair: self._pointed_at(*pair), pairs, on_corrupt)
        aliases: dict[ModelName, list[str]] = {}
        for (name, alias), version in sorted(pointed.items(), key=lambda item: item[0][1]):
            aliases.setdefault(name.at(version), []).append(alias)
        entries = [Entry(name, card, tuple(aliases.get(name, ()))) for name, card in cards.items()]
        return sorted(entries, key=lambda entry: (entry.name.adapter, entry.card.created))

    def find(self, name: str | ModelName) -> ModelName | None:
        """The version that a name stands for now, None when there is none; a base alone has none.

        Two small reads and no listing, whatever the registry holds. Raises InvalidName,
        StorageCorrupt.
        """
        asked = _as_name(name)
        if asked.task is None:
            return None
        version = asked.version or self._pointed_at(asked, asked.alias or LATEST)
        if version is None or not self._has_card(asked.at(version)):
            return None
        return asked.at(version)

    def resolve(self, name: str | ModelName) -> ModelName:
        """As `find`, but a name that stands for nothing is an error, told with what is near it.

        Raises InvalidName, StorageCorrupt, and UnknownModel naming the nearest, which costs a
        listing.
        """
        asked = _as_name(name)
        found = self.find(asked)
        if found is not None:
            return found
        what = (
            f"'{asked}' is a base, not an adapter"
            if asked.task is None
            else f"no adapter '{asked}' in {self.storage.uri}"
        )
        raise UnknownModel(f"{what}; {self._nearest(asked)}")

    def card(self, name: str | ModelName) -> Card:
        """The card of an adapter. Raises InvalidName, UnknownModel, StorageCorrupt."""
        resolved = self.resolve(name)
        card = self._card_if_any(resolved)
        if card is None:
            raise UnknownModel(f"adapter '{resolved}' was deleted just now")
        return card

    def put_card(self, name: str | ModelName, card: Card) -> None:
        """Replace the card of a version, for one to add scores. The last of two writers wins.

        Raises UnknownModel, and AdapterRejected when the card tells of another adapter.
        """
        _require_same(self.card(name), card)
        self.storage.write(layout.version_file(card.name, CARD), card.to_json())

    def aliases(self, base: str, task: str) -> dict[str, str]:
        """The aliases of an adapter with their versions; empty when there is none."""
        adapter = ModelName(base, task)
        files = self.storage.names(layout.alias_folder(adapter))
        names = [file.removesuffix(".json") for file in files if file.endswith(".json")]
        return _read_all(lambda alias: self._pointed_at(adapter, alias), names, None)

    def alias(self, name: str | ModelName, alias: str) -> ModelName:
        """Make or move an alias to the version that `name` stands for; return that version.

        Raises InvalidName for an illegal alias, UnknownModel.
        """
        legal, resolved = _legal_alias(alias), self.resolve(name)
        self._point(resolved, legal)
        return resolved

    def unalias(self, name: str | ModelName) -> None:
        """Remove an alias, given as BASE/TASK:ALIAS; its version stays.

        Raises InvalidName when no alias is named, UnknownModel when there is none of that name.
        """
        asked = _as_name(name)
        if asked.alias is None:
            raise InvalidName(f"'{asked}' names no alias; write BASE/TASK:ALIAS")
        path = layout.alias_file(asked, asked.alias)
        if not self.storage.exists(path):
            raise UnknownModel(f"no alias '{asked}'; {self._nearest(asked)}")
        self.storage.delete(path)

    def delete(self, name: str | ModelName) -> None:
        """Delete one version, given as BASE/TASK@VERSION. A killed delete leaves no half version.

        Raises InvalidName when no version is named, UnknownModel, and AdapterProtected while an
        alias points at it.
        """
        asked = _as_name(name)
        if asked.task is None or asked.version is None:
            raise InvalidName(f"'{asked}' names no version; write BASE/TASK@VERSION to delete one")
        resolved = self.resolve(asked)
        aliases = self.aliases(asked.base, asked.task)
        needed = [f":{alias}" for alias, version in aliases.items() if version == asked.version]
        if needed:
            raise AdapterProtected(
                f"'{resolved}' is what {', '.join(needed)} of '{resolved.adapter}' points at; "
                "move or remove the alias first"
            )
        self.storage.delete(layout.version_file(resolved, CARD))
        self.storage.delete_folder(layout.version_folder(resolved))

    def fetch(self, name: str | ModelName, into: Path) -> Path:
        """A local PEFT folder of an adapter: `into/<base>/<task>/<version>`.

        The content hash is checked, for a copy that is there already as well; a good one is used
        again, with the card as it was when the copy was made. Any number of processes may fetch
        at once. Raises UnknownModel, StorageCorrupt; `into` then holds no copy of it.
        """
        resolved = self.resolve(name)
        version = str(resolved.version)

        def fill(folder: Path) -> None:
            for file, content in self._verified(resolved).items():
                (folder / file).write_bytes(content)

        def is_good(folder: Path) -> bool:
            return (folder / CARD).is_file() and _local_version(folder) == version

        place = Path(into) / resolved.adapter / version
        return local_copy(place, is_good=is_good, fill=fill)

    def _verified(self, name: ModelName) -> dict[str, bytes]:
        """The files of a version, by name. Raises StorageCorrupt when they are not what it says."""
        files = {
            CONFIG: self._read(name, CONFIG, MAX_CONFIG_BYTES),
            WEIGHTS: self._read(name, WEIGHTS, MAX_WEIGHTS_BYTES),
            CARD: self._read(name, CARD, MAX_CARD_BYTES),
        }
        self._parse_card(name, files[CARD])
        try:
            found = version_of(hash_content(parse_object(files[CONFIG]), files[WEIGHTS]))
        except ValueError as error:
            raise self._corrupt(name, CONFIG, str(error)) from error
        if found != name.version:
            raise self._corrupt(name, WEIGHTS, f"with its {CONFIG} has content {found}")
        return files

    def _is_whole(self, name: ModelName) -> bool:
        try:
            self._verified(name)
        except StorageCorrupt:
            return False
        return True

    def _read(self, name: ModelName, file: str, max_bytes: int) -> bytes:
        path = layout.version_file(name, file)
        try:
            size = self.storage.size_bytes(path)
            if size > max_bytes:
                raise self._corrupt(name, file, f"has {size} bytes, at most {max_bytes} are read")
            return self.storage.read(path)
        except FileNotFoundError:
            raise self._corrupt(name, file, "is missing") from None

    def _corrupt(self, name: ModelName, file: str, what: str) -> StorageCorrupt:
        place = self.storage.describe(layout.version_file(name, file))
        return StorageCorrupt(
            f"adapter '{name}' is damaged: {place} {what}; publish it again, or delete it"
        )

    def _has_card(self, name: ModelName) -> bool:
        return self.storage.exists(layout.version_file(name, CARD))

    def _card_if_any(self, name: ModelName) -> Card | None:
        """The card of a version, None when there is none. Raises StorageCorrupt."""
        try:
            content = self.storage.read(layout.version_file(name, CARD))
        except FileNotFoundError:
            return None
        return self._parse_card(name, content)

    def _usable_card(self, name: ModelName) -> Card | None:
        """The card of a version, None when there is none or publishing must replace it."""
        try:
            return self._card_if_any(name)
        except StorageCorrupt:
            return None

    def _parse_card(self, name: ModelName, content: bytes) -> Card:
        try:
            card = Card.from_json(content)
        except ValueError as error:
            raise self._corrupt(name, CARD, f"is no valid card: {error}") from error
        if card.name != name:
            raise self._corrupt(name, CARD, f"is the card of '{card.name}'")
        return card

    def _write_manifest(self, name: ModelName, card: Card) -> None:
        """Make the version exist. A card that is there stays, with the new one's scores added."""
        known = self._usable_card(name)
        merged = known or card
        for score in card.scores:
            merged = merged.with_score(score)
        if merged != known:
            self.storage.write(layout.version_file(name, CARD), merged.to_json())

    def _point(self, name: ModelName, alias: str) -> None:
        self.storage.write_json(layout.alias_file(name, alias), {"version": name.version})

    def _pointed_at(self, adapter: ModelName, alias: str) -> str | None:
        """The version of an alias, None when there is no such alias. Raises StorageCorrupt."""
        path = layout.alias_file(adapter, alias)
        try:
            content: Any = self.storage.read_json(path)
        except FileNotFoundError:
            return None
        except ValueError:
            content = None
        version = content.get("version") if isinstance(content, dict) else None
        if not isinstance(version, str) or not is_version(version):
            raise StorageCorrupt(
                f"alias file {self.storage.describe(path)} names no version; point the alias anew"
            )
        return version

    def _nearest(self, asked: ModelName) -> str:
        """A clause that names what the registry has instead."""
        index = layout.index(self.storage.walk(layout.ROOT))
        same = index.get(ModelName(asked.base, asked.task)) if asked.task else None
        if same is None or not same.versions:
            known = [name.adapter for name, found in index.items() if found.versions]
            return did_you_mean(asked.adapter, known)
        others = [ModelName(asked.base, asked.task, alias) for alias in same.aliases]
        others += [ModelName(asked.base, asked.task, version=version) for version in same.versions]
        return did_you_mean(str(asked), [str(name) for name in others if name != asked])


def _read_all(
    read: Callable[[Key], Value | None], keys: Iterable[Key], on_corrupt: OnCorrupt | None
) -> dict[Key, Value]:
    """What `read` gives for each key, many at once; keys that vanished meanwhile are left out."""

    def attempt(key: Key) -> tuple[Key, Value | StorageCorrupt | None]:
        try:
            return key, read(key)
        except StorageCorrupt as error:
            return key, error

    found: dict[Key, Value] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        for key, result in pool.map(attempt, keys):
            if not isinstance(result, StorageCorrupt):
                if result is not None:
                    found[key] = result
            elif on_corrupt is None:
                raise result
            else:
                on_corrupt(result)
    return found


def _as_name(name: str | ModelName) -> ModelName:
    return ModelName.parse(name) if isinstance(name, str) else name


def _legal_alias(alias: str) -> str:
    if not is_part(alias):
        raise InvalidName(
            f"'{alias[:80]}' cannot be an alias; use lower-case letters, digits, '.', '_' and '-'"
        )
    return alias


def _require_same(known: Card, card: Card) -> None:
    """Two cards must tell of one adapter on one base."""
    if (known.name, known.base_fingerprint) != (card.name, card.base_fingerprint):
        raise AdapterRejected(
            f"the card is of '{card.name}' on base {card.base_fingerprint[:12]}, "
            f"the registry's is of '{known.name}' on base {known.base_fingerprint[:12]}; "
            "only a card of the same adapter may replace it"
        )


def _local_version(folder: Path) -> str | None:
    """The version of what lies in a local folder, None when it is no whole adapter folder."""
    try:
        return version_of(content_hash(folder))
    except (AdapterRejected, FileNotFoundError):
        return None
