"""The web pages: which files they are and at which names.

The pages ask the same gateway's JSON and no other host. They lie beside this module and not in
`serve_apps`, so that an installed package, a checkout and a working directory that Ray ships find
them alike. How files are sent is `page_files`' affair.
"""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI

from loraland.serving.page_files import File, Pages, add_files, read_files

FRONT = "playground.html"
PAGES = {  # by their names below /web/
    "leaderboard": "leaderboard.html",
    "strata": "strata.html",
    "fleet": "fleet.html",
}
LOST = "404.html"


def add_pages(app: FastAPI) -> None:
    """Serve the pages at / and below /web/; GET and HEAD."""
    add_files(app, Pages(files(), FRONT, PAGES, LOST))


@cache
def files() -> dict[str, File]:
    """Every file of the pages by its name."""
    return read_files(("loraland.serving", "web"))
