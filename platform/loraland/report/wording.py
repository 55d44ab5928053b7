"""Numbers and verdicts as people read them, the same in HTML and Markdown. Pure text."""

from __future__ import annotations

from loraland.evaluation.leaderboard import Verdict
from loraland.evaluation.statistics import Interval

NOTHING = "\N{EN DASH}"  # where a number is not known
MINUS = "\N{MINUS SIGN}"  # as wide as a plus
VERDICTS: dict[Verdict | None, str] = {
    "better": "better",
    "worse": "worse",
    "undecided": "undecided",
    None: "not tested",
}
SIGNS: dict[Verdict | None, str] = {"better": "▲", "worse": "▼", "undecided": "", None: ""}


def plain(value: float | None, digits: int = 3) -> str:
    """`0.123`."""
    return NOTHING if value is None else f"{_round(value, digits):.{digits}f}".replace("-", MINUS)


def signed(value: float | None, digits: int = 3) -> str:
    """`+0.123`."""
    return NOTHING if value is None else f"{_round(value, digits):+.{digits}f}".replace("-", MINUS)


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """`+0.10 to +0.31`, the bounds of an interval of lifts; empty when there is none."""
    if low is None or high is None:
        return ""
    return f"{signed(low, digits)} to {signed(high, digits)}"


def bounds(interval: Interval, digits: int = 2) -> str:
    """`0.10 to 0.31`, the bounds of an interval of scores."""
    return f"{plain(interval.low, digits)} to {plain(interval.high, digits)}"


def share(count: int, total: int) -> str:
    """`3 %`; a share below one in a hundred is not rounded to nothing."""
    if not total:
        return NOTHING
    percent = 100 * count / total
    return f"{percent:.1f} %" if 0 < percent < 1 else f"{percent:.0f} %"


def p_value(value: float | None) -> str:
    """`0.012`, `< 0.001`."""
    if value is None:
        return NOTHING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def day(moment: str) -> str:
    """The date and time of day of an ISO 8601 moment in UTC."""
    return f"{moment[:10]} {moment[11:16]} UTC"


def _round(value: float, digits: int) -> float:
    """Rounded, and never to a zero below zero."""
    return round(value, digits) + 0.0
