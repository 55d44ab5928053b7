"""The page: which files it is made of. Type, colours and small modules are those of `serving`."""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI

from loraland.serving.page_files import File, Pages, add_files, only, read_files

FRONT = "palate.html"
LOST = "404.html"
SHARED = ("tokens.css", "site.css", "dom.js", "format.js", "http.js", "icon.svg")


def add_page(app: FastAPI) -> None:
    """Serve the page at / and its files below /web/; GET and HEAD."""
    add_files(app, Pages(files(), FRONT, {}, LOST))


@cache
def files() -> dict[str, File]:
    """Every file of the page by its name."""
    shared = only(read_files(("loraland.serving", "web")), SHARED)
    return shared | read_files(("loraland.cellar", "web"))
