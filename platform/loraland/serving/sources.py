"""Where adapters may be brought in from: an allow-list, and whether an address lies within it.

Folders, prefixes of object stores and owners on the hub, each named in the configuration. Reads
nothing but the shape of a local path; an address from outside never brings options of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from loraland.errors import SourceRefused

Kind = Literal["folder", "hub", "bucket"]
MOST_CHARACTERS = 1000  # of an address

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_HUB = re.compile(rf"hf://({_PART})(?:/({_PART}))?(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,99}}))?")
_BUCKET = re.compile(r"(s3|gs)://([a-z0-9][a-z0-9._-]{1,221})(/[^?#]*)?(\?[^#]*)?")


@dataclass(frozen=True, slots=True)
class Place:
    """An address that the allow-list covers."""

    kind: Kind
    root: str  # folder, OWNER/NAME on the hub, or the URI of a prefix with the list's own options
    path: str = ""  # below the root
    revision: str | None = None  # on the hub


@dataclass(frozen=True, slots=True)
class _Allowed:
    kind: Kind
    shown: str  # for messages: without options
    head: str  # folder; OWNER or OWNER/NAME; scheme://bucket
    parts: tuple[str, ...] = ()  # of a prefix
    options: str = ""  # of an object store, with its question mark


class Sources:
    """The allow-list."""

    def __init__(self, allowed: Iterable[str]) -> None:
        """Raises ValueError for an entry that is no source."""
        self._allowed = tuple(_read(text) for text in allowed)

    def place(self, address: str) -> Place:
        """What an address names. Raises SourceRefused with the reason, also for what is no address.

        A folder is followed to where it really lies, so that no link leads out.
        """
        if not 0 < len(address) <= MOST_CHARACTERS or not address.isprintable():
            raise SourceRefused(f"a source has 1 to {MOST_CHARACTERS} printable characters")
        if address.startswith("hf://"):
            return self._on_hub(address)
        if "://" in address:
            return self._in_bucket(address)
        return self._folder(address)

    def _folder(self, address: str) -> Place:
        asked = Path(address)
        if not asked.is_absolute() or ".." in asked.parts:
            raise SourceRefused(
                f"'{address}' is no absolute path without '..'; write the whole path of a folder"
            )
        for one in self._of("folder"):
            root = Path(one.head).resolve()
            if is_within(asked, root):
                return Place("folder", str(root), asked.resolve().relative_to(root).as_posix())
        raise self._refused(address, "folder")

    def _in_bucket(self, address: str) -> Place:
        match = _BUCKET.fullmatch(address)
        if match is None or match[4] is not None:
            raise SourceRefused(
                "that is no source; write s3://BUCKET/PATH or gs://BUCKET/PATH, without options "
                "and credentials, which only the configuration and the environment may give"
            )
        head, parts = f"{match[1]}://{match[2]}", _parts(match[3] or "")
        if parts is None:
            raise SourceRefused(f"'{address}' has '..' or an empty part in its path")
        for one in self._of("bucket"):
            if one.head == head and parts[: len(one.parts)] == one.parts:
                root = "/".join((head, *one.parts)) + one.options
                return Place("bucket", root, "/".join(parts[len(one.parts) :]))
        raise self._refused(address, "bucket")

    def _on_hub(self, address: str) -> Place:
        match = _HUB.fullmatch(address)
        if match is None or match[2] is None or ".." in address:
            raise SourceRefused(f"'{address}' is no adapter on the hub; write hf://OWNER/NAME@REV")
        owner, name, revision = match.groups()
        if any(one.head in (owner, f"{owner}/{name}") for one in self._of("hub")):
            return Place("hub", f"{owner}/{name}", revision=revision)
        raise self._refused(address, "hub")

    def _of(self, kind: Kind) -> list[_Allowed]:
        return [one for one in self._allowed if one.kind == kind]

    def _refused(self, address: str, kind: Kind) -> SourceRefused:
        known = ", ".join(one.shown for one in self._of(kind)) or f"no {kind} is"
        return SourceRefused(
            f"adapters may not be brought in from '{address}': {known} allowed; add the place to "
            "`sources` in the serving configuration"
        )


def is_within(path: Path, root: Path) -> bool:
    """Whether a path is, every link followed, below a folder that is resolved already."""
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a loop of links
        return False


def _read(text: str) -> _Allowed:
    if text.startswith("hf://"):
        match = _HUB.fullmatch(text)
        if match is None or match[3] is not None:
            raise ValueError(f"source '{text}': write hf://OWNER or hf://OWNER/NAME")
        owner, name, _ = match.groups()
        return _Allowed("hub", text, f"{owner}/{name}" if name else owner)
    if "://" in text:
        match = _BUCKET.fullmatch(text)
        parts = None if match is None else _parts(match[3] or "")
        if match is None or parts is None:
            # The text is not repeated: it may hold a secret, where none belongs.
            raise ValueError("a source is no s3://BUCKET/PREFIX or gs://BUCKET/PREFIX")
        head = f"{match[1]}://{match[2]}"
        return _Allowed("bucket", "/".join((head, *parts)), head, parts, match[4] or "")
    folder = Path(text).expanduser()
    if not folder.is_absolute() or len(folder.parts) < 2:
        raise ValueError(f"source '{text}': write the whole path of a folder, and not '/'")
    return _Allowed("folder", str(folder), str(folder))


def _parts(path: str) -> tuple[str, ...] | None:
    """The parts of a prefix; None when it leads elsewhere than it says."""
    parts = PurePosixPath(path.strip("/")).parts if path.strip("/") else ()
    wrong = ".." in parts or "//" in path or "\\" in path or "/./" in f"/{path}/"
    return None if wrong else parts
