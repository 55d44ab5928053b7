"""Brings an adapter into the registry from a place that the allow-list covers.

Its three files are read whole and within limits, held against the base on a replica that serves it
(shapes, precision, fingerprint, canary), and only then published: what was checked is what is
stored. Follows no link out of a place, and runs nothing that it finds.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loraland.adapters.card import Card
from loraland.adapters.folder import (
    CARD,
    CONFIG,
    MAX_CARD_BYTES,
    MAX_CONFIG_BYTES,
    WEIGHTS,
)
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import AdapterRejected, LoraLandError, SourceUnavailable
from loraland.serving.fleet import Fleet
from loraland.serving.sources import Place, Sources, is_within
from loraland.storage import Storage

logger = logging.getLogger(__name__)

# It passes through memory on its way to a replica; adapters of rank 64 for 70B have less.
MAX_WEIGHTS_BYTES = 2 << 30
HUB_CACHE: str | None = None  # the hub's own choice, HF_HOME
FILES = {CONFIG: MAX_CONFIG_BYTES, WEIGHTS: MAX_WEIGHTS_BYTES, CARD: MAX_CARD_BYTES}
NO_CARD = (
    f"has no {CARD}, and without one nobody knows which weights of which base it was trained on, "
    "for what task and at what precision, nor how to tell that it computes what it should. Publish "
    "it from where it was trained, with a card that holds base, base_fingerprint, precision, task, "
    "version, data and a canary (`loraland.training.effect.measure_canary` makes one)"
)


class Intake:
    """Takes in one adapter at a time."""

    def __init__(
        self, sources: Sources, registry: Registry, bases: Sequence[str], fleet: Fleet
    ) -> None:
        """Read from `sources` into `registry` what is for one of `bases`."""
        self._sources, self._registry = sources, registry
        self._bases, self._fleet = tuple(bases), fleet
        self._turn = asyncio.Lock()

    async def bring_in(self, address: str, aliases: Sequence[str] = ()) -> ModelName:
        """Publish the adapter at an address, and point aliases at it; its name with the version.

        Raises SourceRefused, SourceUnavailable, AdapterRejected, InvalidName, EngineStopped;
        nothing has been published then.
        """
        place = self._sources.place(address)
        async with self._turn:
            files = await asyncio.to_thread(read_files, place, address)
            card = self._card(files, address)
            await self._fleet.examine(card.base, files)
            name = await asyncio.to_thread(self._publish, files, card, aliases)
        logger.info("brought in %s from %s", name, address)
        return name

    def _card(self, files: dict[str, bytes], address: str) -> Card:
        if CARD not in files:
            raise AdapterRejected(f"the adapter at '{address}' {NO_CARD}")
        try:
            card = Card.from_json(files[CARD])
        except ValueError as error:
            raise AdapterRejected(f"{CARD} at '{address}' is no valid card: {error}") from error
        if card.base not in self._bases:
            raise AdapterRejected(
                f"'{card.name}' is for base '{card.base}', which is not served here, so that it "
                f"cannot be checked; served are {', '.join(self._bases)}"
            )
        return card

    def _publish(self, files: dict[str, bytes], card: Card, aliases: Sequence[str]) -> ModelName:
        with tempfile.TemporaryDirectory() as place:
            return self._registry.publish(write_files(Path(place), files), card, aliases)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Put the files of an adapter into a folder; that folder."""
    for name in FILES.keys() & files.keys():
        (folder / name).write_bytes(files[name])
    return folder


def read_files(place: Place, address: str) -> dict[str, bytes]:
    """The files of an adapter by name; the card may be absent.

    Raises AdapterRejected for one that is missing, too large, or a link to elsewhere, and
    SourceUnavailable when the place cannot be reached.
    """
    try:
        if place.kind == "bucket":
            return _from_bucket(place, address)
        if place.kind == "hub":
            folder = _snapshot(place)
            return _from_folder(folder, folder.parent.parent, address)
        root = Path(place.root)
        return _from_folder(root / place.path, root, address)
    except LoraLandError:
        raise
    except (OSError, ValueError) as error:
        # Errors of stores may name hosts and requests; the first line tells enough.
        told = str(error).strip().partition("\n")[0][:300]
        raise SourceUnavailable(f"'{address}' cannot be read: {told}") from error


def _from_folder(folder: Path, root: Path, address: str) -> dict[str, bytes]:
    if not folder.is_dir():
        raise SourceUnavailable(f"there is no folder at '{address}'")
    files = {}
    for name, most in FILES.items():
        path = folder / name
        if not path.exists() and name == CARD:
            continue
        if not path.is_file() or not is_within(path, root):
            raise AdapterRejected(
                f"{name} at '{address}' is missing, or a link to outside of what is allowed; an "
                "adapter folder is what PEFT saves"
            )
        files[name] = _read(path.resolve(), name, most, address)
    return files


def _read(path: Path, name: str, most: int, address: str) -> bytes:
    # It is no link now; were it made one since, it is not followed.
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise AdapterRejected(f"{name} at '{address}' has more than {most} bytes")
    return content


def _from_bucket(place: Place, address: str) -> dict[str, bytes]:
    storage, files = Storage.open(place.root), {}
    for name, most in FILES.items():
        path = f"{place.path}/{name}" if place.path else name
        if not storage.exists(path):
            if name == CARD:
                continue
            raise AdapterRejected(f"there is no {name} at '{address}'")
        if (size := storage.size_bytes(path)) > most:
            raise AdapterRejected(f"{name} at '{address}' has {size} bytes, at most {most}")
        files[name] = storage.read(path)
    return files


def _snapshot(place: Place) -> Path:
    """A local copy from the hub, or of an earlier download where the hub is not to be asked."""
    from huggingface_hub import snapshot_download

    found: str = snapshot_download(
        place.root, revision=place.revision, allow_patterns=list(FILES), cache_dir=HUB_CACHE
    )
    return Path(found)
