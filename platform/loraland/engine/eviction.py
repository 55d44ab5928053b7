"""Says how much a cached adapter is worth keeping; the least valuable one leaves first.

A policy is a pure function of what is known about one copy. It knows nothing of leases and pins:
whoever asks has already left out what may not leave.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Candidate(NamedTuple):
    """A copy of an adapter in a tier, as a policy sees it."""

    version: str
    size: float  # what it takes of the tier: 1 for a device slot, its bytes in host memory
    load_ms: float  # what bringing it back would take
    last_used: float  # seconds on the caller's clock
    uses: int  # leases since it came into the tier, those that waited for it included
    age: float  # value of what was evicted last from the tier, at this copy's last use


Policy = Callable[[Candidate], float]


def lru(candidate: Candidate) -> float:
    """Least recently used: worth the time of its last use."""
    return candidate.last_used


def gdsf(candidate: Candidate) -> float:
    """Greedy-Dual-Size-Frequency: what is used often and slow to bring back stays longer.

    Value = age + uses x load_ms / size, where age rises with each eviction, so that what was
    popular once leaves in the end. L. Cherkasova, Improving WWW Proxies Performance with
    Greedy-Dual-Size-Frequency Caching Policy, HP Laboratories report HPL-98-69, 1998. A load
    shorter than a millisecond, or one never measured, counts as one millisecond.
    """
    return candidate.age + candidate.uses * max(candidate.load_ms, 1.0) / max(candidate.size, 1.0)


POLICIES: dict[str, Policy] = {"lru": lru, "gdsf": gdsf}
