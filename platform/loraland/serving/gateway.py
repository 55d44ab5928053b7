"""The Serve deployment that faces HTTP: sends each order to a replica of its base.

Replicas raise LoraLandErrors, which Ray wraps; here they come out again. A replica that died or is
overrun becomes an error that tells the client to retry.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from fastapi import FastAPI
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from loraland.adapters.registry import Registry
from loraland.errors import EngineBusy, EngineStopped, LoraLandError
from loraland.serving.config import ServingConfig
from loraland.serving.directory import Directory
from loraland.serving.orders import Order, Part
from loraland.serving.routes import create_app
from loraland.storage import Storage


class Gateway:
    """A `Service` over Serve handles. Serve calls the method that builds the application."""

    def __init__(
        self, config: ServingConfig, storage: str, replicas: Mapping[str, DeploymentHandle]
    ) -> None:
        """Send orders to `replicas`, by base name; find adapters in the registry at `storage`."""
        self.limits = config.limits
        self._replicas = replicas
        self.directory = Directory(
            Registry(Storage.open(storage)), list(replicas), config.cache_seconds
        )

    def __serve_build_asgi_app__(self) -> FastAPI:
        return create_app(self)

    async def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        """See `Service.complete`. Closing it cancels the order at the replica."""
        adapter = "" if order.model.task is None else str(order.model)
        handle = self._replicas[order.model.base].options(stream=True, multiplexed_model_id=adapter)
        parts = handle.complete.remote(order)
        ended = False
        try:
            async for part in parts:
                yield part
            ended = True
        except (
            RayTaskError,
            RayActorError,
            BackPressureError,
            DeploymentUnavailableError,
        ) as error:
            ended = True
            raise plain(error) from error
        finally:
            if not ended:
                parts.cancel()


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
