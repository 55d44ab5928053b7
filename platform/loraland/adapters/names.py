"""The model names of every API, in their four forms.

`base`, `base/task` (alias `latest`), `base/task:alias`, `base/task@version`. Pure text; knows no
registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from loraland.errors import InvalidName

VERSION_DIGITS = 12  # the first hex digits of the content hash
LATEST = "latest"

_PART = r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?"
_VERSION = rf"[0-9a-f]{{{VERSION_DIGITS}}}"
_NAME = re.compile(
    rf"(?P<base>{_PART})(?:/(?P<task>{_PART})(?::(?P<alias>{_PART})|@(?P<version>{_VERSION}))?)?"
)


def is_part(text: str) -> bool:
    """Whether a base, task or alias may have this name; such a name is safe as a part of a path."""
    return re.fullmatch(_PART, text) is not None and ".." not in text


def is_version(text: str) -> bool:
    """Whether the text has the form of a version: 12 lower-case hex digits."""
    return re.fullmatch(_VERSION, text) is not None


@dataclass(frozen=True, slots=True)
class ModelName:
    """A legal model name; exactly one of `alias` and `version` is set when `task` is.

    Every instance is safe as parts of a path. Raises InvalidName for anything else.
    """

    base: str
    task: str | None = None
    alias: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        if self.task is not None and self.alias is None and self.version is None:
            object.__setattr__(self, "alias", LATEST)
        if not self._is_legal():
            raise InvalidName(_explain(str(self)))

    def _is_legal(self) -> bool:
        if self.task is None:
            return is_part(self.base) and self.alias is None and self.version is None
        if not (is_part(self.base) and is_part(self.task)):
            return False
        if self.version is None:
            return self.alias is not None and is_part(self.alias)
        return self.alias is None and is_version(self.version)

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Read one of the four forms. Raises InvalidName."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise InvalidName(_explain(text))
        return cls(*match.group("base", "task", "alias", "version"))

    @property
    def adapter(self) -> str:
        """`base/task`, the name that aliases and versions belong to. The base alone for a base."""
        return self.base if self.task is None else f"{self.base}/{self.task}"

    def at(self, version: str) -> ModelName:
        """The same adapter at one version. Raises InvalidName for a base, which has no versions."""
        return ModelName(self.base, self.task, None, version)

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.adapter}@{self.version}"
        if self.alias not in (None, LATEST):
            return f"{self.adapter}:{self.alias}"
        return self.adapter


def _explain(text: str) -> str:
    return (
        f"'{text[:200]}' is not a model name; write BASE, BASE/TASK, BASE/TASK:ALIAS or "
        f"BASE/TASK@VERSION ({VERSION_DIGITS} hex digits), in lower case"
    )
