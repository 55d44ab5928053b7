"""Reads the JSON body of a request into a model, and tells all that is wrong with it at once.

A parameter is served, or refused by name with a reason; none is ignored in silence. Knows no
endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from loraland.errors import InvalidRequest, did_you_mean

MOST_UNKNOWN = 100  # names looked at; each is compared with all that there are
SHOWN_CHARACTERS = 80  # of a name that is not ours


class BadParameter(InvalidRequest):
    """One or more parameters of a request are wrong; `param` is the first of them."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    @classmethod
    def of(cls, mistakes: Mapping[str, str]) -> BadParameter:
        """The error that tells all mistakes, by parameter. There must be one."""
        text = "; ".join(f"{name}: {what}" for name, what in mistakes.items())
        return cls(text, next(iter(mistakes)))


class Refused(NamedTuple):
    """A parameter that others serve and this server does not."""

    neutral: tuple[Any, ...] = ()  # values that ask for nothing, and are taken; null always is
    reason: str = "is not served yet; leave it out"


def _tell_refused(schema: dict[str, Any], kind: type[Body]) -> None:
    """Adds to a JSON schema the parameters that are known only to be refused."""
    for name, (neutral, reason) in kind.refused.items():
        if name not in kind.model_fields:
            told = {"enum": [None, *neutral], "description": f"Any other value {reason}."}
            schema.setdefault("properties", {})[name] = told


class Body(BaseModel):
    """The body of a request, or a part of one."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra=_tell_refused,
    )

    refused: ClassVar[Mapping[str, Refused]] = {}  # by name; a field of that name is served

    @property
    def conflicts(self) -> dict[str, str]:
        """Fields that do not go together, each with the reason."""
        return {}


B = TypeVar("B", bound=Body)


def read_body(kind: type[B], content: bytes) -> B:
    """A request from the bytes of an HTTP body. Raises BadParameter with all that is wrong."""
    return validate(kind, read_json(content))


def read_json(content: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadParameter for anything else."""
    try:
        body = json.loads(content, parse_constant=_no_constant)
        if b"\\ud" in content.lower():  # perhaps half a character, which nobody could write again
            json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadParameter("the body holds half a character (a lone surrogate)") from None
    except (ValueError, RecursionError) as error:
        raise BadParameter(f"the body is not JSON: {type(error).__name__}") from None
    if not isinstance(body, dict):
        raise BadParameter("the body must be a JSON object")
    return body


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def validate(kind: type[B], body: Mapping[str, Any]) -> B:
    """A JSON object as a model. Raises BadParameter with all that is wrong."""
    mistakes = _not_served(kind, body) | _unknown(kind, body)
    try:
        request = kind.model_validate({k: v for k, v in body.items() if k in kind.model_fields})
        mistakes |= request.conflicts
    except ValidationError as error:
        mistakes |= _invalid(error)
    if mistakes:
        raise BadParameter.of(mistakes)
    return request


def _not_served(kind: type[Body], body: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: refused.reason
        for name, refused in kind.refused.items()
        if name not in kind.model_fields
        and body.get(name) is not None
        and not any(_same(body[name], value) for value in refused.neutral)
    }


def _same(value: object, neutral: object) -> bool:
    # In Python 0 == False: `logprobs: 0` asks for something, `logprobs: false` does not.
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


def _unknown(kind: type[Body], body: Mapping[str, Any]) -> dict[str, str]:
    known = kind.model_fields.keys()
    return {
        name[:SHOWN_CHARACTERS]: (
            f"is no parameter of this endpoint; {did_you_mean(name[:SHOWN_CHARACTERS], known)}"
        )
        for name in list(body)[:MOST_UNKNOWN]
        if name not in known and name not in kind.refused
    }


def _invalid(error: ValidationError) -> dict[str, str]:
    found: dict[str, str] = {}
    for detail in error.errors(include_url=False, include_input=False):
        place = ".".join(str(part) for part in detail["loc"]) or "body"
        message = detail["msg"].removeprefix("Value error, ")
        found.setdefault(place, message[:1].lower() + message[1:])
    return found
