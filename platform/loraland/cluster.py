"""Joins a Ray cluster, or starts one on this machine for as long as it is needed.

Workers import the same `loraland` as the caller: the installed one, or the one in the caller's
checkout, which is then sent along.
"""

from __future__ import annotations

import logging
import os
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import loraland


@contextmanager
def ray_cluster(*, own: bool = False) -> Iterator[Any]:
    """The `ray` module, connected. A cluster that was started here is stopped at the end.

    Joins the cluster of RAY_ADDRESS, which a job has too (`auto` is one on this machine), and
    starts one of its own otherwise; `own` always does. A cluster that only happens to run here is
    left alone: another command may own it, and end it.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry from our commands
    # Serve's HTTP proxy speaks gRPC to the gateway, which costs half of what objects of Ray cost.
    os.environ.setdefault("RAY_SERVE_PROXY_USE_GRPC", "1")
    import ray

    if ray.is_initialized():
        yield ray
        return
    ray.init(
        address="local" if own else os.environ.get("RAY_ADDRESS", "local"),
        runtime_env=code_for_workers(),
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=True,
    )
    try:
        yield ray
    finally:
        ray.shutdown()


def code_for_workers() -> dict[str, Any]:
    """The runtime environment that gives workers this very package.

    Empty for a package that is installed, since workers run the same environment; on a cluster,
    whose nodes may hold another version, the caller's own source travels with the job.
    """
    source = Path(loraland.__file__).parent
    installed = Path(sysconfig.get_paths()["purelib"]) in source.parents
    on_this_machine = "RAY_ADDRESS" not in os.environ  # jobs have it too
    return {} if installed or on_this_machine else {"py_modules": [str(source)]}
