"""Keys: random, recognised by their hash alone, and never shown again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from loraland.serving.access.keys import is_genuine, make_key, read_key


def test_a_key_is_recognised_and_one_with_another_secret_is_not():
    made, other = make_key("a"), make_key("a")
    assert is_genuine(read_key(made.text), made.record)
    assert not is_genuine(read_key(other.text), made.record)
    assert not is_genuine(read_key(made.text), None)
    assert made.record.id != other.record.id


def test_neither_secret_nor_hash_is_in_what_is_kept_or_shown():
    made = make_key("a", tokens_per_day=5)
    secret = read_key(made.text).secret
    shown = f"{made!r} {read_key(made.text)!r} {made.record!r} {made.record}"
    assert secret not in shown
    assert made.record.sha256 not in shown
    assert secret not in made.record.model_dump_json()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "none",
        "loraland-",
        "loraland-0123456789abcdef-short",
        "sk-123",
        "loraland-..-" + "a" * 43,
    ],
)
def test_a_text_of_another_form_is_no_key(text):
    assert read_key(text) is None


def test_a_key_holds_until_the_moment_it_expires():
    moment = datetime(2027, 1, 1, tzinfo=UTC)
    record = make_key("a", expires=moment).record
    assert not record.has_expired(moment - timedelta(seconds=1))
    assert record.has_expired(moment)
    assert not make_key("a").record.has_expired(moment)


@pytest.mark.parametrize(
    "fields",
    [{"requests_per_minute": 0}, {"tokens_per_day": -1}, {"nonsense": 1}, {"name": ""}],
)
def test_a_key_with_limits_that_cannot_be_is_not_made(fields):
    with pytest.raises(ValidationError):
        make_key(**({"name": "a"} | fields))


def test_a_pattern_that_no_model_matches_is_refused():
    with pytest.raises(ValidationError, match="no pattern"):
        make_key("a", models=["../../etc"])
