"""Which requests need what; whether keys are needed; pages of other sites."""

from __future__ import annotations

import pytest

from loraland.errors import AdminKeyRequired, ForeignOrigin
from loraland.serving.access.permission import Caller
from loraland.serving.access.policy import (
    Need,
    is_loopback,
    need_of,
    needs_keys,
    require,
    require_local,
)


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/health", Need.NOTHING),
        ("HEAD", "/health", Need.NOTHING),
        ("GET", "/", Need.NOTHING),
        ("GET", "/web/site.css", Need.NOTHING),
        ("POST", "/health", Need.ADMIN_KEY),
        ("POST", "/web/site.css", Need.ADMIN_KEY),
        ("POST", "/", Need.KEY),
        ("POST", "/generate", Need.KEY),
        ("GET", "/v1/models", Need.KEY),
        ("GET", "/v1/models/tiny/dates", Need.KEY),
        ("DELETE", "/v1/models/tiny/dates", Need.ADMIN_KEY),
        ("POST", "/v1/completions", Need.KEY),
        ("POST", "/v1/completions/", Need.ADMIN_KEY),
        ("GET", "/v1/fleet", Need.WIDE_KEY),
        ("GET", "/v1/spaces/a/leaderboard", Need.WIDE_KEY),
        ("GET", "/docs", Need.WIDE_KEY),
        ("GET", "/web", Need.WIDE_KEY),
        ("GET", "//health", Need.WIDE_KEY),
        ("POST", "/v1/adapters/tiny/dates@0123456789ab/load", Need.ADMIN_KEY),
        ("PUT", "/v1/aliases/tiny/dates/prod", Need.ADMIN_KEY),
        ("POST", "/v1/promotions", Need.ADMIN_KEY),
        ("POST", "/v1/something-new", Need.ADMIN_KEY),
        ("OPTIONS", "/v1/completions", Need.ADMIN_KEY),
        ("", "", Need.ADMIN_KEY),
    ],
)
def test_what_is_not_listed_is_closed(method, path, need):
    assert need_of(method, path) is need


def test_a_key_for_some_models_sees_no_page_about_all():
    some, wide, admin = (
        Caller("k", ("tiny/a",)), Caller("k", ("*",)), Caller("k", ("tiny/a",), admin=True),
    )  # fmt: skip
    require(Need.KEY, some)
    require(Need.WIDE_KEY, wide)
    require(Need.ADMIN_KEY, admin)
    for need, caller in [(Need.WIDE_KEY, some), (Need.ADMIN_KEY, wide), (Need.WIDE_KEY, admin)]:
        with pytest.raises(AdminKeyRequired):
            require(need, caller)


@pytest.mark.parametrize(
    ("mode", "host", "needed"),
    [
        ("auto", "127.0.0.1", False),
        ("auto", "localhost", False),
        ("auto", "::1", False),
        ("auto", "0.0.0.0", True),
        ("auto", "::", True),
        ("auto", "10.1.2.3", True),
        ("auto", "localhost.evil.example", True),
        ("auto", None, True),
        ("required", "127.0.0.1", True),
        ("off", "0.0.0.0", False),
    ],
)
def test_keys_are_needed_unless_only_this_machine_can_call(mode, host, needed):
    assert needs_keys(mode, host) is needed


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "[::1]", "localhost"])
def test_addresses_of_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", None),
        ("localhost:8000", "http://localhost:8000"),
        ("[::1]:8000", None),
    ],
)
def test_programs_and_our_own_pages_may_call_a_server_without_keys(host, origin):
    require_local(host, origin, by_name=True)


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://evil.example"),
        ("127.0.0.1:8000", "null"),
        ("127.0.0.1:8000", "http://127.0.0.1:9999"),
        ("evil.example:8000", None),
        ("evil.example:8000", "http://evil.example:8000"),
        ("[bad", None),
        (None, None),
    ],
)
def test_a_page_of_another_site_may_not(host, origin):
    with pytest.raises(ForeignOrigin):
        require_local(host, origin, by_name=True)


def test_where_access_is_off_on_purpose_any_name_will_do_but_other_sites_stay_out():
    require_local("models.example", None, by_name=False)
    with pytest.raises(ForeignOrigin):
        require_local("models.example", "http://evil.example", by_name=False)
