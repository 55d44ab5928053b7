"""Makes LoRAX's answers of what a replica sends: whole, and token by token.

A token's text is what the answer grew by when it came, so that all texts joined are the answer.
Told what was said; knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence

from loraland.serving.logprobs import shown
from loraland.serving.lorax_models import (
    AlternativeToken,
    Details,
    FinishReason,
    GenerateAnswer,
    SequenceDetails,
    StreamAnswer,
    StreamDetails,
    TokenAnswer,
)
from loraland.serving.orders import Delta, End, Order, Part, TokenScore


class Answer:
    """One answer as it comes."""

    def __init__(self, order: Order, choice: int, prompt: str) -> None:
        """The answer number `choice` of an order; `prompt` goes before its text."""
        self._prompt, self._texts = prompt, list[str]()
        self._characters = 0
        self._seed = None if order.seed is None else order.seed + choice
        self._alternatives = bool(order.logprobs)
        # A stop string may cut the last token's text, and then no other token comes to end with.
        self._waits = bool(order.stop)
        self._held: TokenAnswer | None = None
        self.tokens: list[TokenAnswer] = []  # those that are sure
        self.end: End | None = None

    @property
    def text(self) -> str:
        """All of it so far."""
        return self._prompt + "".join(self._texts)

    def add(self, part: Part) -> list[TokenAnswer]:
        """The tokens that are sure now. At the end the last of `tokens` is the last of all."""
        before = len(self.tokens)
        if "text" in part:
            self._grow(part)
        else:
            self.end = part
            if "last" in part:
                self._hold(self._token(part["last"], "" if part["stop_string"] else None))
            self._release()
        return self.tokens[before:]

    def _grow(self, part: Delta) -> None:
        scores = part.get("tokens", [])
        text, begun = part["text"], self._characters
        self._texts.append(text)
        self._characters += len(text)
        places = [min(max(score["offset"] - begun, 0), len(text)) for score in scores]
        if places and self._held is None:
            places[0] = 0
        self._lengthen(text[: places[0]] if places else text)
        stops = [*places[1:], len(text)]
        for score, start, stop in zip(scores, places, stops[: len(places)], strict=True):
            self._hold(self._token(score, text[start:stop]))
            if not (self._waits or score["final"]):
                self._release()

    def _hold(self, token: TokenAnswer) -> None:
        self._release()
        self._held = token

    def _release(self) -> None:
        if self._held is not None:
            self.tokens.append(self._held)
            self._held = None

    def _lengthen(self, text: str) -> None:
        """Text that came after its token: it was held back as the beginning of a stop string."""
        if text and self._held is not None:
            self._held = self._held.model_copy(update={"text": self._held.text + text})

    def _token(self, score: TokenScore, text: str | None) -> TokenAnswer:
        alternatives = [
            AlternativeToken(id=token_id, text=shown(token), logprob=logprob)
            for token_id, (token, logprob) in zip(score["top_ids"], score["top"], strict=True)
        ]
        return TokenAnswer(
            id=score["id"],
            text=shown(score["token"]) if text is None or score["special"] else text,
            logprob=score["logprob"],
            special=score["special"],
            alternative_tokens=alternatives if self._alternatives else None,
        )

    @property
    def details(self) -> StreamDetails:
        """How it ended; it must have."""
        assert self.end is not None
        return StreamDetails(
            finish_reason=_reason(self.end),
            prompt_tokens=self.end["prompt_tokens"],
            generated_tokens=self.end["generated_tokens"],
            seed=self._seed,
        )

    @property
    def mean_logprob(self) -> float:
        """By which the best of several is chosen, as in LoRAX."""
        return sum(token.logprob for token in self.tokens) / max(1, len(self.tokens))


def whole(answers: Sequence[Answer], *, details: bool) -> GenerateAnswer:
    """The best of the answers, all of which have ended."""
    best = max(answers, key=lambda answer: answer.mean_logprob)
    if not details:
        return GenerateAnswer(generated_text=best.text)
    others = [
        SequenceDetails(
            **answer.details.model_dump(), generated_text=answer.text, tokens=answer.tokens
        )
        for answer in answers
        if answer is not best
    ]
    told = Details(
        **best.details.model_dump(), tokens=best.tokens, best_of_sequences=others or None
    )
    return GenerateAnswer(generated_text=best.text, details=told)


def events(answer: Answer, part: Part, *, details: bool) -> list[StreamAnswer]:
    """The events that a part of the only answer makes; the last one tells the whole text."""
    made = [StreamAnswer(token=token) for token in answer.add(part)]
    if answer.end is not None and made:
        ended = answer.details if details else None
        made[-1] = StreamAnswer(token=made[-1].token, generated_text=answer.text, details=ended)
    return made


def _reason(end: End) -> FinishReason:
    if end["finish_reason"] != "stop":
        return "length"
    return "stop_sequence" if end["stop_string"] else "eos_token"
