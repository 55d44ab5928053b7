"""Reaches every replica of a base through Serve, each with a bounded wait.

A handle sends a call to one replica of its choice; `broadcast` sends it to all that run. Which ones
there should be is the controller's to say, so that one that hangs is seen to be missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from loraland.adapters.names import ModelName
from loraland.serving.directory import ShortMemory
from loraland.serving.fleet import ANSWER_S, VERB_S, FleetView, Spot, Verb, merged
from loraland.serving.ray_errors import plain_errors

logger = logging.getLogger(__name__)

VIEW_S = 1.0  # that what replicas told of themselves is believed
PREFIX = "base-"  # of a deployment's name, before that of its base


class RayFleet:
    """`fleet.Fleet` over the handles of an application. Lives in a replica of it, the gateway."""

    def __init__(self, replicas: Mapping[str, DeploymentHandle]) -> None:
        """`replicas` are by base."""
        self._replicas = replicas
        self._views = ShortMemory(self._look, VIEW_S)

    async def view(self) -> FleetView:
        """See `Fleet.view`. However many look, replicas are asked once a second."""
        return await self._views.get("")

    async def _look(self, _: str) -> FleetView:
        spots, *told = await asyncio.gather(
            self._spots(),
            *(self._ask(base, ANSWER_S, "report") for base in self._replicas),
        )
        bases = zip(self._replicas, told, strict=True)
        return FleetView(bases=[merged(base, spots.get(base, ()), one) for base, one in bases])

    async def order(self, verb: Verb, name: ModelName, replica: str | None) -> list[dict[str, Any]]:
        """See `Fleet.order`."""
        return await self._ask(name.base, VERB_S, "obey", verb, name, replica)

    async def examine(self, base: str, files: Mapping[str, bytes]) -> None:
        """See `Fleet.examine`."""
        with plain_errors():
            await self._replicas[base].examine.remote(dict(files))

    async def _ask(self, base: str, wait_s: float, method: str, *args: Any) -> list[dict[str, Any]]:
        """What the replicas of a base answer in time; one that fails or has nothing is left out."""
        try:
            async with asyncio.timeout(wait_s):
                # Serve's own `results_async` gives all answers or, when one is late, none.
                broadcast = self._replicas[base].broadcast(method, *args)
                sent = await broadcast._fetch_replica_results_async()
        except (TimeoutError, RayError, RayServeException) as error:
            logger.warning("no replica of %s can be asked: %s", base, error)
            return []
        answers = await asyncio.gather(*(_in_time(one, wait_s) for one in sent))
        for failed in (one for one in answers if isinstance(one, Exception)):
            logger.warning("a replica of %s did not answer %s: %r", base, method, failed)
        return [one for one in answers if isinstance(one, dict)]

    async def _spots(self) -> dict[str, list[Spot]]:
        """The replicas of each base by what Serve's controller says; nothing if it says nothing."""
        try:
            async with asyncio.timeout(ANSWER_S):
                controller = await asyncio.to_thread(
                    ray.get_actor, SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
                )
                details = await controller.get_serve_instance_details.remote()
        except (TimeoutError, ValueError, RayError) as error:
            logger.warning("Serve's controller does not say which replicas there are: %r", error)
            return {}
        app = details["applications"].get(serve.get_replica_context().app_name, {})
        return {
            name.removeprefix(PREFIX): [_spot(one) for one in deployment["replicas"]]
            for name, deployment in app.get("deployments", {}).items()
            if name.startswith(PREFIX)
        }


async def _in_time(result: Any, wait_s: float) -> Any:
    """What one replica answers, an error if it fails; the call is cancelled when time is over."""
    try:
        async with asyncio.timeout(wait_s):
            return await result.get_async()
    except TimeoutError as error:
        result.cancel()
        return error
    except (RayError, RayServeException) as error:
        return error


def _spot(replica: Mapping[str, Any]) -> Spot:
    state = str(getattr(replica["state"], "value", replica["state"])).lower()
    return Spot(replica["replica_id"], replica.get("node_ip"), state)
