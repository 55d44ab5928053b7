"""Routes whose mistakes in parameters are told as everywhere else: all at once, in our shape."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.responses import Response

from loraland.serving.bodies import BadParameter


class ToldRoute(APIRoute):
    """A route that raises BadParameter for parameters of path and query that FastAPI refuses."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """See `APIRoute`."""
        handle = super().get_route_handler()

        async def told(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                raise BadParameter.of(
                    {str(fault["loc"][-1]): fault["msg"] for fault in error.errors()}
                ) from None

        return told
