"""What a server says that it has: its bases, its adapters, their slots. Pure: told JSON bodies.

Nothing in them is trusted: what has another shape than expected is garbled, or left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from loraland.adapters.names import LATEST, ModelName
from loraland.errors import EndpointGarbled, InvalidName, UnknownModel, did_you_mean


class Listed(NamedTuple):
    """What a server lists."""

    bases: tuple[str, ...]
    adapters: tuple[ModelName, ...]  # one version of each, sorted by name

    def base(self, wished: str | None) -> str:
        """The base to test: the wished one, or the only one. Raises UnknownModel."""
        if wished is None and len(self.bases) == 1:
            return self.bases[0]
        if wished in self.bases:
            return wished
        if wished is None:
            raise UnknownModel(
                f"the server has {len(self.bases)} bases ({', '.join(self.bases)}); name one "
                "with --base"
            )
        raise UnknownModel(f"the server has no base '{wished}'; {did_you_mean(wished, self.bases)}")

    def of(self, base: str) -> tuple[str, ...]:
        """The adapters of a base, by full name."""
        return tuple(str(name) for name in self.adapters if name.base == base)


def listed(body: Any) -> Listed:
    """What GET /v1/models says: of each adapter the version `latest`, else the newest.

    Raises EndpointGarbled.
    """
    models = body.get("data") if isinstance(body, dict) else None
    if not isinstance(models, list):
        raise EndpointGarbled("the server's /v1/models is no list of models")
    bases, best = list[str](), dict[str, tuple[tuple[bool, float], ModelName]]()
    for model in models:
        if not isinstance(model, dict) or not isinstance(model.get("id"), str):
            raise EndpointGarbled("the server's /v1/models lists something without an id")
        try:
            name = ModelName.parse(model["id"])
        except InvalidName:
            bases.append(model["id"])  # another kind of server; its names are its own
            continue
        if name.task is None:
            bases.append(str(name))
            continue
        rank = (LATEST in _list(model.get("aliases")), _number(model.get("created")))
        if name.adapter not in best or rank > best[name.adapter][0]:
            best[name.adapter] = (rank, name)
    return Listed(tuple(bases), tuple(name for _, (_, name) in sorted(best.items())))


def slots_of(fleet: Any, base: str) -> int | None:
    """The slots of all replicas of a base, from GET /v1/fleet; None where that does not say."""
    slots = [
        replica["stats"]["slots"]
        for entry in _list(fleet.get("bases") if isinstance(fleet, dict) else None)
        if isinstance(entry, dict) and entry.get("base") == base
        for replica in _list(entry.get("replicas"))
        if isinstance(replica, dict) and isinstance(replica.get("stats"), dict)
        if type(replica["stats"].get("slots")) is int
    ]
    return sum(slots) or None


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
