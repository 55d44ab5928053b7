"""One base with its engine, its tokenizer and the adapters fetched for it. Text in, text out.

Fetching and admission happen before the engine hears of an adapter, in threads, each version by
itself: a slow or damaged one delays and costs nobody else. Knows nothing of HTTP or Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch

from loraland.adapters.admission import Limits, admit
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase
from loraland.engine.protocol import Engine, Request, Sampling
from loraland.engine.text import Completion, complete, encode, stop_token_ids
from loraland.errors import AdapterRejected, ContextTooLong, InvalidRequest
from loraland.serving.directory import ShortMemory
from loraland.serving.orders import Delta, End, Order, Part, Prompt

PREPARED_S = 3600.0  # a version never changes; this only bounds the memory
REFUSED_S = 5.0  # after a failure, until the next try


class BaseHost:
    """Answers orders for one base and its adapters."""

    def __init__(
        self, base: LoadedBase, engine: Engine, registry: Registry, cache: Path, limits: Limits
    ) -> None:
        """Serve `base` through `engine`; local copies of adapters go to `cache`."""
        self._base, self.engine, self._registry = base, engine, registry
        self._cache, self._limits = cache, limits
        self._stops = stop_token_ids(base.tokenizer, base.model)
        self._linears = {
            name: (module.in_features, module.out_features)
            for name, module in base.model.named_modules()
            if isinstance(module, torch.nn.Linear)  # also quantised ones
        }
        self._folders = ShortMemory(self._prepare, PREPARED_S, failed_s=REFUSED_S)

    async def prepare(self, name: ModelName) -> Path:
        """A checked local folder of an adapter version; at most one fetch of each at a time.

        Raises AdapterRejected, StorageCorrupt, UnknownModel; a failure is remembered briefly.
        """
        if name.base != self._base.entry.name:
            raise AdapterRejected(
                f"adapter '{name}' is for base '{name.base}', this replica serves "
                f"'{self._base.entry.name}'"
            )
        folder = await self._folders.get(str(name))
        if not folder.is_dir():  # someone cleaned the cache
            self._folders.forget(str(name))
            folder = await self._folders.get(str(name))
        return folder

    async def _prepare(self, name: str) -> Path:
        return await asyncio.to_thread(self._fetch_and_admit, name)

    def _fetch_and_admit(self, name: str) -> Path:
        folder = self._registry.fetch(name, self._cache)
        admit(
            folder,
            base=self._base.entry.name,
            base_fingerprint=self._base.fingerprint,
            limits=self._limits,
            precision=self._base.precision,
            linears=self._linears,
        )
        return folder

    async def complete(
        self, order: Order, ready: Callable[[ModelName], Awaitable[Any]]
    ) -> AsyncGenerator[Part, None]:
        """Answer an order: pieces of its choices as they come, and the end of each.

        `ready` is awaited right before submission and loads the adapter; nothing runs between the
        two, so it cannot be evicted before it is leased. Raises what `Engine.submit` raises, before
        any part; then nothing stays queued. Closing cancels all choices.
        """
        prompts = [await asyncio.to_thread(self.encode, prompt) for prompt in order.prompts]
        requests = [
            Request(f"{order.id}/{index * order.n + k}", prompt, _version(order), sampling)
            for index, prompt in enumerate(prompts)
            for k, sampling in enumerate(self._samplings(order, prompt))
        ]
        if order.model.task is not None:
            await ready(order.model)
        async with aclosing(self._answer(requests, order.stop)) as parts:
            async for choice, part in parts:
                yield _part(choice, part)

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The token ids of a prompt. Raises InvalidRequest for a chat without a template."""
        tokenizer = self._base.tokenizer
        if isinstance(prompt, str):
            return encode(tokenizer, prompt)
        ids = tuple(item for item in prompt if isinstance(item, int))
        if ids:
            return ids
        if not tokenizer.chat_template:
            raise InvalidRequest(
                f"base '{self._base.entry.name}' has no chat template; use /v1/completions with a "
                "prompt, or a base that was tuned for chat"
            )
        return _chat_ids(tokenizer, list(prompt))

    def _samplings(self, order: Order, prompt: tuple[int, ...]) -> list[Sampling]:
        room = self.engine.context_tokens - len(prompt)
        if order.max_new_tokens is None and room < 1:
            raise ContextTooLong(
                f"the prompt has {len(prompt)} tokens, this base takes "
                f"{self.engine.context_tokens} with the answer; shorten the prompt"
            )
        return [
            Sampling(
                max_new_tokens=order.max_new_tokens or min(room, order.most_new_tokens),
                temperature=order.temperature,
                top_p=order.top_p,
                top_k=order.top_k,
                seed=None if order.seed is None else _wrapped(order.seed + k),
                stop_token_ids=self._stops,
            )
            for k in range(order.n)
        ]

    async def _answer(
        self, requests: Sequence[Request], stop: Sequence[str]
    ) -> AsyncGenerator[tuple[int, str | Completion], None]:
        parts: asyncio.Queue[tuple[int, str | Completion | Exception]] = asyncio.Queue()
        followers: list[asyncio.Task[None]] = []
        try:
            streams = [complete(self.engine, self._base.tokenizer, r, stop) for r in requests]
            followers = [
                asyncio.create_task(_follow(choice, stream, parts))
                for choice, stream in enumerate(streams)
            ]
            under_way = len(streams)
            while under_way:
                choice, part = await parts.get()
                if isinstance(part, Exception):
                    raise part
                under_way -= isinstance(part, Completion)
                yield choice, part
        finally:
            for request in requests:
                self.engine.cancel(request.id)
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)


async def _follow(
    choice: int,
    stream: AsyncGenerator[str | Completion, None],
    parts: asyncio.Queue[tuple[int, str | Completion | Exception]],
) -> None:
    try:
        async with aclosing(stream):
            async for part in stream:
                parts.put_nowait((choice, part))
    except Exception as error:  # handed to the reader, which raises it
        parts.put_nowait((choice, error))


def _part(choice: int, part: str | Completion) -> Part:
    if isinstance(part, str):
        return Delta(choice=choice, text=part)
    return End(
        choice=choice,
        finish_reason=part.finish_reason,
        prompt_tokens=part.prompt_tokens,
        generated_tokens=part.generated_tokens,
    )


def _chat_ids(tokenizer: Any, messages: list[Any]) -> tuple[int, ...]:
    from jinja2 import TemplateError

    try:
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise InvalidRequest(f"the base's chat template refuses these messages: {error}") from error
    return tuple(int(token) for token in ids)


def _version(order: Order) -> str | None:
    return str(order.model) if order.model.task is not None else None


def _wrapped(seed: int) -> int:
    """A seed as a signed 64-bit integer, when seed + k ran over."""
    return (seed + 2**63) % 2**64 - 2**63
