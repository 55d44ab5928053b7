"""One prompt for several models: what may be asked, and the shape of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, Field

from loraland.serving.bodies import BadParameter, Refused
from loraland.serving.messages import Messages, unanswered
from loraland.serving.openai_answers import Usage
from loraland.serving.openai_api import (
    NOT_SERVED,
    OF_CHATS,
    ModelText,
    PromptText,
    Wishes,
)
from loraland.serving.openapi import ErrorDetail
from loraland.serving.orders import Prompt

FEWEST, MOST = 2, 8  # columns
ANSWER_TOKENS = 256  # where the request names no limit; a base may never come to an end


class CompareRequest(Wishes):
    """The body of POST /v1/compare. Every model is asked the same."""

    refused: ClassVar[Mapping[str, Refused]] = {
        name: Refused(neutral, "is not served in a comparison; leave it out")
        for name, neutral in {**NOT_SERVED, **OF_CHATS, "n": (1,), "logprobs": (False,)}.items()
    }

    models: Annotated[list[ModelText], Field(min_length=FEWEST, max_length=MOST)]
    prompt: PromptText | None = None
    messages: Messages | None = None
    max_completion_tokens: int | None = Field(default=None, ge=1)  # the newer name of max_tokens

    @property
    def asked(self) -> Prompt:
        """The prompt or the chat."""
        if self.messages is not None:
            return tuple(message.shown for message in self.messages)
        return self.prompt or ""

    @property
    def wished_tokens(self) -> int | None:
        """The longest answer asked for."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def conflicts(self) -> dict[str, str]:
        """Fields that do not go together, with the reason."""
        found = super().conflicts | unanswered(self.messages or [])
        if (self.prompt is None) == (self.messages is None):
            found["prompt"] = "give either a prompt or messages"
        return found


def check_limits(asked: CompareRequest, new_tokens: int) -> None:
    """Raises BadParameter when a request asks for more than an application gives."""
    if (asked.wished_tokens or 0) > new_tokens:
        told = f"is {asked.wished_tokens}, at most {new_tokens}"
        raise BadParameter.of({"max_tokens": told})


class ColumnPiece(BaseModel):
    """An event: what the answer of one model grew by."""

    index: int  # of the model in the request
    model: str  # base, or base/task@version
    text: str


class ColumnEnd(BaseModel):
    """An event: one answer has ended."""

    index: int
    model: str
    finish_reason: str
    usage: Usage
    ttft_ms: float  # from submission to the first text, as the gateway saw it
    tokens_per_s: float  # of the answer, over all of its time


class ColumnAnswer(ColumnEnd):
    """One answer, when nothing is streamed."""

    text: str


class ColumnError(BaseModel):
    """One model gave no answer, or no whole one; in a stream as an event."""

    index: int
    model: str
    error: ErrorDetail


class Comparison(BaseModel):
    """The answer of /v1/compare."""

    object: Literal["comparison"] = "comparison"
    answers: list[ColumnAnswer | ColumnError]  # in the order of the models
