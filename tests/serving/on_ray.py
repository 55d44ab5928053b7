"""The application on the Ray Serve of the session's cluster, for a module of tests."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from loraland.serving.config import ServingConfig


@contextmanager
def served(config: ServingConfig, name: str = "loraland") -> Iterator[str]:
    """The URL of the application on a free port of loopback; Serve is stopped afterwards."""
    from ray import serve

    from loraland.serving.app import build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    try:
        serve.run(build(config), name=name, route_prefix="/")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
