"""The tokens of a base as the bytes they stand for, read once from its tokenizer.

What constraints are matched against, and what the log-probabilities of tokens are labelled with.
Imports neither torch nor transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from llguidance import LLTokenizer

from loraland.errors import InvalidRequest


class Vocabulary:
    """The tokens of one base. Read when first needed: half a second for 50,000 tokens."""

    def __init__(self, tokenizer: Any, stop_token_ids: Iterable[int]) -> None:
        """A transformers tokenizer, and the ids at which an answer may end."""
        self._tokenizer = tokenizer
        self.stop_token_ids = frozenset(stop_token_ids)

    @cached_property
    def core(self) -> LLTokenizer:
        """The tokenizer in the words of llguidance.

        Raises InvalidRequest for a base whose tokenizer cannot be read.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InvalidRequest(
                "constraints and logprobs need a tokenizer of the `tokenizers` library, which this "
                "base does not have; leave them out, or ask another base"
            )
        try:
            return LLTokenizer(backend.to_str(), eos_token=sorted(self.stop_token_ids) or None)
        except ValueError as error:
            raise InvalidRequest(
                f"the tokenizer of this base cannot be read for constraints and logprobs: {error}; "
                "leave them out, or ask another base"
            ) from error

    def bytes_of(self, token_id: int) -> bytes:
        """What a token stands for; the name of a special one. Empty for an id without a token."""
        return self.core.decode_bytes([token_id]) if token_id < self.core.vocab_size else b""
