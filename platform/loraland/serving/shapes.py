"""How each endpoint writes its answers, whole and as events of a stream.

Told what was said; knows nothing of HTTP, orders or engines.
"""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol

from loraland.serving.logprobs import chat_logprobs, completion_logprobs
from loraland.serving.openai_api import (
    Answer,
    AssistantMessage,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatDeltaChoice,
    CompletionAnswer,
    CompletionChoice,
)
from loraland.serving.orders import TokenScore


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

    def piece(self, choice: int, said: Said) -> Answer:
        """One event of a stream."""
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

    def __init__(self, answer_id: str) -> None:
        self.id, self.model, self._created = answer_id, "", int(time.time())
        self._begun: set[int] = set()  # choices whose role was sent

    def whole(self, answers: list[Said]) -> ChatAnswer:
        """See `Shape`."""
        choices = [
            ChatChoice(
                index=index,
                message=AssistantMessage(content=said.text),
                logprobs=chat_logprobs(said.scores),
                finish_reason=said.reason,
            )
            for index, said in enumerate(answers)
        ]
        return ChatAnswer(id=self.id, created=self._created, model=self.model, choices=choices)

    def piece(self, choice: int, said: Said) -> ChatChunk:
        """See `Shape`. The first piece of each choice names the role."""
        role = None if choice in self._begun else "assistant"
        self._begun.add(choice)
        part = ChatDeltaChoice(
            index=choice,
            delta=AssistantMessage.model_validate({"role": role, "content": said.text}),
            logprobs=chat_logprobs(said.scores),
            finish_reason=said.reason,
        )
        return self._chunk([part])

    def last(self) -> ChatChunk:
        """See `Shape`."""
        return self._chunk([])

    def _chunk(self, choices: list[ChatDeltaChoice]) -> ChatChunk:
        return ChatChunk(id=self.id, created=self._created, model=self.model, choices=choices)
