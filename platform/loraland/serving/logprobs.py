"""Log-probabilities in the two shapes in which OpenAI tells them.

Natural logarithms of the model's own distribution, before temperature, penalties and constraints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import BaseModel

from loraland.serving.orders import TokenScore


class CompletionLogprobs(BaseModel):
    """Of the tokens of a completion, or of a piece of it; four lists of one length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]  # the likeliest, and the token itself
    text_offset: list[int]  # characters of this choice's text before the token


class TopLogprob(BaseModel):
    """One of the likeliest tokens in a place."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """One token of a chat answer."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Of the tokens of a chat answer, or of a piece of it."""

    content: list[TokenLogprob]
    refusal: None = None


def completion_logprobs(scores: Sequence[TokenScore] | None) -> CompletionLogprobs | None:
    """The scores of a completion; None when none were asked for."""
    if scores is None:
        return None
    return CompletionLogprobs(
        tokens=[shown(score["token"]) for score in scores],
        token_logprobs=[score["logprob"] for score in scores],
        top_logprobs=[
            _by_text([*score["top"], (score["token"], score["logprob"])]) for score in scores
        ],
        text_offset=[score["offset"] for score in scores],
    )


def chat_logprobs(scores: Sequence[TokenScore] | None) -> ChatLogprobs | None:
    """The scores of a chat answer; None when none were asked for."""
    if scores is None:
        return None
    return ChatLogprobs(
        content=[
            TokenLogprob(
                token=shown(score["token"]),
                logprob=score["logprob"],
                bytes=list(score["token"]),
                top_logprobs=[
                    TopLogprob(token=shown(token), logprob=logprob, bytes=list(token))
                    for token, logprob in score["top"]
                ],
            )
            for score in scores
        ]
    )


def shown(token: bytes) -> str:
    r"""A token as text, or as OpenAI writes one that is no whole character: `bytes:\xe2\x80`."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)


def _by_text(scored: Iterable[tuple[bytes, float]]) -> dict[str, float]:
    """By text; of two tokens that read the same, the likelier."""
    found: dict[str, float] = {}
    for token, logprob in scored:
        found[shown(token)] = max(logprob, found.get(shown(token), logprob))
    return found
