"""The shape of every answer of OpenAI's completions and chat, whole and in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

from loraland.serving.logprobs import ChatLogprobs, CompletionLogprobs
from loraland.serving.orders import Order


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


class AnsweredFunction(BaseModel):
    """The function to call, or a piece of it."""

    name: str | None = None  # only in the first piece
    arguments: str  # JSON


class AnsweredCall(BaseModel):
    """A call that the model makes, or a piece of it."""

    index: int | None = None  # in pieces
    id: str | None = None  # only in the first piece
    type: Literal["function"] | None = "function"
    function: AnsweredFunction

    @model_serializer(mode="wrap")
    def _what_there_is(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        call: dict[str, Any] = {k: v for k, v in write(self).items() if v is not None}
        call["function"] = {k: v for k, v in call["function"].items() if v is not None}
        return call


class AssistantMessage(BaseModel):
    """What the model says in a chat, or a piece of it."""

    role: Literal["assistant"] | None = "assistant"
    content: str | None = None
    tool_calls: list[AnsweredCall] | None = None

    @model_serializer(mode="wrap")
    def _what_there_is(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        message: dict[str, Any] = write(self)
        if self.tool_calls is None:
            del message["tool_calls"]
        return message


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
