"""Runs the application on this machine's Ray for as long as a caller needs it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from loraland.errors import InvalidConfiguration
from loraland.serving.app import build
from loraland.serving.config import BaseSettings, ServingConfig

NAME = "lora-land"  # of the Serve application


@contextmanager
def running_app(
    base: str, precision: Any, host: str, port: int, resources: tuple[float, float]
) -> Iterator[str]:
    """The URL of a server of one base; port 0 takes a free one. Ray must be connected.

    `resources` are the CPUs and GPUs of its replica.

    The application is ready when this yields, and stopped at the end. Raises InvalidConfiguration
    for a port that is taken.
    """
    from ray import serve

    port = _free_port(host, port)
    cpus, gpus = resources
    settings = BaseSettings(name=base, precision=precision, num_cpus=cpus, num_gpus=gpus)
    application = build(ServingConfig(bases=(settings,)))
    serve.start(http_options={"host": host, "port": port})
    try:
        serve.run(application, name=NAME, route_prefix="/")
        yield f"http://{host}:{port}"
    finally:
        serve.delete(NAME)


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
