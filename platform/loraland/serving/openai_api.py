"""OpenAI's completions and chat: what may be asked, and the shape of every answer.

A parameter is served, or refused by name; none is ignored in silence. All mistakes of one request
are told together. Sampling follows OpenAI: without `temperature` it is 1; send 0 for the greedy,
repeatable answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from loraland.engine.protocol import MOST_LOGPROBS
from loraland.errors import InvalidRequest, LoraLandError, did_you_mean
from loraland.serving.logprobs import ChatLogprobs, CompletionLogprobs
from loraland.serving.orders import Message, Order, Prompt
from loraland.serving.response_format import Constrained

MAX_STOPS, MAX_STOP_CHARACTERS = 4, 200
MAX_NAME_CHARACTERS = 256  # of `model` and `user`
COMPLETION_TOKENS = 16  # OpenAI's default for completions

# Parameters of OpenAI that are not served yet, with the values that ask for nothing.
NOT_SERVED: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "metadata": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": ("medium",),
    "web_search_options": (),
}


class BadParameter(InvalidRequest):
    """One or more parameters of a request are wrong; `param` is the first of them."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Body):
    """How a stream is sent."""

    include_usage: bool = False  # one more chunk at the end, with the usage


class _Request(Constrained):
    """What both endpoints share. Null means absent, as in OpenAI's clients."""

    model: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)  # default 1; 0 is greedy
    top_p: float | None = Field(default=None, gt=0, le=1)  # default 1
    top_k: int | None = Field(default=None, ge=0)  # an extension; default 0, off
    min_p: float | None = Field(default=None, ge=0, le=1)  # an extension; default 0, off
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)  # one too; default 1
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)  # default 0
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)  # default 0
    n: int | None = Field(default=None, ge=1)  # default 1
    stop: str | list[str] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=MAX_NAME_CHARACTERS)  # accepted, not kept

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: object) -> object:
        stops = [value] if isinstance(value, str) else value
        if stops is not None and not (
            isinstance(stops, list)
            and len(stops) <= MAX_STOPS
            and all(isinstance(s, str) and 0 < len(s) <= MAX_STOP_CHARACTERS for s in stops)
        ):
            raise ValueError(
                f"must be a text or a list of at most {MAX_STOPS} texts, each of 1 to "
                f"{MAX_STOP_CHARACTERS} characters"
            )
        return stops

    @property
    def stops(self) -> tuple[str, ...]:
        """All stop strings."""
        return tuple(self.stop or ())

    @property
    def conflicts(self) -> dict[str, str]:
        """Fields that do not go together, with the reason."""
        first, *others = self.grammars or ["none"]
        return dict.fromkeys(others, f"{first} constrains the answer already; give one of the two")

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """The body of POST /v1/completions."""

    prompt: str | list[str] | list[int]  # a text, several texts, or one prompt as token ids
    logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)  # of so many tokens

    @field_validator("prompt", mode="before")
    @classmethod
    def _one_kind(cls, value: object) -> object:
        items = value if isinstance(value, list) else [value]
        ids = isinstance(value, list) and all(type(item) is int and item >= 0 for item in items)
        if not items or not (ids or all(isinstance(item, str) and item for item in items)):
            raise ValueError(
                "must be a text, a list of texts, or a list of token ids, none of them empty"
            )
        return value

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Each prompt, in order."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        texts = tuple(item for item in self.prompt if isinstance(item, str))
        return texts or (tuple(item for item in self.prompt if isinstance(item, int)),)

    @property
    def wished_tokens(self) -> int | None:
        """The longest answer asked for."""
        return self.max_tokens or COMPLETION_TOKENS

    @property
    def wished_logprobs(self) -> int | None:
        """Of how many of the likeliest tokens, beside the chosen one; None: of none at all."""
        return self.logprobs


class ChatMessage(_Body):
    """One turn of a chat, as text."""

    role: Literal["system", "user", "assistant"]
    content: str
    name: None = None  # speakers have no names here


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)  # needs `logprobs`

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The chat, as the only prompt."""
        return (tuple(Message(role=m.role, content=m.content) for m in self.messages),)

    @property
    def wished_tokens(self) -> int | None:
        """The longest answer asked for; None leaves it to the context."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def wished_logprobs(self) -> int | None:
        """Of how many of the likeliest tokens, beside the chosen one; None: of none at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def conflicts(self) -> dict[str, str]:
        """Fields that do not go together, with the reason."""
        lonely = self.top_logprobs and not self.logprobs
        more = {"top_logprobs": "is told only with logprobs: true; set that too"} if lonely else {}
        return super().conflicts | more


AnyRequest = CompletionRequest | ChatRequest
R = TypeVar("R", CompletionRequest, ChatRequest)


def read_body(kind: type[R], content: bytes) -> R:
    """A request from the bytes of an HTTP body. Raises BadParameter with all that is wrong."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"the body is not JSON: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise BadParameter("the body must be a JSON object")
    mistakes = _not_served(body) | _unknown(kind, body)
    try:
        request = kind.model_validate({k: v for k, v in body.items() if k in kind.model_fields})
        mistakes |= request.conflicts
    except ValidationError as error:
        mistakes |= _invalid(error)
    if mistakes:
        text = "; ".join(f"{name}: {what}" for name, what in mistakes.items())
        raise BadParameter(text, next(iter(mistakes)))
    return request


def _not_served(body: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: "is not served yet; leave it out"
        for name, neutral in NOT_SERVED.items()
        if body.get(name) is not None and not any(_same(body[name], value) for value in neutral)
    }


def _same(value: object, neutral: object) -> bool:
    # In Python 0 == False: `logprobs: 0` asks for something, `logprobs: false` does not.
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _unknown(kind: type[BaseModel], body: Mapping[str, Any]) -> dict[str, str]:
    known = kind.model_fields.keys()
    return {
        name[:80]: f"is no parameter of this endpoint; {did_you_mean(name[:80], known)}"
        for name in list(body)[:100]
        if name not in known and name not in NOT_SERVED
    }


def _invalid(error: ValidationError) -> dict[str, str]:
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in detail["loc"]) or "body"
        message = detail["msg"].removeprefix("Value error, ")
        found.setdefault(place, message[:1].lower() + message[1:])
    return found


def check_limits(request: AnyRequest, *, prompts: int, choices: int, new_tokens: int) -> None:
    """Raises BadParameter when a request asks for more than an application gives."""
    mistakes = {}
    if len(request.prompts) > prompts:
        mistakes["prompt"] = f"{len(request.prompts)} prompts, at most {prompts} in one request"
    if (request.n or 1) > choices:
        mistakes["n"] = f"is {request.n}, at most {choices}"
    if (request.wished_tokens or 0) > new_tokens:
        mistakes["max_tokens"] = f"is {request.wished_tokens}, at most {new_tokens}"
    if mistakes:
        text = "; ".join(f"{name}: {what}" for name, what in mistakes.items())
        raise BadParameter(text, next(iter(mistakes)))


def error_body(error: LoraLandError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kinds = {429: "rate_limit_error"}
    kind = kinds.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    param = getattr(error, "param", None)
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}


# Answers


class Usage(BaseModel):
    """Tokens of a whole request: each prompt once, and all choices."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CompletionChoice(BaseModel):
    """One answer, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None  # None while more comes


class CompletionAnswer(BaseModel):
    """The answer of /v1/completions; also the shape of its chunks."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int  # seconds since 1970
    model: str  # base, or base/task@version: what produced the answer
    choices: list[CompletionChoice]
    usage: Usage | None = None


class AssistantMessage(BaseModel):
    """What the model says in a chat, or a piece of it."""

    role: Literal["assistant"] | None = "assistant"
    content: str | None = None


class ChatChoice(BaseModel):
    """One answer in a chat."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None


class ChatAnswer(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None = None


class ChatDeltaChoice(BaseModel):
    """A piece of one answer in a chat."""

    index: int
    delta: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None


class ChatChunk(BaseModel):
    """One event of a streamed chat."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChatDeltaChoice]
    usage: Usage | None = None


Answer = CompletionAnswer | ChatAnswer | ChatChunk


def usage_of(order: Order, prompt_tokens: Mapping[int, int], generated: int) -> Usage:
    """The usage of an order; `prompt_tokens` by choice number."""
    prompts = sum(tokens for choice, tokens in prompt_tokens.items() if choice % order.n == 0)
    return Usage(
        prompt_tokens=prompts, completion_tokens=generated, total_tokens=prompts + generated
    )
