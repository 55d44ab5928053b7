"""Writes a chat as token ids, by the base's own template, with tools and their results.

A template that knows of tools is given them as they are. For any other the system message describes
them, and earlier calls are written in the same words. What a template would drop is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from loraland.engine.constraints import CALL_MARK
from loraland.errors import InvalidRequest
from loraland.serving.orders import Message, Tool, ToolCall

TOOLS_PROMPT = """\
You may call one of these functions, each described by a JSON object:
{tools}
To call one, answer with {mark} and a JSON object of its name and arguments, as in
{mark}{{"name": "FUNCTION", "arguments": {{"ARGUMENT": "VALUE"}}}}"""


def chat_ids(
    tokenizer: Any, base: str, messages: Sequence[Message], tools: Sequence[Tool] = ()
) -> tuple[int, ...]:
    """The token ids of a chat up to where the assistant's next words begin.

    Raises InvalidRequest for a base without a template, and for messages that its template refuses
    or does not show.
    """
    if not tokenizer.chat_template:
        raise InvalidRequest(
            f"base '{base}' has no chat template; use /v1/completions with a prompt, or a base "
            "that was tuned for chat"
        )
    template = str(tokenizer.get_chat_template(tools=list(tools) or None))
    if not _mentions(template, "tool_calls"):
        messages = [_spelled_out(message) for message in messages]
    if not tools:
        text = _rendered(tokenizer, messages, None)
    elif _mentions(template, "tools"):
        text = _rendered(tokenizer, messages, tools)
    else:
        text = _rendered(tokenizer, _described(messages, tools), None)
    _check_results(messages, text)
    return tuple(int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"])


def _rendered(tokenizer: Any, messages: Sequence[Message], tools: Sequence[Tool] | None) -> str:
    from jinja2 import TemplateError

    try:
        return str(
            tokenizer.apply_chat_template(
                list(messages), tools=tools, add_generation_prompt=True, tokenize=False
            )
        )
    except (TemplateError, TypeError) as error:
        raise InvalidRequest(f"the base's chat template refuses these messages: {error}") from error


def _mentions(template: str, variable: str) -> bool:
    return re.search(rf"\b{variable}\b", template) is not None


def _spelled_out(message: Message) -> Message:
    """A message whose calls are part of its text."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    return Message(role=message["role"], content=message["content"] + "".join(map(_said, calls)))


def _said(call: ToolCall) -> str:
    return CALL_MARK + json.dumps(call["function"], ensure_ascii=False)


def _described(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The messages with the tools in the system message, which is added where there is none."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    prompt = TOOLS_PROMPT.format(tools=listed, mark=CALL_MARK)
    first, *others = messages
    if first["role"] != "system":
        return [Message(role="system", content=prompt), *messages]
    return [Message(role="system", content=f"{first['content']}\n\n{prompt}"), *others]


def _check_results(messages: Sequence[Message], text: str) -> None:
    """Raises InvalidRequest where the template left out what a tool gave."""
    for number, message in enumerate(messages):
        content = message["content"].strip()
        shown = content in text or json.dumps(content, ensure_ascii=False)[1:-1] in text
        if message["role"] == "tool" and not shown:
            raise InvalidRequest(
                f"messages.{number}: the base's chat template does not show what a tool gave; "
                "give it as the words of the user, or ask a base that was tuned for tools"
            )
