"""Pages as files of packages: read once, sent with a policy that allows nothing else.

A name that is no file of theirs is a 404; no name is ever turned into a path. Knows no page.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import NamedTuple

from fastapi import FastAPI, Request
from starlette.responses import Response

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


class Pages(NamedTuple):
    """The pages of an application."""

    files: Mapping[str, File]
    front: str  # the file at /
    named: Mapping[str, str]  # page -> its file, by their names below /web/
    lost: str  # the file that says that there is no such page


def read_files(*packages: tuple[str, str]) -> dict[str, File]:
    """The files of folders of packages, (package, folder); of equal names the first counts.

    The colours and type of `loraland report`, tokens.css, are among them.
    """
    found: dict[str, File] = {}
    for package, folder in (*packages, ("loraland.report", "templates")):
        for name, content in _contents(package, folder):
            if package != "loraland.report" or name == "tokens.css":
                found.setdefault(name, _file(name, content))
    return found


def add_files(app: FastAPI, pages: Pages) -> None:
    """Serve pages at / and below /web/; GET and HEAD."""

    async def front(request: Request) -> Response:
        return _send(request, pages, pages.front, "")

    async def file(request: Request, name: str) -> Response:
        # Links are relative, so that the application works below a prefix, too.
        up = "../" * (name.count("/") + 1)
        is_part = name in pages.files and not name.endswith(".html")
        return _send(request, pages, name if is_part else pages.named.get(name, pages.lost), up)

    for path, handler in (("/", front), ("/web/{name:path}", file)):
        app.add_api_route(
            path, handler, methods=["GET", "HEAD"], include_in_schema=False, response_model=None
        )


def only(files: Mapping[str, File], names: Iterable[str]) -> dict[str, File]:
    """Some of the files. Raises KeyError for one that is not there."""
    return {name: files[name] for name in names}


def _contents(package: str, folder: str) -> Iterator[tuple[str, bytes]]:
    for entry in (resources.files(package) / folder).iterdir():
        if entry.is_file() and entry.name[entry.name.rfind(".") :] in TYPES:
            yield entry.name, entry.read_bytes()


def _file(name: str, content: bytes) -> File:
    digest = hashlib.sha256(content).hexdigest()[:24]
    return File(content, TYPES[name[name.rfind(".") :]], f'"{digest}"')


def _send(request: Request, pages: Pages, name: str, root: str) -> Response:
    found, status = pages.files[name], 404 if name == pages.lost else 200
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
