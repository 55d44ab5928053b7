"""Text around an engine: prompts become token ids, and ids become text as they come back.

Sends no half character, and no text that may turn out to be the beginning of a stop string.
Serving streams one answer with `complete`; judging gathers whole ones with `complete_whole`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from loraland.engine.protocol import Engine, Event, Finished, Request, Token
from loraland.errors import LoraLandError

UNFINISHED = "\ufffd"  # what a decoder gives for bytes that are not a whole character yet


class Scored(NamedTuple):
    """A token with its log-probabilities, and where its text begins."""

    token: Token
    offset: int  # characters of the answer before it


class Piece(NamedTuple):
    """What an answer grew by: some text, some scored tokens, or both."""

    text: str
    tokens: tuple[Scored, ...]  # those whose text began by here; empty unless logprobs are on


class Completion(NamedTuple):
    """The end of an answer, and the whole of it."""

    text: str  # all deltas together, without the stop string
    finish_reason: str  # "stop" (stop token or stop string), "length" or "cancelled"
    prompt_tokens: int
    generated_tokens: int  # tokens the model computed, also those of a stop
    queue_ms: float
    first_token_ms: float
    total_ms: float
    stop_string: bool  # whether a stop string ended it
    last: Token | None  # what is in no piece: the stop token, or the end of the stop string


def encode(tokenizer: PreTrainedTokenizerBase, prompt: str) -> tuple[int, ...]:
    """The token ids of a plain prompt, with the special tokens that its tokenizer puts before it.

    An end token that a tokenizer appends is left out: the answer is to follow here.
    """
    ids = tuple(int(token) for token in tokenizer(prompt)["input_ids"])
    appended = (
        ids and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(tokenizer.eos_token)
    )
    return ids[:-1] if appended else ids


def stop_token_ids(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> frozenset[int]:
    """The ids at which an answer ends: the tokenizer's and those of the generation config."""
    config = getattr(model, "generation_config", None)
    listed = getattr(config, "eos_token_id", None)
    ids = [*(listed if isinstance(listed, list) else [listed]), tokenizer.eos_token_id]
    return frozenset(int(token) for token in ids if token is not None)


class Detokenizer:
    """Text from tokens, piece by piece; the pieces joined are the tokens decoded at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._sent = 0  # ids whose text was given
        # Decoding starts at the ids of the piece before: some tokenizers drop the first space of
        # what they decode, and this way they drop it from both texts that are compared.
        self._window = 0

    def push(self, token: int) -> str:
        """The text that is certain now; empty while a character is incomplete."""
        self._ids.append(token)
        return self._take(whole_characters=True)

    def flush(self) -> str:
        """The rest, with U+FFFD in place of bytes that never became a character."""
        return self._take(whole_characters=False)

    def _take(self, *, whole_characters: bool) -> str:
        before = self._decode(self._ids[self._window : self._sent])
        text = self._decode(self._ids[self._window :])
        if len(text) <= len(before) or (whole_characters and text.endswith(UNFINISHED)):
            return ""
        self._window, self._sent = self._sent, len(self._ids)
        return text[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )


class StopFilter:
    """Passes text on up to the stop string that completes first; of two at once, the longer."""

    def __init__(self, stops: Iterable[str], *, trim: bool = False) -> None:
        """`trim` drops white space before the first word, in which no stop string is looked for."""
        self._stops = tuple(stop for stop in stops if stop)
        self._trimming = trim
        self.trimmed = 0  # characters dropped so far from the beginning
        self._held = ""  # a suffix of the text that may be the beginning of a stop string
        self.stopped = False

    def push(self, text: str) -> str:
        """What may be passed on. After a stop, nothing more."""
        if self.stopped:
            return ""
        if self._trimming:
            whole, text = text, text.lstrip()
            self.trimmed += len(whole) - len(text)
            self._trimming = not text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = self._beginning_of_a_stop(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held

    def _beginning_of_a_stop(self, text: str) -> int:
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((n for n in sizes if any(s.startswith(text[-n:]) for s in self._stops)), 0)


def cut_at_stop(text: str, stops: Iterable[str], *, trim: bool = False) -> str:
    """A whole text up to its first stop string, exactly as a stream of it would have ended."""
    cutter = StopFilter(stops, trim=trim)
    return cutter.push(text) + cutter.flush()


def complete(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    stop: Sequence[str] = (),
    *,
    trim: bool = False,
) -> AsyncGenerator[str | Completion, None]:
    """Submit a request now; iterate for text deltas (never empty), then one Completion.

    `trim` drops white space before the first word, which then cannot be a stop string.

    Raises what `Engine.submit` raises, here and not at the first iteration. Closing the iterator,
    or letting go of it, cancels the request.
    """
    return _texts(pieces(engine, tokenizer, request, stop, trim=trim))


def pieces(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    stop: Sequence[str] = (),
    *,
    trim: bool = False,
) -> AsyncGenerator[Piece | Completion, None]:
    """As `complete`, with the log-probabilities that the request asks for.

    Tokens of a stop string are not told; one that the stop string begins in is.
    """
    cutter = StopFilter(stop, trim=trim)
    return _follow(engine, tokenizer, request.id, engine.submit(request), cutter)


async def _texts(
    parts: AsyncGenerator[Piece | Completion, None],
) -> AsyncGenerator[str | Completion, None]:
    async with aclosing(parts):
        async for part in parts:
            if isinstance(part, Completion):
                yield part
            elif part.text:
                yield part.text


async def _follow(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    request_id: str,
    events: AsyncIterator[Event],
    cutter: StopFilter,
) -> AsyncGenerator[Piece | Completion, None]:
    detokenizer, texts, scores = Detokenizer(tokenizer), list[str](), _Scores(cutter)
    last: Token | None = None
    try:
        async for event in events:
            if isinstance(event, Token):
                text, stopped_before = detokenizer.push(event.id), cutter.stopped
                delta = cutter.push(text)
                scores.add(event, text)
                if cutter.stopped and not stopped_before:
                    last = event
                    engine.cancel(request_id)
            else:
                delta = cutter.push(detokenizer.flush()) + cutter.flush()
            tokens = scores.take(delta, last=isinstance(event, Finished))
            if any(scored.token is last for scored in tokens):
                last = None
            if delta or tokens:
                texts.append(delta)
                yield Piece(delta, tokens)
            if isinstance(event, Finished):
                yield _completion("".join(texts), event, cutter.stopped, last or event.stop)
    finally:
        engine.cancel(request_id)


class _Scores:
    """Scored tokens on their way, held back until their text is sure to be shown."""

    def __init__(self, cutter: StopFilter) -> None:
        self._cutter = cutter
        self._waiting: deque[Scored] = deque()  # offsets in the text before trimming
        self._decoded = self._shown = 0  # characters

    def add(self, token: Token, text: str) -> None:
        """A token that made `text` certain."""
        if token.logprob is not None:
            self._waiting.append(Scored(token, self._decoded))
        self._decoded += len(text)

    def take(self, delta: str, *, last: bool) -> tuple[Scored, ...]:
        """Those to tell with `delta`: at the end all that a stop string has not cut off."""
        self._shown += len(delta)
        trimmed = self._cutter.trimmed
        bound = self._shown + trimmed
        taken = list[Scored]()
        while self._waiting and (
            self._waiting[0].offset < bound or (last and not self._cutter.stopped)
        ):
            token, offset = self._waiting.popleft()
            taken.append(Scored(token, max(0, offset - trimmed)))
        return tuple(taken)


def _completion(text: str, end: Finished, stopped: bool, last: Token | None) -> Completion:
    return Completion(
        text=text,
        finish_reason="stop" if stopped else end.reason,
        prompt_tokens=end.prompt_tokens,
        generated_tokens=end.generated_tokens,
        queue_ms=end.queue_ms,
        first_token_ms=end.first_token_ms,
        total_ms=end.total_ms,
        stop_string=stopped,
        last=last,
    )


async def complete_all(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    stop: Sequence[str] = (),
    *,
    trim: bool = False,
    at_once: int = 64,
    on_done: Callable[[int], None] | None = None,
) -> list[Completion | LoraLandError]:
    """Answer many requests, base and adapters mixed; the answers in the order of the requests.

    A request that fails gives its error in its place and harms no other. At most `at_once` are in
    the engine at a time (keep it within the engine's queue), short prompts first so that batch
    mates are of like length. `on_done` is told the index of each as it ends. Cancelling this
    cancels all of them.
    """
    answers: dict[int, Completion | LoraLandError] = {}
    order = iter(sorted(range(len(requests)), key=lambda index: len(requests[index].prompt_ids)))

    async def work() -> None:
        for index in order:  # shared: each worker takes the next
            answers[index] = await complete_whole(
                engine, tokenizer, requests[index], stop, trim=trim
            )
            if on_done is not None:
                on_done(index)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(requests))):
            group.create_task(work())
    return [answers[index] for index in range(len(requests))]


async def complete_whole(
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    stop: Sequence[str] = (),
    *,
    trim: bool = False,
) -> Completion | LoraLandError:
    """Answer one request to its end; an error of ours is given, not raised."""
    answer: Completion | None = None
    try:
        async with aclosing(complete(engine, tokenizer, request, stop, trim=trim)) as parts:
            async for part in parts:
                if isinstance(part, Completion):
                    answer = part
    except LoraLandError as error:
        return error
    if answer is None:
        raise AssertionError("an engine ended a request without its last event")
    return answer
