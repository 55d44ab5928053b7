"""What every page of ours that is one file has in common: templates, assets, and a strict policy.

A page's own style and script are the only ones that a browser may use, by their hashes; it asks
nothing of any network. Knows nothing of what the pages tell.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

TEMPLATES = "templates"
OURS = "loraland.report"  # the package whose tokens.css and report.css all pages share


def environment(package: str) -> Environment:
    """The templates of a package; text from outside is escaped."""
    return Environment(
        loader=PackageLoader(package, TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def asset(name: str, package: str = OURS) -> Markup:
    """A file of ours that goes into a page as it is."""
    return Markup(resources.files(package).joinpath(TEMPLATES, name).read_text("utf-8"))


def policy(style: str, script: str | None = None) -> str:
    """What a browser may do with a page: no request at all, no style or script but these."""
    allowed = f"script-src '{_hash(script)}'; " if script is not None else ""
    return (
        f"default-src 'none'; style-src '{_hash(style)}'; {allowed}"
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
