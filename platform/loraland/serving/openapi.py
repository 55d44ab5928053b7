"""Describes the application at /openapi.json and /docs: bodies, answers and errors.

Bodies are read by `bodies` and not by FastAPI, whose errors are other than ours; so they are told
to its schema here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

PLACE = "#/components/schemas/{model}"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str  # what was asked, what is possible, what to do
    type: str  # invalid_request_error, rate_limit_error, server_error
    param: str | None  # the first parameter that is wrong
    code: str  # stable


class ErrorAnswer(BaseModel):
    """An error, in the shape of OpenAI."""

    error: ErrorDetail


def body(app: FastAPI, kind: type[BaseModel]) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a body of this kind."""
    schema = _told(app, kind, "validation")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def answers(
    app: FastAPI,
    model: Any = None,
    *,
    events: Sequence[type[BaseModel]] = (),
    error: type[BaseModel] = ErrorAnswer,
) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: a model, server-sent events of some models, or either; errors."""
    good: dict[str, Any] = {"description": "The answer"}
    if model is not None:
        good["model"] = model
    if events:
        kinds = [_told(app, kind, "serialization") for kind in (*events, error)]
        good["content"] = {"text/event-stream": _stream(kinds, done=error is ErrorAnswer)}
    return {200: good, **errors(error)}


def _stream(kinds: Sequence[dict[str, str]], *, done: bool) -> dict[str, Any]:
    """A stream of events whose data is JSON of one of the kinds; the last may be [DONE]."""
    data: dict[str, Any] = {
        "type": "string",
        "contentMediaType": "application/json",
        "contentSchema": {"anyOf": list(kinds)},
    }
    if done:
        data = {"anyOf": [{"const": "[DONE]"}, data]}
    item = {"type": "object", "properties": {"data": data}, "required": ["data"]}
    told = "Server-sent events; an error may be the last"
    # The second is of OpenAPI 3.2, which validators know and pages that draw the schema do not.
    return {"schema": {"type": "array", "items": item, "description": told}, "itemSchema": item}


def errors(error: type[BaseModel] = ErrorAnswer) -> dict[int | str, dict[str, Any]]:
    """The `responses` for what goes wrong."""
    return {
        "4XX": {"model": error, "description": "The request cannot be answered as it is"},
        "5XX": {"model": error, "description": "The server failed; a 503 is worth a retry"},
    }


def describe(app: FastAPI) -> None:
    """Makes the application's schema tell what `body` and `answers` were asked for."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            _, told = models_json_schema(list(_kinds(app)), ref_template=PLACE)
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            schemas.update(told.get("$defs", {}))
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def _told(app: FastAPI, kind: type[BaseModel], mode: JsonSchemaMode) -> dict[str, str]:
    _kinds(app)[kind, mode] = None
    return {"$ref": PLACE.format(model=kind.__name__)}


def _kinds(app: FastAPI) -> dict[tuple[type[BaseModel], JsonSchemaMode], None]:
    """What is to be told beside what FastAPI tells, in order."""
    if not hasattr(app.state, "told"):
        app.state.told = {}
    kinds: dict[tuple[type[BaseModel], JsonSchemaMode], None] = app.state.told
    return kinds
