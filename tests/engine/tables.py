"""Tables of adapters for the tests of residency, and a caller's steps on them."""

from __future__ import annotations

from loraland.engine.residency import Residency, Tier

FAILED_S = 5.0


def table_of(slots=2, host_bytes=1000, disk="", host="", size=10, **options):
    """A table that knows a version per letter."""
    residency = Residency(slots=slots, host_bytes=host_bytes, failed_s=FAILED_S, **options)
    for tier, letters in ((Tier.DISK, disk), (Tier.HOST, host)):
        for letter in letters:
            residency.add(letter, tier, size, 0.0)
    return residency


def row_of(residency, version):
    return next(row for row in residency.table() if row.version == version)


def do(residency, loads, now, size=10, load_ms=7.0):
    for load in loads:
        residency.begin(load)
    for load in loads:
        residency.commit(load, size, load_ms, now)
    residency.check()


def bring(residency, wanted, now=0.0):
    """All steps that the waiting versions can make at once."""
    while loads := residency.plan_loads(wanted, now):
        do(residency, loads, now)


def run(residency, *versions, now=0.0):
    """A request that runs for each version; they must be on the device."""
    for version in versions:
        residency.lease(version, now)
        residency.mark_running(version)


def end(residency, version, now=0.0):
    residency.mark_idle(version)
    return residency.release(version, now)
