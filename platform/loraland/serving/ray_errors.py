"""Errors of Ray and Serve as ours: what a replica raised comes out again as it was.

A replica that died or is overrun becomes an error that tells the client to retry.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError

from loraland.errors import EngineBusy, EngineStopped, LoraLandError

RAY_ERRORS = (RayTaskError, RayActorError, BackPressureError, DeploymentUnavailableError)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raises what a call to a replica raised as an error of ours."""
    try:
        yield
    except RAY_ERRORS as error:
        raise plain(error) from error


def plain(error: Exception) -> Exception:
    """The LoraLandError inside an error of Ray, or one that says what to do about it."""
    cause: Any = getattr(error, "cause", None)
    if isinstance(cause, LoraLandError):
        # A new one: Ray's copy is of a class that it made, and carries the worker's traceback.
        return type(cause)(cause.message)
    if isinstance(error, BackPressureError):
        return EngineBusy("busy: too many requests are waiting; retry after a second")
    if isinstance(error, RayActorError | DeploymentUnavailableError):
        return EngineStopped("the replica ended during the request; another takes over, retry")
    return error
