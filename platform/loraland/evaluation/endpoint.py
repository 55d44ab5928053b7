"""What an outside endpoint is, and what exactly it is sent for an item.

Told a YAML file; knows no network, no storage and no key: of a key it knows the name of the
environment variable that holds it. All mistakes of a file are told together, none with its value.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from loraland.adapters.names import is_part
from loraland.bases.catalogue import get_base
from loraland.errors import InvalidConfiguration, UnknownBase, did_you_mean

FORMAT = 1  # raise when the same item would be put differently
MOST_STOPS = 4  # that the OpenAI API takes
PATHS = ("/chat/completions", "/completions")  # which the client appends to the URL

Body = dict[str, Any]  # of one request, as JSON values
Price = Annotated[Decimal, Field(ge=0, le=100_000)]


class Endpoint(BaseModel):
    """One model behind one URL, how it is asked, and what that may cost."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    # What decides the answers: a name is bound to these.
    name: str  # of its samples, and of its column on a leaderboard
    url: str  # up to /v1
    model: str = Field(min_length=1, max_length=256)
    api: Literal["chat", "completions"] = "chat"
    system: str | None = Field(None, min_length=1)  # a message before the prompt; chat only
    send_temperature: bool = True  # 0; false for models that refuse the parameter
    length_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"  # as it is called
    edition: str = Field("", max_length=64)  # any text; with another one everything is asked anew

    # How it is reached.
    api_key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")
    concurrency: int = Field(8, ge=1, le=256)  # requests at a time
    timeout_s: float = Field(120, gt=0, le=3600)  # of one attempt, from connection to last byte
    attempts: int = Field(6, ge=1, le=20)  # per request: about a minute of pauses

    # What it costs, and may cost, in all runs under this name together.
    usd_per_million_input_tokens: Price | None = None
    usd_per_million_output_tokens: Price | None = None
    max_usd: Decimal | None = Field(None, gt=0)
    max_total_tokens: int | None = Field(None, ge=1)  # of prompts and answers

    @field_validator("name")
    @classmethod
    def _is_nobody_else_s(cls, name: str) -> str:
        if not is_part(name):
            raise ValueError("must be at most 64 of a-z, 0-9, '.', '_' and '-'")
        try:
            get_base(name)
        except UnknownBase:
            return name
        raise ValueError("is the name of a base, whose samples lie under it; choose another")

    @field_validator("url")
    @classmethod
    def _has_no_secret(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname)
            _ = parts.port  # raises for one that is no number
        except ValueError:
            is_url = False
        if not is_url:
            raise ValueError("must be http:// or https:// and a host, up to /v1")
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "must have no user, query or fragment: they may hold secrets, and a URL is kept "
                "with the answers; a key goes into the variable that api_key_env names"
            )
        bare = url.rstrip("/")
        if bare.endswith(PATHS):
            raise ValueError("must end before /chat/completions or /completions, mostly in /v1")
        return bare

    @model_validator(mode="after")
    def _agree(self) -> Self:
        prices = self.usd_per_million_input_tokens, self.usd_per_million_output_tokens
        if prices.count(None) == 1:
            raise ValueError("give both prices or none; one of them may be 0")
        if (prices[0] is None) != (self.max_usd is None):
            raise ValueError("prices and max_usd belong together: give all three or none of them")
        if self.system is not None and self.api != "chat":
            raise ValueError("system is a message of a chat; leave it out, or take api: chat")
        if self.length_field != "max_tokens" and self.api != "chat":
            raise ValueError("length_field max_completion_tokens is of api: chat alone")
        return self

    @property
    def identity(self) -> dict[str, Any]:
        """All that decides the answers, without prompts."""
        fields = {
            "url", "model", "api", "system", "send_temperature", "length_field", "edition",
        }  # fmt: skip
        return self.model_dump(mode="json", include=fields)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the identity, in the place of a base's fingerprint."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def body(self, prompt: str, stops: Sequence[str], max_new_tokens: int) -> Body:
        """What is sent for a prompt: the prompt as it is, in a chat as one message of the user."""
        body: Body = {"model": self.model, self.length_field: max_new_tokens}
        if self.send_temperature:
            body["temperature"] = 0
        if sent := sendable(stops):
            body["stop"] = sent
        if self.api == "completions":
            return body | {"prompt": prompt}
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        return body | {"messages": [*before, {"role": "user", "content": prompt}]}

    def key(self, body: Body) -> str:
        """32 hex digits over all that decides the answer to a body, by which it is found again."""
        asked = {
            "format": FORMAT,
            "url": self.url,
            "api": self.api,
            "edition": self.edition,
            "body": body,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]


def sendable(stops: Sequence[str]) -> list[str]:
    """The stop strings, when a server that stops at them changes no answer; else none.

    White space before the first word is dropped before stops are looked for (engine/text.py). A
    server does not do that: a stop that begins with white space could end an answer before its
    first word. And where one is not sent the others are not either, because it may lie across one
    of them. Stops that are not sent are looked for in what came back.
    """
    found = [stop for stop in stops if stop]
    can_be = len(found) <= MOST_STOPS and not any(stop[0].isspace() for stop in found)
    return found if can_be else []


def load_endpoint(path: Path) -> Endpoint:
    """An endpoint from a YAML file. Raises InvalidConfiguration with all mistakes together."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InvalidConfiguration(
            f"endpoint file {path} cannot be read: {reason}; docs/endpoints.md has an example"
        ) from None
    return parse_endpoint(text, str(path))


def parse_endpoint(text: str, place: str) -> Endpoint:
    """An endpoint from YAML text; `place` names it in messages. Raises InvalidConfiguration."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        # Its own message repeats lines of the file, and somebody may have put a key there.
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" (line {mark.line + 1})"
        raise InvalidConfiguration(f"{place} is not YAML{where}") from None
    if not isinstance(content, dict):
        raise InvalidConfiguration(f"{place} must be a mapping with name, url and model")
    try:
        return Endpoint.model_validate(content)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False, include_context=False)
    lines = "\n".join(_line(fault) for fault in faults)
    raise InvalidConfiguration(f"the endpoint in {place} is wrong:\n{lines}")


def _line(fault: Any) -> str:
    """A mistake without the value: that may be a key in the wrong place."""
    place = ".".join(str(part) for part in fault["loc"]) or "altogether"
    if fault["type"] == "extra_forbidden":
        known = Endpoint.model_fields
        return f"  {place[:80]}: is no field here; {did_you_mean(place[:80], known)}"
    message = fault["msg"].removeprefix("Value error, ")
    if place == "api_key_env":
        message = "must be the name of an environment variable that holds the key, not the key"
    return f"  {place[:80]}: {message}"


def key_from(endpoint: Endpoint, environment: Mapping[str, str]) -> str | None:
    """The key of an endpoint; None when it needs none.

    Raises InvalidConfiguration, which names the variable and never its value.
    """
    name = endpoint.api_key_env
    if name is None:
        return None
    key = environment.get(name, "").strip()
    if not key:
        raise InvalidConfiguration(
            f"endpoint '{endpoint.name}' takes its key from the environment variable {name}, "
            "which is not set; set it, or leave api_key_env out if the endpoint needs no key"
        )
    if len(key) < 8 or not (key.isascii() and key.isprintable()):
        raise InvalidConfiguration(
            f"the environment variable {name} holds no key: fewer than 8 characters, or some that "
            "an HTTP header cannot carry"
        )
    return key
