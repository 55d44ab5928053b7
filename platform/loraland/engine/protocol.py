"""The contract of an engine: token ids in, token ids out.

An engine knows no tokenizer, no HTTP and no Ray. It holds one base and any adapters loaded into it.
Two implementations stand behind this protocol: `reference` (plain, the oracle) and `batched`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from loraland.engine.tiers import Resident

if TYPE_CHECKING:
    from numpy import bool_
    from numpy.typing import NDArray

MOST_LOGPROBS = 20  # likeliest tokens told beside each chosen one; OpenAI's limit


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen. The defaults are greedy.

    Applied in this order: penalties, constraint, temperature, top-k, top-p, min-p. Greedy answers
    heed penalties and constraints too.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0  # in (0, 1]: the likeliest tokens that hold this much of the mass
    top_k: int = 0  # 0 is off
    min_p: float = 0.0  # in [0, 1]: tokens less likely than this part of the likeliest go; 0 is off
    repetition_penalty: float = 1.0  # as in transformers: over prompt and answer; 1 is off
    presence_penalty: float = 0.0  # as in OpenAI: off the logit of a token that the answer has
    frequency_penalty: float = 0.0  # the same, for each time that the answer has it
    seed: int | None = None  # None: drawn anew; a seed makes the answer repeatable
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)  # generation ends on these
    # Of the model's own distribution, before penalties, constraint and temperature. None: none;
    # 0: of the chosen token; k: of the k likeliest too.
    logprobs: int | None = None


class Matcher(Protocol):
    """One answer on its way through a constraint. Used by one thread at a time."""

    @property
    def finished(self) -> bool:
        """Whether the answer is whole and nothing may follow but a stop token."""
        ...

    def allowed(self) -> NDArray[bool_]:
        """Which tokens may come next, shape (vocabulary,); token ids beyond it may not.

        Stop tokens are allowed exactly where the answer may end. Changes nothing that a caller can
        see. All False, or ConstraintFailed raised, when the constraint leads nowhere.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer; a stop token ends it.

        Raises ConstraintFailed for a token that is not allowed.
        """
        ...


class Constraint(Protocol):
    """What an answer must match, compiled. Many requests may share it."""

    def start(self) -> Matcher:
        """A matcher before the first token. Shares no state with others."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt for one model."""

    id: str
    prompt_ids: tuple[int, ...]
    adapter: str | None = None  # a version loaded with `load`; None is the base
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One generated token. Stop tokens are not sent."""

    id: int
    index: int  # 0 for the first token of the answer
    logprob: float | None = None  # natural logarithm; None when not asked for
    top_logprobs: tuple[tuple[int, float], ...] = ()  # (token id, logprob), the likeliest first


class Finished(NamedTuple):
    """The last event of every request."""

    reason: str  # "stop", "length" or "cancelled"
    prompt_tokens: int
    generated_tokens: int  # tokens the model computed, a stop token included
    queue_ms: float  # from submission to the start of the first step
    first_token_ms: float  # from submission to the first token; equals total_ms when none came
    total_ms: float
    stop: Token | None = None  # the stop token that ended it, which is no event of its own


Event = Token | Finished


class Stats(NamedTuple):
    """Counters since the engine was made; those marked so are of this moment."""

    requests: int
    finished: int
    prompt_tokens: int
    generated_tokens: int
    waiting: int  # now
    running: int  # now
    reused_tokens: int = 0  # of prompts, that the prefix cache saved
    passes: int = 0  # forward passes
    pass_tokens: int = 0  # computed in all of them; by passes and budget, the batch's fill
    failed_passes: int = 0  # of them, or of the reference's batches, that raised
    preemptions: int = 0
    blocks: int = 0  # of the KV cache
    free_blocks: int = 0  # now
    slots: int = 0  # on the device, beside the base
    working_set: int = 0  # adapters asked for in the last minute; beyond the slots, misses are due
    hits: int = 0  # first tokens of requests whose adapter was on the device at submission
    misses: int = 0  # of those whose adapter was not
    hit_ttft_ms: float = 0.0  # sum over the hits, from submission to the first token
    miss_ttft_ms: float = 0.0  # sum over the misses
    # How often each multi-LoRA operation was chosen; on a GPU also how passes attended, and how
    # many were replayed from a graph.
    ops: Mapping[str, int] = MappingProxyType({})


class Engine(Protocol):
    """What serving and judging need of an engine. All methods are called on one event loop."""

    context_tokens: int  # prompt and answer together fit within this

    async def load(self, version: str, folder: Path) -> None:
        """Make an adapter (a PEFT folder) usable under `version`.

        Loading what is loaded changes nothing. A failed load leaves the engine as it was and raises
        AdapterRejected. Requests under way go on meanwhile.
        """
        ...

    async def unload(self, version: str) -> None:
        """Let an adapter go when its last lease ends. New requests for it are refused at once."""
        ...

    def submit(self, request: Request) -> AsyncIterator[Event]:
        """Queue a request and return its events: tokens in order, then one Finished.

        The request holds a lease on its adapter from this call to its last event. Raises
        UnknownModel when the adapter is not loaded, ContextTooLong, InvalidRequest, EngineBusy,
        EngineStopped: all before anything is queued. Closing the iterator cancels the request.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request; its last event is Finished("cancelled"). Unknown ids are ignored."""
        ...

    def residency(self) -> list[Resident]:
        """The adapters held now, in order of loading."""
        ...

    def stats(self) -> Stats:
        """Counters since the engine was made."""
        ...

    async def close(self) -> None:
        """Stop the engine; requests under way end with EngineStopped."""
        ...
