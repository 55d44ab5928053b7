"""Which models a caller may use: patterns over model names.

`*` is every base and adapter; `BASE` a base itself; `BASE/TASK` all versions of an adapter;
`BASE/TASK:ALIAS` and `BASE/TASK@VERSION` that alias or version alone. Elsewhere `*` stands for any
characters of one part. Decided by the name that was asked, never by what exists.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from loraland.adapters.names import ModelName
from loraland.errors import AdminKeyRequired, InvalidName, ModelNotAllowed
from loraland.serving.access.books import Allowance

EVERYTHING = "*"
_PATTERN = re.compile(r"[a-z0-9.*_-]{1,64}(/[a-z0-9.*_-]{1,64}([:@][a-z0-9.*_-]{1,64})?)?")


def check_pattern(pattern: str) -> None:
    """Raises InvalidName for a text that no model name could match."""
    if _PATTERN.fullmatch(pattern) is None or ".." in pattern:
        raise InvalidName(
            f"'{pattern[:200]}' is no pattern of model names; write '*' for all, BASE, BASE/TASK, "
            "BASE/TASK:ALIAS or BASE/TASK@VERSION, with '*' for any characters of a part"
        )


def matches(pattern: str, name: ModelName) -> bool:
    """Whether a pattern covers a model name."""
    if pattern == EVERYTHING:
        return True
    whole = name.adapter
    if name.alias is not None:
        whole = f"{name.adapter}:{name.alias}"  # also `latest`, which names leave out
    elif name.version is not None:
        whole = f"{name.adapter}@{name.version}"
    compiled = _compiled(pattern)
    return any(compiled.fullmatch(form) is not None for form in (name.adapter, whole))


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    # Runs of stars are one star: a row of them would make the expression slow.
    pieces = re.sub(r"\*+", "*", pattern).split("*")
    return re.compile("[a-z0-9._-]*".join(re.escape(piece) for piece in pieces))


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, and what that one may do."""

    key: str | None  # the id of the key; None where no keys are needed
    models: tuple[str, ...] = ()
    admin: bool = False
    allowance: Allowance = field(default_factory=Allowance)

    @property
    def sees_everything(self) -> bool:
        """Whether no model is hidden from this caller."""
        return EVERYTHING in self.models

    def may_use(self, *names: ModelName) -> bool:
        """Whether one of these names of a model is allowed."""
        return any(matches(pattern, name) for pattern in self.models for name in names)

    def reaches(self, base: str) -> bool:
        """Whether a base, or any adapter that could stand on it, is allowed."""
        starts = (pattern.partition("/")[0] for pattern in self.models)
        return any(matches(start, ModelName(base)) for start in starts)

    def may_see(self, version: ModelName, aliases: Iterable[str]) -> bool:
        """Whether a version is allowed by its own name or by one of its aliases."""
        named = (ModelName(version.base, version.task, alias) for alias in aliases)
        return self.may_use(version, *named)

    def require_model(self, name: ModelName) -> None:
        """Raises ModelNotAllowed, which says the same whether the model exists or not."""
        if not self.may_use(name):
            raise ModelNotAllowed(
                f"this key may not use '{name}'; GET /v1/models lists what it may use, and whoever "
                "made it can make one with another `--models`"
            )

    def require_admin(self) -> None:
        """Raises AdminKeyRequired."""
        if not self.admin:
            raise AdminKeyRequired(
                "this changes or shows more than a key for models may; use a key that was made "
                "with `loraland keys create NAME --admin`"
            )


# Where no keys are needed.
ANYONE = Caller(None, (EVERYTHING,), admin=True)
