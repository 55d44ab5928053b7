"""Patterns over model names."""

from __future__ import annotations

import pytest

from loraland.adapters.names import ModelName
from loraland.errors import AdminKeyRequired, InvalidName, ModelNotAllowed
from loraland.serving.access.permission import ANYONE, Caller, check_pattern, matches

VERSION = "0123456789ab"


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("*", ["tiny", "tiny/a", "tiny/a:prod", f"tiny/a@{VERSION}"], []),
        ("tiny", ["tiny"], ["tiny/a", "tiny2"]),
        ("tiny/*", ["tiny/a", "tiny/a:prod", f"tiny/b@{VERSION}"], ["tiny", "other/a"]),
        ("tiny/a", ["tiny/a", "tiny/a:prod", f"tiny/a@{VERSION}"], ["tiny/ab", "tiny/b", "tiny"]),
        ("tiny/a:prod", ["tiny/a:prod"], ["tiny/a", "tiny/a:production", f"tiny/a@{VERSION}"]),
        ("tiny/a:latest", ["tiny/a"], ["tiny/a:prod", f"tiny/a@{VERSION}"]),
        (f"tiny/a@{VERSION}", [f"tiny/a@{VERSION}"], ["tiny/a", "tiny/a@ba9876543210"]),
        ("*/a", ["tiny/a", "other/a:prod"], ["a", "tiny/b"]),
        ("tiny/d*", ["tiny/dates", "tiny/d"], ["tiny/adates"]),
        ("t.ny/a", [], ["tiny/a"]),
        ("ti*", ["tiny", "ti"], ["tiny/a"]),
    ],
)
def test_a_pattern_covers_what_it_says_and_no_more(pattern, allowed, refused):
    check_pattern(pattern)
    assert [n for n in allowed if not matches(pattern, ModelName.parse(n))] == []
    assert [n for n in refused if matches(pattern, ModelName.parse(n))] == []


@pytest.mark.parametrize(
    "pattern", ["", "/", "a/", "a//b", "A", "a/b/c", "../x", "[a-z]", "a b", "a/b:c@d"]
)
def test_what_is_no_pattern_is_refused(pattern):
    with pytest.raises(InvalidName):
        check_pattern(pattern)


def test_a_pattern_of_many_stars_is_as_fast_as_one():
    name = ModelName("a" * 60, "b")
    assert not matches("*" * 60 + "c/b", name)


def test_an_aliased_version_is_seen_through_its_alias():
    caller = Caller("k", ("tiny/a:prod",))
    version = ModelName.parse(f"tiny/a@{VERSION}")
    assert caller.may_see(version, ["latest", "prod"])
    assert not caller.may_see(version, ["latest"])


def test_refusals_name_the_model_asked_and_nothing_else():
    caller = Caller("k", ("tiny/a",))
    caller.require_model(ModelName.parse("tiny/a"))
    with pytest.raises(ModelNotAllowed, match="tiny/b"):
        caller.require_model(ModelName.parse("tiny/b"))
    with pytest.raises(AdminKeyRequired):
        caller.require_admin()
    ANYONE.require_admin()


def test_a_key_for_adapters_reaches_their_base_without_being_allowed_it():
    caller = Caller("k", ("tiny/a", "o*/b:prod"))
    assert [b for b in ("tiny", "other", "tin", "a") if caller.reaches(b)] == ["tiny", "other"]
    assert not caller.may_use(ModelName("tiny"))
    assert ANYONE.reaches("anything")
