"""Puts an application together: a replica deployment per base, and the gateway in front of them."""

from __future__ import annotations

from typing import Any

from ray import serve

from loraland import settings
from loraland.serving.actors import ONE_LOOP_ENV, actor_options
from loraland.serving.config import BaseSettings, ServingConfig
from loraland.serving.fleet_calls import PREFIX
from loraland.serving.gateway import Gateway
from loraland.serving.replica import Replica, entry_of

# Requests that Serve hands to a gateway at once; each waits for its replica, none computes.
GATEWAY_REQUESTS = 1000


def build(config: ServingConfig | None = None) -> Any:
    """A `serve.Application` of what `config` says; by default the embedded base.

    Loads no weights here. Raises UnknownBase or BaseUnavailable for a base that cannot be.
    """
    config = config or ServingConfig()
    storage = config.storage or settings.storage_uri()
    replicas = {base.name: _replica(base, storage) for base in config.bases}
    gateway = serve.deployment(serve.ingress()(Gateway)).options(
        name="gateway",
        num_replicas=config.gateways,
        max_ongoing_requests=GATEWAY_REQUESTS,
        # It waits; cores are for the model.
        ray_actor_options=actor_options(ONE_LOOP_ENV, num_cpus=0),
    )
    return gateway.bind(config, storage, replicas)


def _replica(base: BaseSettings, storage: str) -> Any:
    entry_of(base)  # a wrong name is told now, not by a replica that never starts
    deployment = serve.deployment(Replica).options(
        name=f"{PREFIX}{base.name}",
        **_size(base),
        graceful_shutdown_timeout_s=base.drain_seconds,
        # The engine decides who is busy; Serve's own queue only holds those whose adapter loads.
        max_ongoing_requests=base.max_batch + base.max_waiting + 1,
        max_queued_requests=base.max_waiting,
        ray_actor_options=actor_options(
            {}, num_cpus=base.num_cpus, num_gpus=base.num_gpus, accelerator_type=base.accelerator
        ),
    )
    return deployment.bind(base, storage)


def _size(base: BaseSettings) -> dict[str, Any]:
    """A fixed number of replicas, or one that follows the requests under way."""
    if base.max_replicas is None:
        return {"num_replicas": base.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": base.replicas,
            "max_replicas": base.max_replicas,
            "target_ongoing_requests": base.busy_requests or base.max_batch,
            "downscale_delay_s": base.idle_seconds,
        }
    }
