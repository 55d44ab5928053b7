"""Runs the application on the connected Ray for as long as a caller needs it.

Starts Serve and stops it. Serve is one per cluster, so where it runs already it belongs to somebody
else, and nothing here touches it.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from loraland.errors import InvalidConfiguration
from loraland.serving.access.policy import AccessMode
from loraland.serving.app import build
from loraland.serving.config import BaseSettings, ServingConfig

NAME = "lora-land"  # of the Serve application
STOP_S = 30  # that replicas have to end their answers and go


@contextmanager
def running_app(
    base: str,
    precision: Any,
    host: str,
    port: int,
    resources: tuple[float, float],
    access: AccessMode = "auto",
) -> Iterator[str]:
    """The URL of a server of one base; port 0 takes a free one. Ray must be connected.

    `resources` are the CPUs and GPUs of its replica.

    The application is ready when this yields; it and Serve are stopped at the end. Raises
    InvalidConfiguration for a port that is taken, and where Serve is running already.
    """
    cpus, gpus = resources
    settings = BaseSettings(name=base, precision=precision, num_cpus=cpus, num_gpus=gpus)
    config = ServingConfig(bases=(settings,), access=access)
    with running(lambda: build(config), NAME, host, port) as url:
        yield url


@contextmanager
def running(make: Callable[[], Any], name: str, host: str, port: int) -> Iterator[str]:
    """The URL of a server of any Serve application; as `running_app` in everything else."""
    from ray import serve

    _require_no_serve(name)
    port = _free_port(host, port)
    application = make()
    with _warnings_only():
        try:
            serve.start(http_options={"host": host, "port": port})
            serve.run(application, name=name, route_prefix="/")
            yield f"http://{host}:{port}"
        finally:
            _stop_serve()


def _require_no_serve(name: str) -> None:
    if _controller() is not None:
        raise InvalidConfiguration(
            "Serve is running on this Ray cluster already, and what it serves would be disturbed; "
            f"type `serve run serve_apps.{name.replace('-', '_')}:app` to serve there, "
            "or `serve shutdown` first to stop all that it serves"
        )


def _stop_serve() -> None:
    """What `serve.shutdown` does, in two steps.

    Its own call waits in the controller until that is killed, which Ray prints as a failed task.
    """
    from ray import serve

    controller = _controller()
    if controller is not None:
        controller.graceful_shutdown.remote(wait=False)
    end = time.monotonic() + STOP_S
    while _controller() is not None and time.monotonic() < end:
        time.sleep(0.1)
    serve.shutdown()  # finds nothing to stop, or tries once more; forgets this process's handles


def _controller() -> Any:
    """The actor that is Serve on this cluster, None when Serve is not running."""
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    try:
        return ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:  # how Ray says that there is no such actor
        return None


@contextmanager
def _warnings_only() -> Iterator[None]:
    """Keeps this process free of Serve's notes on what it starts and stops."""
    logger = logging.getLogger("ray.serve")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _free_port(host: str, port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidConfiguration(
                f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"
            ) from error
        return int(probe.getsockname()[1])
