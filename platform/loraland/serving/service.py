"""What the HTTP side stands on: the gateway over Serve handles, or a stand-in for tests."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from loraland.serving.config import Limits
from loraland.serving.directory import Directory
from loraland.serving.orders import BaseFacts, Order, Part, TokenSpan


class Service(Protocol):
    """Names, limits, and replicas to ask."""

    directory: Directory
    limits: Limits

    def complete(self, order: Order) -> AsyncGenerator[Part, None]:
        """The parts of an order as a replica sends them. Raises LoraLandError.

        Closing it cancels the order.
        """
        ...

    async def facts(self, base: str) -> BaseFacts:
        """What a replica of a base that is served tells of it. Raises LoraLandError."""
        ...

    async def tokenize(self, base: str, text: str, special: bool) -> list[TokenSpan]:
        """The tokens of a text, by a replica of a base that is served. Raises LoraLandError.

        `special` adds those that a prompt begins with.
        """
        ...
