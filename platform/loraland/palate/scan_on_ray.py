"""The trials of a scan as tasks of Ray: one number of clusters each, the places shared.

Told a connected `ray` module (`cluster.ray_cluster`), so that nothing here imports Ray. The same
function runs in one process (`scan.run_here`), and both give the same trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loraland.palate.features import Vectors
from loraland.palate.scan import Runner, ScanSettings, Trial, try_k

RETRIES = 3


def runner_on(ray: Any, cpus: float = 1.0) -> Runner:
    """A runner whose trials each occupy so many cores of the connected cluster."""

    def run(places: Vectors, ks: Sequence[int], settings: ScanSettings, seed: int) -> list[Trial]:
        task = ray.remote(try_k).options(num_cpus=cpus, max_retries=RETRIES)
        shared = ray.put(places)
        found: list[Trial] = ray.get([task.remote(shared, k, settings, seed) for k in ks])
        return found

    return run
