"""The web pages: files of this package, read once, sent with a policy that allows nothing else.

The pages ask the same gateway's JSON and no other host. They lie beside this module and not in
`serve_apps`, so that an installed package, a checkout and a working directory that Ray ships find
them alike. A name that is no file of theirs is a 404; no name is ever turned into a path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import NamedTuple

from fastapi import FastAPI, Request
from starlette.responses import Response

FRONT = "playground.html"
PAGES = {"leaderboard": "leaderboard.html", "fleet": "fleet.html"}  # by their names below /web/
LOST = "404.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked for again each time; mostly answered by 304
}


class File(NamedTuple):
    """A file as it is sent."""

    content: bytes
    type: str
    etag: str


def add_pages(app: FastAPI) -> None:
    """Serve the pages at / and below /web/; GET and HEAD."""

    async def front(request: Request) -> Response:
        return _send(request, FRONT, "")

    async def file(request: Request, name: str) -> Response:
        # Links are relative, so that the application works below a prefix, too.
        up = "../" * (name.count("/") + 1)
        is_part = name in files() and not name.endswith(".html")
        return _send(request, name if is_part else PAGES.get(name, LOST), up)

    for path, handler in (("/", front), ("/web/{name:path}", file)):
        app.add_api_route(
            path, handler, methods=["GET", "HEAD"], include_in_schema=False, response_model=None
        )


@cache
def files() -> dict[str, File]:
    """Every file of the pages by its name."""
    return {name: _file(name, content) for name, content in _contents()}


def _contents() -> Iterator[tuple[str, bytes]]:
    folder = resources.files("loraland.serving") / "web"
    for entry in folder.iterdir():
        if entry.is_file() and entry.name[entry.name.rfind(".") :] in TYPES:
            yield entry.name, entry.read_bytes()
    # Colours and type are those of `loraland report`.
    tokens = resources.files("loraland.report") / "templates" / "tokens.css"
    yield "tokens.css", tokens.read_bytes()


def _file(name: str, content: bytes) -> File:
    digest = hashlib.sha256(content).hexdigest()[:24]
    return File(content, TYPES[name[name.rfind(".") :]], f'"{digest}"')


def _send(request: Request, name: str, root: str) -> Response:
    found, status = files()[name], 404 if name == LOST else 200
    headers = {**HEADERS, "etag": found.etag}
    if status == 200 and _knows(request, found.etag):
        return Response(status_code=304, headers=headers)
    content = found.content
    if name.endswith(".html"):
        content = content.replace(b"{root}", root.encode() or b"./")
    answer = Response(content, status, headers, found.type)
    if request.method == "HEAD":
        answer.body = b""
    return answer


def _knows(request: Request, etag: str) -> bool:
    """Whether the browser holds this very file."""
    held = request.headers.get("if-none-match", "").split(",")
    return any(one.strip().removeprefix("W/") in (etag, "*") for one in held)
