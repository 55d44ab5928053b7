"""Where the files of the registry lie below the storage root, and what a listing of them means.

`adapters/<base>/<task>/versions/<version>/` holds the PEFT folder and its card, and
`adapters/<base>/<task>/aliases/<alias>.json` names a version. Pure text; reads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from loraland.adapters.folder import CARD
from loraland.adapters.names import ModelName, is_part, is_version

ROOT = "adapters"


class Found(NamedTuple):
    """What a listing shows of one adapter."""

    versions: list[str]  # that have a card
    aliases: list[str]


def version_folder(name: ModelName) -> str:
    """The folder of one version."""
    return f"{_home(name)}/versions/{name.version}"


def version_file(name: ModelName, file: str) -> str:
    """A file of one version."""
    return f"{version_folder(name)}/{file}"


def alias_folder(name: ModelName) -> str:
    """The folder of an adapter's aliases."""
    return f"{_home(name)}/aliases"


def alias_file(name: ModelName, alias: str) -> str:
    """The file of one alias."""
    return f"{alias_folder(name)}/{alias}.json"


def index(paths: Iterable[str]) -> dict[ModelName, Found]:
    """The adapters (as `base/task`) in a listing relative to ROOT; other files are passed over."""
    found: dict[ModelName, Found] = {}
    for path in paths:
        match path.split("/"):
            case [base, task, "versions", version, file] if file == CARD:
                if is_part(base) and is_part(task) and is_version(version):
                    _of(found, base, task).versions.append(version)
            case [base, task, "aliases", file] if file.endswith(".json"):
                alias = file.removesuffix(".json")
                if is_part(base) and is_part(task) and is_part(alias):
                    _of(found, base, task).aliases.append(alias)
    return found


def _of(found: dict[ModelName, Found], base: str, task: str) -> Found:
    return found.setdefault(ModelName(base, task), Found([], []))


def _home(name: ModelName) -> str:
    return f"{ROOT}/{name.base}/{name.task}"
