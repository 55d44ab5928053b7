"""Chats as token ids: by templates that know tools, by others, and what neither can show."""

from __future__ import annotations

import json

import pytest

from loraland.bases.tiny import byte_tokenizer
from loraland.errors import InvalidRequest
from loraland.serving.chat import chat_ids

TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "", "parameters": {"type": "object"}},
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "Köln"}},
}
ASKED = {"role": "user", "content": "Rain?"}
TURNS = [
    ASKED,
    {"role": "assistant", "content": "Let me see. ", "tool_calls": [CALL]},
    {"role": "tool", "content": "It rains.", "tool_call_id": "call_1"},
]
KNOWS_TOOLS = (
    "{% for tool in tools or [] %}[{{ tool.function.name }}]{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}>{{ call.function.arguments.city }}{% endfor %};"
    "{% endfor %}"
)
USERS_ONLY = "{% for m in messages if m.role != 'tool' %}{{ m.content }}{% endfor %}"
STRICT = "{% for m in messages %}{{ raise_exception('no ' + m.role) }}{% endfor %}"


def rendered(messages, tools=(), template=None):
    tokenizer = byte_tokenizer(True, 512)
    if template is not None:
        tokenizer.chat_template = template
    return tokenizer.decode(chat_ids(tokenizer, "tiny", messages, tools))


def test_a_plain_chat_is_what_the_template_makes_of_it():
    tokenizer = byte_tokenizer(True, 512)
    expected = tokenizer.apply_chat_template([ASKED], add_generation_prompt=True, return_dict=False)
    assert chat_ids(tokenizer, "tiny", [ASKED]) == tuple(expected)


def test_a_template_that_knows_tools_is_given_them_and_earlier_calls():
    text = rendered(TURNS, [TOOL], KNOWS_TOOLS)
    assert text == "[weather]user: Rain?;assistant: Let me see. >Köln;tool: It rains.;"


def test_for_another_template_the_system_message_tells_of_the_tools():
    text = rendered([ASKED], [TOOL])
    system, asked = text.split("</s>")[:2]
    assert system.startswith("<s>system: You may call")
    assert json.dumps(TOOL["function"]) in system
    assert '<tool_call>{"name": "FUNCTION"' in system
    assert asked == "<s>user: Rain?"
    text = rendered([{"role": "system", "content": "Be brief."}, ASKED], [TOOL])
    assert text.startswith("<s>system: Be brief.\n\nYou may call")
    assert text.count("system:") == 1


def test_for_another_template_earlier_calls_are_written_as_the_model_wrote_them():
    text = rendered(TURNS)
    assert (
        'assistant: Let me see. <tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</s>'
        in text
    )
    assert "<s>tool: It rains.</s>" in text


def test_a_result_that_the_template_would_drop_is_refused():
    with pytest.raises(InvalidRequest, match=r"messages\.2: .* does not show what a tool gave"):
        rendered(TURNS, template=USERS_ONLY)


@pytest.mark.parametrize("template", [STRICT, "{{ messages[0].content + 1 }}"])
def test_what_a_template_refuses_is_an_error_of_the_request(template):
    with pytest.raises(InvalidRequest, match="template refuses"):
        rendered([ASKED], template=template)


def test_a_base_without_a_template_has_no_chats():
    with pytest.raises(InvalidRequest, match="'tiny' has no chat template"):
        chat_ids(byte_tokenizer(False, 512), "tiny", [ASKED])
