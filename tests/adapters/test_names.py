"""Model names in their four forms."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.adapters.names import LATEST, ModelName, is_part, is_version
from loraland.errors import InvalidName

parts = st.from_regex(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?", fullmatch=True).filter(
    lambda part: ".." not in part
)
versions = st.from_regex(r"[0-9a-f]{12}", fullmatch=True)
names = st.one_of(
    st.builds(ModelName, parts),
    st.builds(ModelName, parts, parts),
    st.builds(ModelName, parts, parts, parts),
    st.builds(
        lambda base, task, version: ModelName(base, task, None, version), parts, parts, versions
    ),
)


@given(names)
def test_every_name_is_read_back_from_its_text(name):
    assert ModelName.parse(str(name)) == name
    assert str(ModelName.parse(str(name))) == str(name)


@given(st.text(alphabet="ab1./:@-_ A\n", max_size=30))
def test_any_text_is_a_name_that_reads_back_or_is_refused(text):
    try:
        name = ModelName.parse(text)
    except InvalidName as error:
        assert "is not a model name" in error.message
        return
    assert ModelName.parse(str(name)) == name
    assert text in (str(name), f"{name}:{LATEST}")


@given(names)
def test_parts_of_a_name_are_safe_in_a_path(name):
    for part in (name.base, name.task, name.alias, name.version):
        assert part is None or (
            part[0].isalnum() and not set(part) & set("/\\\0") and ".." not in part
        )


def test_the_four_forms():
    assert ModelName.parse("b") == ModelName("b")
    assert ModelName.parse("b/t") == ModelName("b", "t", alias="latest")
    assert ModelName.parse("b/t:prod") == ModelName("b", "t", alias="prod")
    assert ModelName.parse("b/t@3f9a1c0b77de") == ModelName("b", "t", version="3f9a1c0b77de")


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "b/", "/t", "B/t", "b/t:", "b/t@", "b:prod", "b@3f9a1c0b77de", "b/t@3f9a", "b/t/u",
        "b/t@3F9A1C0B77DE", "../b", "b/..", "a..b", "b/t:x@3f9a1c0b77de", "b/t\n", " b", ".b", "b-",
        "a" * 65, "b/t@3f9a1c0b77de0",
    ],
)  # fmt: skip
def test_other_texts_are_refused(text):
    with pytest.raises(InvalidName, match="write BASE"):
        ModelName.parse(text)


@pytest.mark.parametrize(
    "fields",
    [
        {"base": "../b"},
        {"base": "b", "task": "../t"},
        {"base": "b", "task": "t", "alias": "a/b"},
        {"base": "b", "task": "t", "version": "latest"},
        {"base": "b", "task": "t", "alias": "prod", "version": "0" * 12},
        {"base": "b", "alias": "prod"},
        {"base": "b", "version": "0" * 12},
    ],
)
def test_illegal_name_cannot_be_made(fields):
    with pytest.raises(InvalidName):
        ModelName(**fields)


def test_name_without_alias_and_version_means_latest():
    assert ModelName("b", "t").alias == LATEST
    assert str(ModelName("b", "t")) == "b/t"


def test_version_of_a_name():
    assert str(ModelName.parse("b/t:prod").at("0" * 12)) == "b/t@" + "0" * 12
    with pytest.raises(InvalidName):
        ModelName("b").at("0" * 12)


def test_parts_and_versions_are_recognised():
    assert is_part("smollm2-135m") and not is_part("a..b") and not is_part("A")
    assert is_version("0" * 12) and not is_version("g" * 12) and not is_version("0" * 11)
