"""An audit as one HTML file that asks nothing of any network and runs no script.

Told the audit and what was retrained after it; the template says what stands where.
"""

from __future__ import annotations

from collections.abc import Sequence

from loraland.evaluation.statistics import Interval
from loraland.report import wording
from loraland.report.excerpt import clipped
from loraland.report.intervals import interval_track
from loraland.report.scale import Axis
from loraland.report.shell import asset, environment, policy
from loraland.strata.figures import grey_image, shares_axis, strata_map
from loraland.strata.record import Audit, Rate, Retrained

PACKAGE = "loraland.strata"
MAX_CHARACTERS = 600  # of an example
SHARES = Axis(0.0, 1.0, (0.0, 0.5, 1.0))
MODE_WORDS = {
    "erm": "as it was trained (ERM)",
    "superclass": "group DRO over labels",
    "random": "group DRO over random groups",
    "george": "group DRO over the strata found (GEORGE)",
    "oracle": "group DRO over the true subclasses (oracle)",
}


def render_audit(audit: Audit, trained: Sequence[Retrained]) -> str:
    """The whole page."""
    style = asset("tokens.css") + asset("report.css") + asset("audit.css", PACKAGE)
    made = environment(PACKAGE)
    made.filters |= {"plain": wording.plain, "bounds": wording.bounds, "day": wording.day}
    made.filters |= {"clipped": lambda text: clipped(text, MAX_CHARACTERS)}
    made.globals |= {"share": wording.share, "nothing": wording.NOTHING, "grey_image": grey_image}
    worst = next((one for one in audit.strata if one.number == audit.worst), None)
    return made.get_template("audit.html").render(
        audit=audit,
        worst=worst,
        trained=trained,
        modes=MODE_WORDS,
        style=style,
        policy=policy(style),
        map=strata_map(audit.picture, audit.worst, worst.name if worst else None),
        track=_track,
        axis=shares_axis(),
    )


def _track(rate: Rate | None, *, is_worst: bool = False) -> object:
    interval = Interval(rate.mean, rate.low, rate.high) if rate else None
    return interval_track(interval, "worse" if is_worst else None, SHARES)
