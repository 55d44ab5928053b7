"""JSON bodies: what is no JSON, and what is wrong, told by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import pytest
from pydantic import Field

from loraland.serving.bodies import BadParameter, Body, Refused, read_body, read_json


class Sample(Body):
    refused: ClassVar[Mapping[str, Refused]] = {
        "other": Refused((False, 1), "is not served; use size"),
        "size": Refused((), "is a field, so this says nothing"),
    }

    size: int = Field(ge=1)
    text: str = ""

    @property
    def conflicts(self):
        return {"text": "is as long as size says"} if len(self.text) == self.size else {}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b'{"size": NaN}', "ValueError"),
        (b'{"size": -Infinity}', "ValueError"),
        (b"[" * 100_000, "RecursionError"),
        (b'{"size": ' + b"9" * 5000 + b"}", "ValueError"),
        (b"[1]", "JSON object"),
        (b'{"text": "\\ud83d"}', "half a character"),
        (b'{"\\uDC00": 1}', "half a character"),
    ],
)
def test_what_is_no_json_object_is_refused(content, words):
    with pytest.raises(BadParameter, match=words):
        read_json(content)


def test_a_whole_character_in_two_halves_is_read():
    assert read_json(b'{"text": "\\ud83d\\ude00"}') == {"text": "\N{GRINNING FACE}"}


def test_all_mistakes_are_told_and_the_first_one_named():
    with pytest.raises(BadParameter) as caught:
        read_body(Sample, b'{"size": 0, "other": true, "sise": 1}')
    assert caught.value.param == "other"
    assert caught.value.message == (
        "other: is not served; use size; "
        "sise: is no parameter of this endpoint; did you mean 'size'?; "
        "size: input should be greater than or equal to 1"
    )


def test_neutral_values_and_null_are_taken_and_a_field_is_never_refused():
    for value in (b"false", b"1", b"null"):
        assert read_body(Sample, b'{"size": 2, "other": ' + value + b"}").size == 2
    for value in (b"0", b"true", b'"1"'):
        with pytest.raises(BadParameter, match="other"):
            read_body(Sample, b'{"size": 2, "other": ' + value + b"}")


def test_fields_that_do_not_go_together_are_refused():
    with pytest.raises(BadParameter, match="text: is as long as size says"):
        read_body(Sample, b'{"size": 2, "text": "ab"}')


def test_the_schema_tells_what_is_refused():
    properties = Sample.model_json_schema()["properties"]
    assert properties["other"]["enum"] == [None, False, 1]
    assert "enum" not in properties["size"]
