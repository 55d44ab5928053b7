"""What a replica tells of itself without answering: its base and limits, and texts as tokens."""

from __future__ import annotations

from typing import Any

from loraland.bases.loading import LoadedBase
from loraland.errors import InvalidRequest
from loraland.serving.config import BaseSettings
from loraland.serving.orders import BaseFacts, TokenSpan


def facts_of(base: LoadedBase, context_tokens: int, config: BaseSettings) -> BaseFacts:
    """The facts of a base that an engine serves as its configuration says."""
    return BaseFacts(
        base=base.entry.name,
        fingerprint=base.fingerprint,
        precision=base.precision,
        device=str(base.device),
        chat=bool(base.tokenizer.chat_template),
        context_tokens=context_tokens,
        max_batch=config.max_batch,
        max_waiting=config.max_waiting,
        kv_tokens=config.kv_tokens,
        max_rank=config.max_rank,
        slots=config.slots,
    )


def token_spans(tokenizer: Any, text: str, *, special: bool) -> list[TokenSpan]:
    """The tokens of a text with their places; `special` adds those that a prompt begins with.

    Raises InvalidRequest for a base whose tokenizer knows no places.
    """
    if not tokenizer.is_fast:
        raise InvalidRequest(
            "the tokenizer of this base does not tell where its tokens lie in a text; ask for an "
            "answer of one token, whose usage tells their number"
        )
    found = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)
    ids = [int(token) for token in found["input_ids"]]
    names = tokenizer.convert_ids_to_tokens(ids)
    return [
        TokenSpan(id=token, text=name, start=start, stop=stop)
        for token, name, (start, stop) in zip(ids, names, found["offset_mapping"], strict=True)
    ]
