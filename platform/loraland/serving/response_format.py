"""What a client may ask an answer to look like: OpenAI's `response_format`, and `guided_*`.

The latter are the extras that vLLM and its like take in `extra_body`. One of all of them becomes
the order's grammar; the replica, which knows the tokens, compiles it.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator

from loraland.engine.constraints import MOST_CHARACTERS, MOST_CHOICES, Grammar
from loraland.serving.bodies import Body

MOST_NESTED = 100  # levels of a schema; its compiler takes not many more


def _shallow(schema: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [schema]
    for _ in range(MOST_NESTED):
        inner = [list(item.values()) if isinstance(item, dict) else item for item in level]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return schema
    raise ValueError(f"is nested more than {MOST_NESTED} levels deep; make it flatter")


Schema = Annotated[dict[str, Any], AfterValidator(_shallow)]


class TextFormat(Body):
    """Anything."""

    type: Literal["text"]

    @property
    def grammar(self) -> None:
        """None: no constraint."""
        return None


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]

    @property
    def grammar(self) -> Grammar:
        """The constraint."""
        return Grammar("json_object")


class NamedSchema(Body):
    """A JSON schema as OpenAI wraps it."""

    name: str = Field(default="", max_length=64)  # not used
    description: str | None = None  # not used
    document: Schema = Field(alias="schema")
    strict: bool | None = None  # answers match the schema, whatever this says


class JsonSchemaFormat(Body):
    """JSON that matches a schema; properties come in the order in which the schema lists them."""

    type: Literal["json_schema"]
    json_schema: NamedSchema

    @property
    def grammar(self) -> Grammar:
        """The constraint."""
        return Grammar("json_schema", json.dumps(self.json_schema.document))


ResponseFormat = Annotated[
    TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")
]


class Constrained(Body):
    """The fields by which a request constrains its answers; at most one may do so."""

    response_format: ResponseFormat | None = None
    guided_json: dict[str, Any] | str | None = None  # a schema, also as JSON text
    guided_regex: str | None = Field(default=None, min_length=1, max_length=MOST_CHARACTERS)
    guided_choice: list[str] | None = Field(default=None, min_length=1, max_length=MOST_CHOICES)

    @field_validator("guided_json", mode="before")
    @classmethod
    def _a_schema(cls, value: object) -> object:
        if value is not None and not isinstance(value, dict | str):
            raise ValueError("must be a JSON schema, as an object or as text")
        return _shallow(value) if isinstance(value, dict) else value

    @property
    def grammars(self) -> dict[str, Grammar]:
        """What each field that was given asks for, by its name."""
        found: dict[str, Grammar] = {}
        if self.response_format is not None and self.response_format.grammar is not None:
            found["response_format"] = self.response_format.grammar
        if self.guided_json is not None:
            schema = self.guided_json
            text = schema if isinstance(schema, str) else json.dumps(schema)
            found["guided_json"] = Grammar("json_schema", text)
        if self.guided_regex is not None:
            found["guided_regex"] = Grammar("regex", self.guided_regex)
        if self.guided_choice is not None:
            found["guided_choice"] = Grammar("choice", json.dumps(self.guided_choice))
        return found

    @property
    def grammar(self) -> Grammar | None:
        """What the answers must match; None: anything."""
        return next(iter(self.grammars.values()), None)
