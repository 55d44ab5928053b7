"""A scripted server beside the test, in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.loadtest.stub import Stub


@pytest.fixture
def start() -> Iterator[Callable[[Stub], str]]:
    """Serves a stub until the test ends; gives its address."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    running = []

    def serve(server: Stub) -> str:
        context = server.serving()
        running.append(context)
        return asyncio.run_coroutine_threadsafe(context.__aenter__(), loop).result(30)

    yield serve
    for context in running:
        asyncio.run_coroutine_threadsafe(context.__aexit__(None, None, None), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()
