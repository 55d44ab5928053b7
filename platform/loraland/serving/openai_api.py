"""OpenAI's completions and chat: what may be asked.

A parameter is served, or refused by name. Sampling follows OpenAI: without `temperature` it is 1;
send 0 for the greedy, repeatable answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, field_validator

from loraland.engine.constraints import Grammar
from loraland.engine.protocol import MOST_LOGPROBS
from loraland.errors import LoraLandError
from loraland.serving.bodies import BadParameter, Body, Refused
from loraland.serving.messages import Messages, unanswered
from loraland.serving.orders import Prompt, Tool
from loraland.serving.response_format import Constrained
from loraland.serving.tools import MOST_TOOLS, FunctionTool, ToolChoice, grammar_of, mistakes_of

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
    "prediction": (),
    "reasoning_effort": ("none",),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "verbosity": ("medium",),
    "web_search_options": (),
}
OF_CHATS = {"parallel_tool_calls": (True, False), "tool_choice": ("none", "auto"), "tools": ([],)}


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool = False  # one more chunk at the end, with the usage


ModelText = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARACTERS)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
PromptText = Annotated[str, Field(min_length=1)]
TokenId = Annotated[int, Field(ge=0)]


class Wishes(Constrained):
    """How answers are made, in the words of OpenAI. Null means absent, as in its clients."""

    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0, le=2)  # default 1; 0 is greedy
    top_p: float | None = Field(default=None, gt=0, le=1)  # default 1
    top_k: int | None = Field(default=None, ge=0)  # an extension; default 0, off
    min_p: float | None = Field(default=None, ge=0, le=1)  # an extension; default 0, off
    repetition_penalty: float | None = Field(default=None, ge=0.01, le=100)  # one too; default 1
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)  # default 0
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)  # default 0
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    ignore_eos: bool | None = None  # an extension: answers have max_tokens, whatever the model says
    stream: bool | None = None
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
        first, *others = [*self.grammars] or ["none"]
        found = dict.fromkeys(others, f"{first} constrains the answer already; give one of the two")
        if self.ignore_eos and first != "none":
            found["ignore_eos"] = f"{first} says where the answer ends; leave one of the two out"
        return found


class _Request(Wishes):
    """What both endpoints share."""

    refused: ClassVar[Mapping[str, Refused]] = {
        name: Refused(neutral) for name, neutral in NOT_SERVED.items()
    } | {
        name: Refused(neutral, "is for chats; ask /v1/chat/completions")
        for name, neutral in OF_CHATS.items()
    }

    model: ModelText
    n: int | None = Field(default=None, ge=1)  # default 1
    stream_options: StreamOptions | None = None

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return ()

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(_Request):
    """The body of POST /v1/completions."""

    prompt: (  # a text, several texts, or one prompt as token ids
        PromptText
        | Annotated[list[PromptText], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
    )
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


class ChatRequest(_Request):
    """The body of POST /v1/chat/completions."""

    messages: Messages
    tools: Annotated[list[FunctionTool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None  # default auto where there are tools
    parallel_tool_calls: bool | None = None  # an answer makes one call at most, as either allows
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name of max_tokens
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0, le=MOST_LOGPROBS)  # needs `logprobs`

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The chat, as the only prompt."""
        return (tuple(message.shown for message in self.messages),)

    @property
    def grammars(self) -> dict[str, Grammar]:
        """See `Constrained.grammars`; a choice of tools is one more."""
        grammar = grammar_of(self.tools or (), self.tool_choice)
        return super().grammars | ({} if grammar is None else {"tools": grammar})

    @property
    def may_call(self) -> bool:
        """Whether the answer may be a call."""
        return grammar_of(self.tools or (), self.tool_choice) is not None

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """The tools that the model is told of; all of them, where it may call any."""
        some = self.tools or ()
        return tuple(tool.shown for tool in some if self.tool_choice != "none")

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
        more |= mistakes_of(self.tools or (), self.tool_choice)
        return super().conflicts | more | unanswered(self.messages)


AnyRequest = CompletionRequest | ChatRequest


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
        raise BadParameter.of(mistakes)


def error_body(error: LoraLandError) -> dict[str, Any]:
    """An error in OpenAI's shape."""
    kinds = {429: "rate_limit_error"}
    kind = kinds.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    param = getattr(error, "param", None)
    return {"error": {"message": error.message, "type": kind, "param": param, "code": error.code}}
