"""How each endpoint writes its answers, whole and as events of a stream.

Told what was said; knows nothing of HTTP, orders or engines.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import NamedTuple, Protocol

from loraland.serving.logprobs import chat_logprobs, completion_logprobs
from loraland.serving.openai_answers import (
    Answer,
    AnsweredCall,
    AnsweredFunction,
    AssistantMessage,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatDeltaChoice,
    CompletionAnswer,
    CompletionChoice,
)
from loraland.serving.orders import TokenScore
from loraland.serving.tools import CallReader, Heard


class Said(NamedTuple):
    """One answer, or a piece of it."""

    text: str | None  # None in the piece that only ends the answer
    reason: str | None  # why it ended; None while more comes
    scores: list[TokenScore] | None  # of its tokens, when logprobs were asked for


class Shape(Protocol):
    """How one endpoint writes answers."""

    id: str
    model: str

    def whole(self, answers: list[Said]) -> CompletionAnswer | ChatAnswer:
        """The answer at once: all choices in order."""
        ...

    def piece(self, choice: int, said: Said) -> Answer | None:
        """One event of a stream; None where nothing can be told yet."""
        ...

    def last(self) -> Answer:
        """The event that carries the usage, without a choice."""
        ...


class CompletionShape:
    """/v1/completions."""

    def __init__(self, answer_id: str) -> None:
        self.id, self.model, self._created = answer_id, "", int(time.time())

    def whole(self, answers: list[Said]) -> CompletionAnswer:
        """See `Shape`."""
        return self._answer([self._choice(index, said) for index, said in enumerate(answers)])

    def piece(self, choice: int, said: Said) -> CompletionAnswer:
        """See `Shape`."""
        return self._answer([self._choice(choice, said)])

    def last(self) -> CompletionAnswer:
        """See `Shape`."""
        return self._answer([])

    def _choice(self, index: int, said: Said) -> CompletionChoice:
        return CompletionChoice(
            index=index,
            text=said.text or "",
            logprobs=completion_logprobs(said.scores),
            finish_reason=said.reason,
        )

    def _answer(self, choices: list[CompletionChoice]) -> CompletionAnswer:
        return CompletionAnswer(
            id=self.id, created=self._created, model=self.model, choices=choices
        )


class ChatShape:
    """/v1/chat/completions."""

    def __init__(self, answer_id: str, *, calls: bool = False) -> None:
        """`calls` says whether answers may call tools."""
        self.id, self.model, self._created = answer_id, "", int(time.time())
        self._begun: set[int] = set()  # choices whose role was sent
        self._readers: defaultdict[int, CallReader] | None = (
            defaultdict(CallReader) if calls else None
        )

    def whole(self, answers: list[Said]) -> ChatAnswer:
        """See `Shape`."""
        choices = [self._choice(index, said) for index, said in enumerate(answers)]
        return ChatAnswer(id=self.id, created=self._created, model=self.model, choices=choices)

    def _choice(self, index: int, said: Said) -> ChatChoice:
        message, reason = AssistantMessage(content=said.text), said.reason
        if self._readers is not None:
            reader = CallReader()
            message, reason = _whole_message(reader, said.text or ""), _reason(reader, reason)
        return ChatChoice(
            index=index,
            message=message,
            logprobs=chat_logprobs(said.scores),
            finish_reason=reason,
        )

    def piece(self, choice: int, said: Said) -> ChatChunk | None:
        """See `Shape`. The first piece of each choice names the role."""
        content, calls, reason = said.text, None, said.reason
        if self._readers is not None:
            reader = self._readers[choice]
            heard = reader.push(said.text or "")
            ended = reader.flush() if reason is not None else ""
            content, calls = heard.content + ended or None, _calls(reader, heard)
            reason = _reason(reader, reason)
            if all(told is None for told in (content, calls, reason, said.scores)):
                return None
        role = None if choice in self._begun else "assistant"
        self._begun.add(choice)
        delta = {"role": role, "content": content, "tool_calls": calls}
        part = ChatDeltaChoice(
            index=choice,
            delta=AssistantMessage.model_validate(delta),
            logprobs=chat_logprobs(said.scores),
            finish_reason=reason,
        )
        return self._chunk([part])

    def last(self) -> ChatChunk:
        """See `Shape`."""
        return self._chunk([])

    def _chunk(self, choices: list[ChatDeltaChoice]) -> ChatChunk:
        return ChatChunk(id=self.id, created=self._created, model=self.model, choices=choices)


def _reason(reader: CallReader, reason: str | None) -> str | None:
    return "tool_calls" if reason is not None and reader.complete else reason


def _whole_message(reader: CallReader, text: str) -> AssistantMessage:
    heard = reader.push(text)
    content = heard.content + reader.flush()
    if not reader.called:
        return AssistantMessage(content=content)
    function = AnsweredFunction(name=heard.call, arguments=heard.arguments)
    call = AnsweredCall(id=reader.id, function=function)
    return AssistantMessage(content=content or None, tool_calls=[call])


def _calls(reader: CallReader, heard: Heard) -> list[AnsweredCall] | None:
    """What a piece adds to the only call; None for nothing."""
    if heard.call is not None:
        function = AnsweredFunction(name=heard.call, arguments=heard.arguments)
        return [AnsweredCall(index=0, id=reader.id, function=function)]
    if heard.arguments:
        function = AnsweredFunction(arguments=heard.arguments)
        return [AnsweredCall(index=0, type=None, function=function)]
    return None
