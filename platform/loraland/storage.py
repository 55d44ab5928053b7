"""Files that must last, on any pyarrow filesystem: a local folder, s3://, gs://.

A file is written whole or not at all: on a local disk under a temporary name, flushed and
renamed; on an object store by one upload, which becomes visible when it completes. A group of
files becomes visible with its manifest, which callers write last. Knows nothing of adapters,
samples or runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, urlsplit

from pyarrow import fs

from loraland.errors import InvalidConfiguration, InvalidName

_READ_ATTEMPTS = 10  # of an object that is replaced between the requests that reading takes
_READ_PAUSE_S = 0.01  # before the second attempt; doubles, about ten seconds in all
_UNFINISHED = re.compile(r".+\.[0-9a-f]{32}\.tmp")  # what a killed write leaves on a local disk


@dataclass(frozen=True, slots=True)
class _Reading:
    """What two requests to an object store gave: its state, then bytes of that length.

    They disagree when the object was replaced in between.
    """

    state: dict[bytes, bytes]  # headers, such as ETag and Last-Modified
    content: bytes

    def is_exact(self) -> bool:
        """Whether the tag proves the bytes: S3's is the MD5 of an object put in one part."""
        tag = self.state.get(b"ETag", b"").strip(b'"')
        return tag == hashlib.md5(self.content, usedforsecurity=False).hexdigest().encode()


@dataclass(frozen=True, slots=True)
class Storage:
    """A root on a filesystem; all paths given to its methods are relative to that root."""

    filesystem: fs.FileSystem
    root: str
    uri: str  # as the user wrote it, without options, for messages

    @classmethod
    def open(cls, uri: str) -> Storage:
        """Open a local folder (made when absent) or a URI such as ``s3://bucket/prefix``.

        Query parameters of an S3 URI (``endpoint_override``, ``region``, ``scheme``) are pyarrow's.
        Credentials come from the environment, as pyarrow finds them. Raises InvalidConfiguration
        for a URI with credentials in it, whose text is not repeated, and for one that pyarrow does
        not understand.
        """
        if "://" in uri:
            shown = _without_options(uri)
            try:
                filesystem, root = fs.FileSystem.from_uri(uri)
            except (ValueError, NotImplementedError):
                # Arrow's own message repeats the URI, options included.
                raise InvalidConfiguration(
                    f"storage '{shown}' cannot be opened; "
                    "give a local folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX"
                ) from None
            return cls(filesystem, root.rstrip("/"), shown)
        folder = Path(uri).expanduser().resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return cls(fs.LocalFileSystem(), folder.as_posix(), str(folder))

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def locate(self, path: str) -> str:
        """The full path on the filesystem. Raises InvalidName when `path` would leave the root."""
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path or "\0" in path:
            raise InvalidName(f"path '{path}' would leave the storage root; give a relative path")
        return f"{self.root}/{PurePosixPath(path)}"

    def describe(self, path: str) -> str:
        """The place of `path` as a person would type it."""
        return f"{self.uri.rstrip('/')}/{path}"

    def exists(self, path: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.filesystem.get_file_info(self.locate(path)).type != fs.FileType.NotFound)

    def size_bytes(self, path: str) -> int:
        """The length of a file. Raises FileNotFoundError."""
        info = self.filesystem.get_file_info(self.locate(path))
        if info.type != fs.FileType.File:
            raise FileNotFoundError(f"no file {self.describe(path)}")
        return int(info.size)

    def read(self, path: str) -> bytes:
        """The whole content of a file, of one moment. Raises FileNotFoundError."""
        if self.is_local:
            return Path(self.locate(path)).read_bytes()
        for attempt in range(_READ_ATTEMPTS):
            time.sleep(_READ_PAUSE_S * (2**attempt - 1))
            found = self._read_object(path)
            if found.is_exact() or found.state == self._state(path):
                return found.content
        raise OSError(f"{self.describe(path)} changes faster than it can be read; try again")

    def _read_object(self, path: str) -> _Reading:
        """One request for the state and one for its length of bytes, as the object is by then."""
        try:
            with self.filesystem.open_input_file(self.locate(path)) as file:
                state = dict(file.metadata())
                return _Reading(state, bytes(file.read(file.size())))
        except FileNotFoundError:
            raise
        except OSError:
            if self.exists(path):
                raise
            # Deleted between the two requests: Arrow has no error of its own for that.
            raise FileNotFoundError(f"no file {self.describe(path)}") from None

    def _state(self, path: str) -> dict[bytes, bytes]:
        """What the object store says of an object as it is now. Raises FileNotFoundError."""
        with self.filesystem.open_input_file(self.locate(path)) as file:
            return dict(file.metadata())

    def write(self, path: str, content: bytes) -> None:
        """Write a file whole or not at all, over any file of that name."""
        target = self.locate(path)
        if not self.is_local:
            with self.filesystem.open_output_stream(target, compression=None) as stream:
                stream.write(content)
            return
        os.makedirs(os.path.dirname(target), exist_ok=True)
        temporary = f"{target}.{uuid.uuid4().hex}.tmp"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _flush_folder(os.path.dirname(target))

    def read_json(self, path: str) -> Any:
        """A JSON file as Python values. Raises FileNotFoundError, ValueError."""
        return json.loads(self.read(path))

    def write_json(self, path: str, value: Any) -> None:
        """Write a value as JSON that a person can read, keys sorted. Raises ValueError for NaN."""
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.write(path, (text + "\n").encode())

    def names(self, folder: str) -> list[str]:
        """The names in a folder, sorted; none when it is absent. Unfinished files are left out."""
        selector = fs.FileSelector(self.locate(folder), allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if not _is_unfinished(info))

    def walk(self, folder: str) -> list[str]:
        """All files below a folder as sorted paths relative to it; one listing on an object store.

        None when the folder is absent. Unfinished files are left out.
        """
        selector = fs.FileSelector(self.locate(folder), allow_not_found=True, recursive=True)
        start = len(self.locate(folder)) + 1
        return sorted(
            info.path[start:]
            for info in self.filesystem.get_file_info(selector)
            if info.type == fs.FileType.File and not _is_unfinished(info)
        )

    def delete(self, path: str) -> None:
        """Remove a file. Raises FileNotFoundError."""
        self.filesystem.delete_file(self.locate(path))

    def delete_folder(self, path: str) -> None:
        """Remove a folder and all in it; absent is fine."""
        if self.exists(path):
            self.filesystem.delete_dir(self.locate(path))


def _is_unfinished(info: fs.FileInfo) -> bool:
    is_file = info.type == fs.FileType.File
    return is_file and _UNFINISHED.fullmatch(info.base_name) is not None


def _flush_folder(folder: str) -> None:
    """Make a rename last through a power cut, so that a manifest never outlives its files."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _without_options(uri: str) -> str:
    """A URI for messages and logs. Raises InvalidConfiguration when it holds credentials."""
    try:
        parts = urlsplit(uri)
        refused = _holds_credentials(parts)
    except ValueError:  # no address, or a secret that ends the address early with its slash
        refused = True
    if refused:
        raise InvalidConfiguration(
            "the storage URI has more than a bucket before its path, such as a key and a secret; "
            "leave them out, as URIs end in logs. Credentials come from the environment: "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS, or the "
            "role of the machine. An S3 server of your own is named by ?endpoint_override=HOST:PORT"
        )
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _holds_credentials(parts: SplitResult) -> bool:
    """Whether a URI has a password or an S3 key before its path.

    Raises ValueError for a port that is no number.
    """
    user = parts.netloc.rpartition("@")[0]
    if parts.scheme == "s3":
        return bool(user) or ":" in parts.netloc
    return ":" in user or (parts.port is not None and parts.scheme == "gs")
