"""`loraland keys`: shown once, listed without secrets, revoked; what `serve` says of access."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from loraland.cli import app
from loraland.cli_keys import read_expiry, tell_access
from loraland.errors import InvalidConfiguration
from loraland.serving.access.keys import is_genuine, read_key
from loraland.serving.access.store import KeyStore
from loraland.settings import storage_uri
from loraland.storage import Storage

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def call(*arguments):
    return CliRunner().invoke(app, ["keys", *arguments])


def store():
    return KeyStore(Storage.open(storage_uri()))


def test_a_key_is_shown_once_on_standard_output_alone_and_holds():
    made = call("create", "team", "--models", "tiny/*", "--models", "tiny", "--tokens-per-day", "9")
    text = made.stdout.strip()
    presented = read_key(text)
    assert made.exit_code == 0
    assert text not in made.stderr
    record = store().read(presented.id)
    assert is_genuine(presented, record)
    assert (record.models, record.tokens_per_day, record.admin) == (("tiny/*", "tiny"), 9, False)
    listed = call("list")
    assert presented.id in listed.stdout
    for shown in (listed.output, call("list", "--json").output):
        assert presented.secret not in shown
        assert record.sha256 not in shown
    files = [file for file in Path(storage_uri()).rglob("*") if file.is_file()]
    assert all(presented.secret not in file.read_text() for file in files)


def test_as_json_a_key_has_all_that_it_may():
    options = ["--admin", "--expires", "30d", "--requests-per-minute", "60", "--concurrent", "2"]
    made = json.loads(call("create", "a", *options, "--json").stdout)
    assert (made["admin"], made["requests_per_minute"], made["concurrent"]) == (True, 60, 2)
    assert read_key(made["key"]).id == made["id"]
    assert "sha256" not in made
    (listed,) = json.loads(call("list", "--json").stdout)
    assert listed == {k: v for k, v in made.items() if k != "key"} | {"revoked": False}


def test_a_revoked_key_is_listed_as_such_and_an_unknown_one_is_an_error():
    key_id = json.loads(call("create", "a", "--json").stdout)["id"]
    assert call("revoke", key_id).exit_code == 0
    assert "revoked" in call("list").stdout
    assert store().ids() == set()
    unknown = call("revoke", "0123456789abcdef")
    assert unknown.exit_code == 1
    assert "key_not_found" in unknown.stderr


def test_without_keys_the_list_says_how_to_make_one():
    assert "loraland keys create" in call("list").stderr


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--models", "../../etc"], "no pattern"),
        (["--requests-per-minute", "0"], "requests_per_minute"),
        (["--expires", "soon"], "'soon' is no moment"),
        (["--expires", "2020-01-01"], "would have expired"),
    ],
)
def test_a_key_that_cannot_be_is_not_made(options, reason):
    made = call("create", "a", *options)
    assert made.exit_code == 1
    assert reason in " ".join(made.stderr.split())
    assert store().ids() == set()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("12h", NOW + timedelta(hours=12)),
        ("30d", NOW + timedelta(days=30)),
        ("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC)),
        ("2027-01-31T10:00+02:00", datetime(2027, 1, 31, 8, tzinfo=UTC)),
    ],
)
def test_moments_of_expiry(text, moment):
    assert read_expiry(text, NOW) == moment


@pytest.mark.parametrize("text", ["0d", "-1d", "d", "1w", "2026-11-25", "", "99999999999d"])
def test_what_is_no_moment_to_come_is_refused(text):
    with pytest.raises(InvalidConfiguration):
        read_expiry(text, NOW)


def test_a_server_says_when_keys_are_missing_or_everyone_may_in(capsys):
    tell_access("auto", "127.0.0.1")
    assert capsys.readouterr().err == ""
    tell_access("auto", "0.0.0.0")
    assert "there are none yet" in " ".join(capsys.readouterr().err.split())
    store().create("a")
    tell_access("required", "127.0.0.1")
    assert capsys.readouterr().err == ""
    tell_access("off", "0.0.0.0")
    assert "access is off" in capsys.readouterr().err
