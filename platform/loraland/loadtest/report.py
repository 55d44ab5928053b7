"""A load test as one JSON document, with what it was asked to do. Pure, but for the date."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from loraland import __version__
from loraland.loadtest.against import AgainstBase
from loraland.loadtest.cliff import Point
from loraland.loadtest.run import Measured

FORMAT = 1  # raise when a field changes its meaning


def document(
    url: str,
    setting: Mapping[str, Any],
    *,
    runs: Sequence[Measured] = (),
    against: AgainstBase | None = None,
    points: Sequence[Point] = (),
    interrupted: bool = False,
) -> dict[str, Any]:
    """Everything that a load test found; names as in docs/loadtest.md, times in ms, no secrets."""
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "loraland": __version__,
        "server": _public(url),
        "setting": dict(setting),
        "interrupted": interrupted,
        "runs": plain(runs),
        "against_base": plain(against),
        "cliff": plain(points),
    }


def plain(value: Any) -> Any:
    """NamedTuples and sequences as JSON values; numbers to six significant digits."""
    if hasattr(value, "_asdict"):
        return {name: plain(part) for name, part in value._asdict().items()}
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


def _public(url: str) -> str:
    """A URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
