"""What the gateway asks of a replica, and what comes back: plain data that Ray carries.

The gateway has settled names, limits and defaults; the replica knows tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict, final

from loraland.adapters.names import ModelName
from loraland.engine.constraints import Grammar


class CalledFunction(TypedDict):
    """What a model wanted to be called."""

    name: str
    arguments: dict[str, Any]


class ToolCall(TypedDict):
    """A call that a model made in an earlier turn, as chat templates know it."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(TypedDict):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: NotRequired[list[ToolCall]]  # of an assistant
    tool_call_id: NotRequired[str]  # of a tool: the call that it answers


class Tool(TypedDict):
    """A function that a model may call, as chat templates know it."""

    type: Literal["function"]
    function: dict[str, Any]  # name, description, parameters (a JSON schema)


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
    tools: tuple[Tool, ...] = ()  # shown to the model in a chat; `grammar` is what holds it to them
    truncate: int | None = None  # tokens kept of each prompt, from its end
    ignore_eos: bool = False  # go on to `max_new_tokens`, whatever the model says
    whole: bool = False  # its client gets it at once, so it may begin anew; see `Delta.again`


class TokenScore(TypedDict):
    """A token of an answer, with its log-probabilities."""

    id: int
    token: bytes  # what it stands for; the name of a special token
    special: bool  # whether its text is no part of the answer
    logprob: float  # natural logarithm, of the model's own distribution
    offset: int  # characters of the answer before it
    top: list[tuple[bytes, float]]  # the likeliest tokens in its place, the likeliest first
    top_ids: list[int]  # theirs
    final: bool  # whether the answer ends with it because it has as many tokens as it may


@final
class Delta(TypedDict):
    """A piece of an answer."""

    choice: int  # prompt number * n + number of the choice
    text: str
    tokens: NotRequired[list[TokenScore]]  # when logprobs were asked for
    tier: NotRequired[str]  # of an order's first part: where its adapter was when it was submitted
    # All that came before, of every choice, is void: its replica ended and another begins. Only of
    # orders that are `whole`.
    again: NotRequired[bool]


@final
class End(TypedDict):
    """The end of one answer."""

    choice: int
    finish_reason: str  # "stop" or "length"
    prompt_tokens: int
    generated_tokens: int
    tier: NotRequired[str]  # as in Delta, where the first answer is empty
    stop_string: bool  # whether it ended with a stop string; else "stop" means a stop token
    queue_ms: float  # from submission to the engine until its first step
    total_ms: float  # from submission to the engine until its end
    # The stop token, or the token that completed the stop string, where that is in no piece; when
    # logprobs were asked for.
    last: NotRequired[TokenScore]


@final
class BaseFacts(TypedDict):
    """What a replica tells of its base."""

    base: str
    fingerprint: str  # of its weights
    precision: str
    device: str
    chat: bool  # whether it has a chat template
    context_tokens: int  # prompt and answer together
    max_batch: int  # requests in one forward pass
    max_waiting: int  # requests queued, per replica
    kv_tokens: int  # of all running requests, per replica
    max_rank: int  # of an adapter
    slots: int  # adapters on the device at once, per replica


@final
class TokenSpan(TypedDict):
    """A token of a text, and where it lies."""

    id: int
    text: str  # as the tokenizer writes it
    start: int  # characters; 0 for one that is not in the text
    stop: int


Part = Delta | End
AGAIN = Delta(choice=0, text="", again=True)
