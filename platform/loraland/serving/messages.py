"""The turns of a chat as clients send them: their roles, texts, calls of tools and their results.

A field that answers carry and that says nothing is taken, so that an answer can be sent back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from loraland.serving.bodies import Body, Refused
from loraland.serving.orders import Message
from loraland.serving.tools import MOST_TOOLS, MadeCall


class ChatMessage(Body):
    """One turn of a chat, as text."""

    refused: ClassVar[Mapping[str, Refused]] = {
        "annotations": Refused(([],)), "audio": Refused(), "function_call": Refused(),
        "refusal": Refused(), "name": Refused((), "is not served: speakers have no names here"),
    }  # fmt: skip

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None  # may be absent only beside tool_calls
    tool_calls: list[MadeCall] | None = Field(default=None, max_length=MOST_TOOLS)
    tool_call_id: str | None = None  # in a turn of a tool: the call that it answers

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_absent(cls, message: object) -> object:
        """Answers that are sent back carry fields that say nothing."""
        if not isinstance(message, dict):
            return message
        neutral = {name: (None, *refused.neutral) for name, refused in cls.refused.items()}
        return {k: v for k, v in message.items() if k not in neutral or v not in neutral[k]}

    @model_validator(mode="after")
    def _whole(self) -> ChatMessage:
        if self.content is None and not self.tool_calls:
            raise ValueError("has no content")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("has tool_calls, which only an assistant makes")
        if (self.tool_call_id is None) == (self.role == "tool"):
            raise ValueError("needs a tool_call_id if it is a tool's, and only then")
        return self

    @property
    def shown(self) -> Message:
        """As chat templates know it."""
        message = Message(role=self.role, content=self.content or "")
        if self.tool_calls:
            message["tool_calls"] = [call.shown for call in self.tool_calls]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)]


def unanswered(messages: list[ChatMessage]) -> dict[str, str]:
    """Turns of tools that answer no call made before, each with the reason."""
    made: set[str] = set()
    found = {}
    for number, message in enumerate(messages):
        made |= {call.id for call in message.tool_calls or ()}
        if message.tool_call_id is not None and message.tool_call_id not in made:
            found[f"messages.{number}"] = "answers a call that no assistant has made before it"
    return found
