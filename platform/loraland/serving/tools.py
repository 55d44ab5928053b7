"""Tools of a chat: what may be offered, the constraint that holds an answer to them, and back.

An answer calls a tool with CALL_MARK and a JSON object of name and arguments. The arguments always
match the tool's schema. Where the model may choose, text may come before the call, or alone.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, field_validator

from loraland.engine.constraints import CALL_MARK, Grammar
from loraland.serving.bodies import Body
from loraland.serving.orders import CalledFunction, Tool, ToolCall
from loraland.serving.response_format import Schema

MOST_TOOLS = 128  # OpenAI's limit
FunctionName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]

# Where a schema holds schemas by name, and where it holds plain data.
_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_DATA = ("const", "enum", "default", "examples", "required")


class Function(Body):
    """A function that may be called."""

    name: FunctionName
    description: str | None = None
    parameters: Schema | None = None  # a JSON schema of an object; None: no parameters
    strict: bool | None = None  # arguments match the schema, whatever this says

    @field_validator("parameters")
    @classmethod
    def _an_object(cls, schema: dict[str, Any] | None) -> dict[str, Any] | None:
        if schema is not None and schema.get("type", "object") != "object":
            raise ValueError("must be the schema of an object, the arguments by name")
        return schema

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """The JSON schema that arguments must match."""
        nothing = {"properties": {}, "additionalProperties": False}
        return {"type": "object", **(nothing if self.parameters is None else self.parameters)}


class FunctionTool(Body):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: Function

    @property
    def shown(self) -> Tool:
        """As chat templates know it."""
        function: dict[str, Any] = {
            "name": self.function.name,
            "description": self.function.description or "",
            "parameters": self.function.schema_of_arguments,
        }
        return Tool(type="function", function=function)


class FunctionChoice(Body):
    """The name of one function."""

    name: FunctionName


class NamedTool(Body):
    """The tool that must be called."""

    type: Literal["function"]
    function: FunctionChoice


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class MadeFunction(Body):
    """What was called in an earlier turn."""

    name: FunctionName
    arguments: str  # a JSON object, as text

    @field_validator("arguments")
    @classmethod
    def _an_object(cls, text: str) -> str:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise ValueError("must be a JSON object, as text")
        return text


class MadeCall(Body):
    """A call that the model made in an earlier turn."""

    id: str = Field(min_length=1, max_length=256)
    type: Literal["function"]
    function: MadeFunction
    index: int | None = None  # of streamed calls that were put together; not used

    @property
    def shown(self) -> ToolCall:
        """As chat templates know it."""
        arguments = json.loads(self.function.arguments)
        function = CalledFunction(name=self.function.name, arguments=arguments)
        return ToolCall(id=self.id, type="function", function=function)


def mistakes_of(tools: Sequence[FunctionTool], choice: ToolChoice | None) -> dict[str, str]:
    """What is wrong with tools and choice together, by parameter."""
    names = [tool.function.name for tool in tools]
    found = {}
    if twice := sorted({name for name in names if names.count(name) > 1}):
        found["tools"] = f"are named twice: {', '.join(twice)}"
    if not tools and choice not in (None, "none", "auto"):
        found["tool_choice"] = "asks for a call, and there are no tools; give some"
    elif isinstance(choice, NamedTool) and choice.function.name not in names:
        found["tool_choice"] = f"is none of the tools; possible: {', '.join(names)}"
    return found


def offered(tools: Sequence[FunctionTool], choice: ToolChoice | None) -> list[FunctionTool]:
    """The tools that the answer may call."""
    if choice == "none":
        return []
    if isinstance(choice, NamedTool):
        return [tool for tool in tools if tool.function.name == choice.function.name]
    return list(tools)


def grammar_of(tools: Sequence[FunctionTool], choice: ToolChoice | None) -> Grammar | None:
    """What an answer must match; None: anything, because no tool may be called."""
    callable_tools = offered(tools, choice)
    if not callable_tools:
        return None
    kind: Literal["call", "text_or_call"] = "text_or_call" if choice in (None, "auto") else "call"
    return Grammar(kind, json.dumps(_call_schema(callable_tools)))


def _call_schema(tools: Sequence[FunctionTool]) -> dict[str, Any]:
    """One schema of a call to any of the tools."""
    definitions = {
        f"tool{number}": _moved(tool.function.schema_of_arguments, f"#/$defs/tool{number}")
        for number, tool in enumerate(tools)
    }
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                "arguments": {"$ref": f"#/$defs/tool{number}"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools)
    ]
    return {"anyOf": calls, "$defs": definitions}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to its own root hold when that is `place` in a larger one."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved: dict[str, Any] = {}
    for key, value in schema.items():
        if key in ("$schema", "$id"):  # name a root, which this no longer is
            continue
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[key] = place + value[1:]
        elif key in _DATA:
            moved[key] = value
        elif key in _NAMED and isinstance(value, dict):
            moved[key] = {name: _moved(inner, place) for name, inner in value.items()}
        else:
            moved[key] = _moved(value, place)
    return moved


class Heard(NamedTuple):
    """What a piece of an answer adds to the text, and to the call."""

    content: str
    call: str | None  # the name of the function, when it is known now
    arguments: str  # JSON, as it comes


class CallReader:
    """Takes an answer apart, piece by piece: the text, and the call after CALL_MARK."""

    _HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"arguments"\s*:\s*')

    def __init__(self) -> None:
        self.id = f"call_{uuid.uuid4().hex[:24]}"
        self.called = False  # whether the name is known
        self.complete = False  # whether the arguments have ended
        self._begun = self._marked = False
        self._held = ""  # text that may be part of what is not told: the mark, the head of the call
        self._depth, self._quoted, self._escaped = 0, False, False

    def push(self, text: str) -> Heard:
        """What is certain now."""
        content, self._held = "", self._held + text
        if not self._marked:
            content = self._until_mark()
        name = self._name() if self._marked and not self.called else None
        return Heard(content, name, self._arguments() if self.called else "")

    def flush(self) -> str:
        """Text that was held back, now that no more comes."""
        held, self._held = ("" if self._marked else self._held), ""
        return held

    def _until_mark(self) -> str:
        """Text before the mark; white space alone waits for what follows, and a call drops it."""
        content, mark, rest = self._held.partition(CALL_MARK)
        self._marked = bool(mark)
        if not mark:
            sizes = range(min(len(CALL_MARK) - 1, len(content)), 0, -1)
            keep = next((n for n in sizes if CALL_MARK.startswith(content[-n:])), 0)
            content, rest = content[: len(content) - keep], content[len(content) - keep :]
        self._begun = self._begun or bool(content.strip())
        if self._begun or mark:
            self._held = rest
        return content if self._begun else ""

    def _name(self) -> str | None:
        head = self._HEAD.match(self._held)
        if head is None:
            return None
        self.called, self._held = True, self._held[head.end() :]
        return head[1]

    def _arguments(self) -> str:
        """The held text up to the brace that closes the arguments."""
        text, self._held = self._held, ""
        for at, character in enumerate(text):
            if self.complete:
                return text[:at]
            self._step(character)
        return text

    def _step(self, character: str) -> None:
        if self._quoted:
            self._quoted = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._quoted = True
        else:
            self._depth += (character in "{[") - (character in "}]")
            self.complete = character == "}" and self._depth == 0
