"""One attempt at one request, through the official client; an answer or a typed trouble.

The client's own retries are off: they know no budget, and the pauses are not told. What it takes
from the environment beside proxies (organisation, project, headers) is not sent. Nothing is logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx2
import openai

from loraland.errors import EndpointGarbled
from loraland.evaluation.endpoint import Body, Endpoint
from loraland.evaluation.endpoint_replies import (
    MOST_BYTES,
    Reply,
    cleaner,
    garbled,
    no_answer,
    read_reply,
    trouble_of,
)

SENT_HEADERS = ("accept", "connection", "content-length", "content-type", "host", "user-agent")
KEPT_HEADERS = (*SENT_HEADERS, "x-stainless-raw-response")  # how the client itself remembers it


class Client:
    """Connections to an endpoint; close it in the end."""

    def __init__(self, endpoint: Endpoint, key: str | None) -> None:
        """`key` goes into the header of requests and nowhere else."""
        self._endpoint, self._key, self._clean = endpoint, key, cleaner(key)
        self._http = openai.DefaultAsyncHttpxClient(
            timeout=None,  # one for the whole attempt is kept in `ask`
            follow_redirects=False,  # a key is for one host
            limits=httpx2.Limits(max_connections=endpoint.concurrency),
            event_hooks={"request": [self._send_only_ours], "response": [_bound]},
        )
        self._openai = openai.AsyncOpenAI(
            api_key=key or "none",
            base_url=endpoint.url,
            max_retries=0,
            timeout=None,
            http_client=self._http,
        )

    async def ask(self, body: Body) -> Reply:
        """The answer to a body. Raises Trouble for everything else."""
        resource: Any = (
            self._openai.chat.completions
            if self._endpoint.api == "chat"
            else self._openai.completions
        )
        limit_s = self._endpoint.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                raw = await resource.with_raw_response.create(**body)
            return read_reply(self._endpoint.api, raw.http_response.content, self._clean)
        except (TimeoutError, openai.APITimeoutError):
            raise no_answer(f"no answer within {limit_s:g} s") from None
        except openai.APIStatusError as error:
            response = error.response
            raise trouble_of(
                response.status_code,
                {name.lower(): value for name, value in response.headers.items()},
                response.content,
                self._clean,
                datetime.now(UTC),
            ) from None
        except openai.APIConnectionError as error:
            kind = type(error.__cause__ or error).__name__
            raise no_answer(f"the connection failed ({kind})") from None
        except EndpointGarbled as error:
            raise garbled(error) from None
        except _UnreadableError as error:
            raise garbled(EndpointGarbled(f"the reply {error}")) from None

    async def close(self) -> None:
        """End all connections."""
        await self._openai.close()

    async def _send_only_ours(self, request: httpx2.Request) -> None:
        for name in list(request.headers):
            if name.lower() not in KEPT_HEADERS:
                del request.headers[name]
        request.headers["accept-encoding"] = "identity"  # so that what is counted is what is read
        if self._key is not None:
            request.headers["authorization"] = f"Bearer {self._key}"


class _UnreadableError(openai.OpenAIError):
    """A body that is not read to its end; as an error of the client's own it passes through it."""


async def _bound(response: httpx2.Response) -> None:
    """Before a body is read, also that of an error: see that it is of a bearable size."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _UnreadableError("is compressed, which was not asked for")
    assert isinstance(response.stream, httpx2.AsyncByteStream)
    response.stream = _Bounded(response.stream)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size_bytes = 0
        async for chunk in self._stream:
            size_bytes += len(chunk)
            if size_bytes > MOST_BYTES:
                raise _UnreadableError(f"is larger than {MOST_BYTES} bytes")
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
