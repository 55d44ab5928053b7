"""One base with its engine, its tokenizer and the adapters fetched for it. Text in, text out.

Fetching and admission happen before the engine hears of an adapter, in threads, each version by
itself: a slow or damaged one delays and costs nobody else. Knows nothing of HTTP or Ray.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

from loraland.adapters.admission import Limits, admit
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase
from loraland.engine.constraints import ConstraintCompiler
from loraland.engine.protocol import Constraint, Engine, Request, Sampling
from loraland.engine.text import Completion, Piece, Scored, encode, pieces, stop_token_ids
from loraland.engine.vocabulary import Vocabulary
from loraland.errors import AdapterRejected, ContextTooLong, InvalidRequest
from loraland.lora.weights import linears_of
from loraland.serving.chat import chat_ids
from loraland.serving.directory import ShortMemory
from loraland.serving.facts import token_spans
from loraland.serving.orders import (
    Delta,
    End,
    Order,
    Part,
    Prompt,
    TokenScore,
    TokenSpan,
    Tool,
)

PREPARED_S = 3600.0  # a version never changes; this only bounds the memory
REFUSED_S = 5.0  # after a failure, until the next try
LEAST = -9999.0  # OpenAI's logprob for what is next to impossible; JSON has no -inf


class BaseHost:
    """Answers orders for one base and its adapters."""

    def __init__(
        self, base: LoadedBase, engine: Engine, registry: Registry, cache: Path, limits: Limits
    ) -> None:
        """Serve `base` through `engine`; local copies of adapters go to `cache`."""
        self._base, self.engine, self._registry = base, engine, registry
        self._cache, self._limits = cache, limits
        self._stops = stop_token_ids(base.tokenizer, base.model)
        self._special_ids = frozenset(base.tokenizer.all_special_ids)
        self._vocabulary = Vocabulary(base.tokenizer, self._stops)
        self._constraints = ConstraintCompiler(self._vocabulary)
        # Before the first request: llguidance keeps Python's lock while it reads, half a second for
        # 50,000 tokens. Whoever needs a vocabulary that cannot be read is told then.
        with suppress(InvalidRequest):
            _ = self._vocabulary.core
        self._linears = linears_of(base.model)
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
        prompts = [
            (await asyncio.to_thread(self.encode, prompt, order.tools))[-(order.truncate or 0) :]
            for prompt in order.prompts
        ]
        constraint = await self._constraint(order)
        requests = [
            Request(
                f"{order.id}/{index * order.n + k}", prompt, _version(order), sampling, constraint
            )
            for index, prompt in enumerate(prompts)
            for k, sampling in enumerate(self._samplings(order, prompt))
        ]
        if order.model.task is not None:
            await ready(order.model)
        tier = self._tier(order)  # before the engine begins to load it
        async with aclosing(self._answer(requests, order.stop)) as parts:
            async for choice, part in parts:
                sent = self._part(choice, part, requests[choice].sampling.max_new_tokens)
                if tier is not None:
                    sent["tier"], tier = tier, None
                yield sent

    def _tier(self, order: Order) -> str | None:
        version = _version(order)
        known = (one.tier.value for one in self.engine.residency() if one.version == version)
        return next(known, None)

    async def _constraint(self, order: Order) -> Constraint | None:
        """What the answers must match; compiled in a thread, which may take a while.

        Raises InvalidRequest for a wrong grammar, and where logprobs cannot be named.
        """
        if order.logprobs is not None:
            _ = self._vocabulary.core
        if order.grammar is None:
            return None
        return await asyncio.to_thread(self._constraints.compile, order.grammar)

    def encode(self, prompt: Prompt, tools: Sequence[Tool] = ()) -> tuple[int, ...]:
        """The token ids of a prompt. Raises InvalidRequest for a chat that has no template."""
        tokenizer = self._base.tokenizer
        if isinstance(prompt, str):
            return encode(tokenizer, prompt)
        ids = tuple(item for item in prompt if isinstance(item, int))
        if ids:
            return ids
        messages = [item for item in prompt if not isinstance(item, int)]
        return chat_ids(tokenizer, self._base.entry.name, messages, tools)

    async def tokenize(self, text: str, special: bool) -> list[TokenSpan]:
        """The tokens of a text and where they lie; see `token_spans`."""
        return await asyncio.to_thread(token_spans, self._base.tokenizer, text, special=special)

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
                stop_token_ids=frozenset() if order.ignore_eos else self._stops,
                min_p=order.min_p,
                repetition_penalty=order.repetition_penalty,
                presence_penalty=order.presence_penalty,
                frequency_penalty=order.frequency_penalty,
                logprobs=order.logprobs,
            )
            for k in range(order.n)
        ]

    async def _answer(
        self, requests: Sequence[Request], stop: Sequence[str]
    ) -> AsyncGenerator[tuple[int, Piece | Completion], None]:
        parts: asyncio.Queue[tuple[int, Piece | Completion | Exception]] = asyncio.Queue()
        followers: list[asyncio.Task[None]] = []
        try:
            streams = [pieces(self.engine, self._base.tokenizer, r, stop) for r in requests]
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

    def _part(self, choice: int, part: Piece | Completion, most_tokens: int) -> Part:
        if isinstance(part, Completion):
            return self._end(choice, part, most_tokens)
        if not part.tokens:
            return Delta(choice=choice, text=part.text)
        scores = [self._score(scored, most_tokens) for scored in part.tokens]
        return Delta(choice=choice, text=part.text, tokens=scores)

    def _end(self, choice: int, part: Completion, most_tokens: int) -> End:
        end = End(
            choice=choice,
            finish_reason=part.finish_reason,
            prompt_tokens=part.prompt_tokens,
            generated_tokens=part.generated_tokens,
            stop_string=part.stop_string,
            queue_ms=part.queue_ms,
            total_ms=part.total_ms,
        )
        if part.last is not None and part.last.logprob is not None:
            end["last"] = self._score(Scored(part.last, len(part.text)), most_tokens)
        return end

    def _score(self, scored: Scored, most_tokens: int) -> TokenScore:
        token, named = scored.token, self._vocabulary.bytes_of
        assert token.logprob is not None  # only those are scored
        return TokenScore(
            id=token.id,
            token=named(token.id),
            special=token.id in self._special_ids,
            logprob=max(token.logprob, LEAST),
            offset=scored.offset,
            top=[(named(other), max(logprob, LEAST)) for other, logprob in token.top_logprobs],
            top_ids=[other for other, _ in token.top_logprobs],
            final=token.index + 1 == most_tokens,
        )


async def _follow(
    choice: int,
    stream: AsyncGenerator[Piece | Completion, None],
    parts: asyncio.Queue[tuple[int, Piece | Completion | Exception]],
) -> None:
    try:
        async with aclosing(stream):
            async for part in stream:
                parts.put_nowait((choice, part))
    except Exception as error:  # handed to the reader, which raises it
        parts.put_nowait((choice, error))


def _version(order: Order) -> str | None:
    return str(order.model) if order.model.task is not None else None


def _wrapped(seed: int) -> int:
    """A seed as a signed 64-bit integer, when seed + k ran over."""
    return (seed + 2**63) % 2**64 - 2**63
