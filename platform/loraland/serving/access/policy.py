"""What a request must show, by method and path; and whether keys are needed at all.

A route that is not listed here is closed: reading needs a key for all models, everything else an
admin key. So a new route is safe before anyone thinks of it. Pure; knows no keys and no storage.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from typing import Literal
from urllib.parse import urlsplit

from loraland.errors import AdminKeyRequired, ForeignOrigin
from loraland.serving.access.permission import Caller

AccessMode = Literal["auto", "required", "off"]


class Need(Enum):
    """What a request must show."""

    NOTHING = "nothing"
    KEY = "a key"  # the route asks for models by name, and `guard` looks at each
    WIDE_KEY = "a key for all models"
    ADMIN_KEY = "an admin key"


READING = frozenset({"GET", "HEAD"})

# Open to everyone: whether the gateway lives, and pages, which hold nothing before a key is typed.
OPEN = frozenset({"/", "/health"})
OPEN_BELOW = ("/web/",)

# Routes that resolve every model by name, through the guarded directory, and tell of no other.
BY_MODEL = frozenset(
    {
        ("GET", "/info"),
        ("GET", "/v1/models"),
        ("GET", "/v1/tasks"),
        ("POST", "/"),
        ("POST", "/generate"),
        ("POST", "/generate_stream"),
        ("POST", "/tokenize"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/compare"),
        ("POST", "/v1/completions"),
    }
)
BY_MODEL_BELOW = (("GET", "/v1/models/"), ("GET", "/v1/tasks/"), ("GET", "/v1/cards/"))


def need_of(method: str, path: str) -> Need:
    """What a request must show. `path` is decoded, and without the application's own prefix."""
    if method in READING and (path in OPEN or path.startswith(OPEN_BELOW)):
        return Need.NOTHING
    asked = "GET" if method == "HEAD" else method
    if (asked, path) in BY_MODEL:
        return Need.KEY
    if any(asked == verb and path.startswith(start) for verb, start in BY_MODEL_BELOW):
        return Need.KEY
    return Need.WIDE_KEY if method in READING else Need.ADMIN_KEY


def listed(path: str) -> str | None:
    """A path that is named here, for a log; None for any other, which may hold anything."""
    return path if path in OPEN or any(path == named for _, named in BY_MODEL) else None


def require(need: Need, caller: Caller) -> None:
    """Raises AdminKeyRequired when a caller has less than is needed."""
    if need is Need.ADMIN_KEY:
        caller.require_admin()
    if need is Need.WIDE_KEY and not caller.sees_everything:
        raise AdminKeyRequired(
            "this shows every model, and this key is for some; use a key for all models "
            "(`loraland keys create NAME` without --models)"
        )


def needs_keys(mode: AccessMode, host: str | None) -> bool:
    """Whether callers must show a key where Serve listens on `host`; None: it is not known where.

    `auto` needs none where only this machine can call.
    """
    return mode == "required" or (mode == "auto" and not is_loopback(host))


def is_loopback(host: str | None) -> bool:
    """Whether an address or name is this machine's own, which others cannot reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False


def require_local(host: str | None, origin: str | None, *, by_name: bool) -> None:
    """Keeps web pages of other sites from using a server without keys through a visitor's browser.

    `host` and `origin` are the headers; `by_name`: the server listens on loopback, so any other
    name in `host` is a page that had its own name point here. Raises ForeignOrigin.
    """
    if origin is not None and urlsplit(origin).netloc != host:
        raise ForeignOrigin(
            f"a page of '{origin[:100]}' may not use this server; serve the page from here, or "
            "require keys with `access: required`"
        )
    try:
        called = urlsplit(f"//{host}").hostname if host else None
    except ValueError:
        called = None
    if by_name and not is_loopback(called):
        raise ForeignOrigin(
            "without keys this server answers only to localhost and 127.0.0.1; call it by one of "
            "these, or require keys with `access: required`"
        )
