"""Sends planned requests to /v1/completions and measures their answers. The edge of a load test.

aiohttp, because it takes 0.4 of httpx's time for an event (benchmarks/loadtest_client.py), and
what the client takes is not to be measured as the server's. Prompts and keys are never logged.
"""

from __future__ import annotations

import asyncio
import errno
import json
import time
from types import TracebackType
from typing import Any, Self

import aiohttp

from loraland.errors import EndpointGarbled, EndpointRefused, EndpointUnavailable
from loraland.loadtest import outcome
from loraland.loadtest.events import EventReader, Told, code_of
from loraland.loadtest.outcome import Outcome
from loraland.loadtest.schedule import Planned

TIER_HEADER = "x-loraland-adapter-tier"
LOOK_S = 30.0  # for what is asked once, before a test
MOST_BODY_BYTES = 64 << 20  # of a listing
MOST_ERROR_BYTES = 64 << 10


class Client:
    """Connections to one server, as many as are needed; used as an async context manager."""

    def __init__(self, url: str, key: str | None = None, timeout_s: float = 300.0) -> None:
        """`url` is the server's root; `key` goes into a header and nowhere else."""
        self._url, self._timeout_s = url.rstrip("/").removesuffix("/v1"), timeout_s
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),  # one for the whole request is kept in `ask`
            headers={**self._headers, "accept-encoding": "identity"},
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def look(self, path: str) -> Any:
        """The JSON at a path, None where there is none (404).

        Raises EndpointUnavailable, EndpointRefused, EndpointGarbled.
        """
        try:
            async with (
                asyncio.timeout(LOOK_S),
                self._session.get(self._url + path, allow_redirects=False) as response,
            ):
                content = await _read(response, MOST_BODY_BYTES)
        except (TimeoutError, aiohttp.ClientError) as error:
            raise EndpointUnavailable(
                f"{self._url}{path} did not answer ({type(error).__name__}); is the server up? "
                "`loraland serve` starts one"
            ) from error
        if response.status == 404:
            return None
        if response.status != 200:
            raise EndpointRefused(
                f"{self._url}{path} answered {response.status} ({code_of(_json(content))}); "
                "where keys are required, name the variable that holds yours with --key-env"
            )
        if (found := _json(content)) is None:
            raise EndpointGarbled(f"{self._url}{path} answered with no JSON")
        return found

    async def ask(self, planned: Planned, due_s: float) -> Outcome:
        """Send one request now and read its answer to the end. Raises nothing but cancellation.

        `due_s` is when it was to be sent, on the clock of `time.perf_counter`.
        """
        answer = _Answer(planned, due_s)
        try:
            async with asyncio.timeout(self._timeout_s):
                return answer.outcome(await self._stream(planned, answer))
        except TimeoutError:
            return answer.outcome(outcome.TIMEOUT)
        except EndpointGarbled:
            return answer.outcome(outcome.GARBLED)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            if getattr(error, "errno", None) == errno.EMFILE:  # this process has no more sockets
                return answer.outcome(outcome.NOT_SENT)
            begun = answer.status is not None
            return answer.outcome(outcome.DISCONNECTED if begun else outcome.UNREACHABLE)

    async def _stream(self, planned: Planned, answer: _Answer) -> str | None:
        """Read an answer into `answer`; the error it ended with."""
        request = self._session.post(
            self._url + "/v1/completions",
            data=_body(planned),
            headers={"content-type": "application/json"},
            allow_redirects=False,
        )
        async with request as response:
            answer.status = response.status
            if response.status != 200:
                content = await _read(response, MOST_ERROR_BYTES)
                return f"{response.status} {code_of(_json(content))}"
            answer.tier = response.headers.get(TIER_HEADER)
            events = EventReader()
            while chunk := await response.content.readany():
                now_s = time.perf_counter()
                for told in events.push(chunk):
                    answer.add(told, now_s)
        return answer.fault()


class _Answer:
    """An answer while it comes."""

    def __init__(self, planned: Planned, due_s: float) -> None:
        self._planned, self._due_s, self._sent_s = planned, due_s, time.perf_counter()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._pauses_ms: list[float] = []
        self._usage: tuple[int, int] | None = None
        self._served: str | None = None
        self._error: str | None = None
        self._done = False
        self.tier: str | None = None
        self.status: int | None = None

    def add(self, told: Told, now_s: float) -> None:
        if told.text or (told.reason is not None and self._first_s is None):
            if self._first_s is None:
                self._first_s = now_s
            else:
                self._pauses_ms.append((now_s - self._last_s) * 1000)
            self._last_s = now_s
        self._usage = told.usage or self._usage
        self._served = told.model or self._served
        self._error = told.error or self._error
        self._done = self._done or told.done

    def fault(self) -> str | None:
        """What is wrong with a stream that ended."""
        if self._error is not None:
            return f"stream {self._error}"
        if not self._done:
            return outcome.DISCONNECTED
        if self._usage is None or self._first_s is None or self._served is None:
            return outcome.GARBLED
        return None if is_model(self._planned.model, self._served) else outcome.WRONG_MODEL

    def outcome(self, error: str | None) -> Outcome:
        prompt_tokens, generated_tokens = self._usage or (0, 0)
        return Outcome(
            number=self._planned.number,
            model=self._planned.model,
            due_s=self._due_s,
            sent_s=self._sent_s,
            end_s=time.perf_counter(),
            first_s=self._first_s,
            pauses_ms=tuple(self._pauses_ms),
            prompt_tokens=prompt_tokens,
            generated_tokens=generated_tokens,
            asked_tokens=self._planned.new_tokens,
            served=self._served,
            tier=self.tier,
            error=error,
        )


def is_model(asked: str, served: str) -> bool:
    """Whether the model that an answer names is the one asked, or a version of it."""
    if asked == served:
        return True
    return "@" not in asked and asked.partition(":")[0] == served.partition("@")[0]


def _body(planned: Planned) -> bytes:
    prompt = planned.prompt if isinstance(planned.prompt, str) else list(planned.prompt)
    return json.dumps(
        {
            "model": planned.model,
            "prompt": prompt,
            "max_tokens": planned.new_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()


async def _read(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    content = bytearray()
    while chunk := await response.content.readany():
        content += chunk
        if len(content) > most_bytes:
            raise EndpointGarbled(f"an answer is larger than {most_bytes} bytes")
    return bytes(content)


def _json(content: bytes) -> Any:
    """A JSON document, None where it is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None
