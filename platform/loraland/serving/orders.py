"""What the gateway asks of a replica, and what comes back: plain data that Ray carries.

The gateway has settled names, limits and defaults; the replica knows tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NotRequired, TypedDict, final

from loraland.adapters.names import ModelName
from loraland.engine.constraints import Grammar


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = str | tuple[int, ...] | tuple[Message, ...]  # text, token ids, or a chat


@dataclass(frozen=True, slots=True)
class Order:
    """One HTTP request: every prompt is answered `n` times by one model."""

    id: str  # unique; made by the gateway, never taken from outside
    model: ModelName  # a base, or an adapter at a version
    prompts: tuple[Prompt, ...]
    n: int
    max_new_tokens: int | None  # None: as many as fit, at most `most_new_tokens`
    most_new_tokens: int
    temperature: float  # 0 is greedy
    top_p: float
    top_k: int  # 0 is off
    seed: int | None  # of the first choice; choice k of a prompt uses seed + k
    stop: tuple[str, ...]
    # As in `engine.protocol.Sampling`; these defaults ask for nothing.
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None
    grammar: Grammar | None = None  # what the answers must match


class TokenScore(TypedDict):
    """A token of an answer, with its log-probabilities."""

    token: bytes  # what it stands for; the name of a special token
    logprob: float  # natural logarithm, of the model's own distribution
    offset: int  # characters of the answer before it
    top: list[tuple[bytes, float]]  # the likeliest tokens in its place, the likeliest first


@final
class Delta(TypedDict):
    """A piece of an answer."""

    choice: int  # prompt number * n + number of the choice
    text: str
    tokens: NotRequired[list[TokenScore]]  # when logprobs were asked for


@final
class End(TypedDict):
    """The end of one answer."""

    choice: int
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    generated_tokens: int


Part = Delta | End
