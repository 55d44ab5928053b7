"""Options of the actors that Serve starts for us: resources, environment, the way to this code."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import loraland

# For deployments that never block their loop while they answer: Serve need not hand each message
# from loop to loop.
ONE_LOOP_ENV = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def actor_options(env: Mapping[str, str], **asked: float | str | None) -> dict[str, Any]:
    """Options of an actor, which must find this library also where it is not installed."""
    resources = {name: value for name, value in asked.items() if value is not None}
    variables = {**env, **_path_to_code()}
    return {**resources, "runtime_env": {"env_vars": variables}} if variables else resources


def _path_to_code() -> dict[str, str]:
    try:
        metadata.distribution("loraland")
    except metadata.PackageNotFoundError:
        # A checkout: by its path on this machine, or below the working directory that Ray ships.
        here = Path(loraland.__file__).resolve().parent.parent
        return {"PYTHONPATH": f"{here}:{here.name}"}
    return {}
