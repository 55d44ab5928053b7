"""What a gateway's gate goes by: decides whether keys are needed, and finds keys, limits, audit.

Run once in a gateway. Knows where Serve listens; without that knowledge keys are needed.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray
from ray.exceptions import RayError

from loraland.serving.access import audit
from loraland.serving.access.gate import Access
from loraland.serving.access.limiter import RayLimiter
from loraland.serving.access.policy import is_loopback, needs_keys
from loraland.serving.access.ring import KeyRing
from loraland.serving.access.store import KeyStore
from loraland.serving.config import ServingConfig
from loraland.storage import Storage

logger = logging.getLogger(__name__)

CONTROLLER_S = 30  # that Serve's controller has to say where it listens


def open_access(config: ServingConfig, storage: str) -> Access:
    """The access of a gateway on Serve, whose keys lie in `storage`."""
    host = listening_host()
    _write_audit()
    if not needs_keys(config.access, host):
        if not is_loopback(host):
            logger.warning(OPEN_TO_ALL, host)
        return Access(config.limits, loopback=config.access == "auto")
    keys = KeyRing(KeyStore(Storage.open(storage)))
    return Access(config.limits, keys, RayLimiter(storage))


OPEN_TO_ALL = (
    "access is off and HTTP listens on %s: whoever reaches it may use and change all that is "
    "served; set `access: required` and make keys with `loraland keys create`"
)


def listening_host() -> str | None:
    """The address that Serve's HTTP listens on; None when that cannot be found out."""
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        controller = ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        asked = controller.get_http_config.remote()
        host: str | None = ray.get(asked, timeout=CONTROLLER_S).host
    except (ValueError, RayError, AttributeError) as error:
        logger.error("Serve does not say where it listens (%s): keys are required", error)
        return None
    return host


def _write_audit() -> None:
    """Audit lines lie beside Serve's own logs, where Ray's dashboard shows them."""
    from ray.serve._private.logging_utils import get_serve_logs_dir

    audit.write_to(Path(get_serve_logs_dir()), f"loraland_audit_{os.getpid()}")
