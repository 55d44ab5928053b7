"""Grapevine as a Serve application: people, their palates, and what they might like.

serve run serve_apps.palate:app
serve run serve_apps.palate:build_app model=wine make_up=false
serve run serve_apps/palate.yaml
"""

# No `from __future__ import annotations` here: Serve reads the type of build_app's argument.
from typing import Any

from loraland.cellar.app import build
from loraland.cellar.config import CellarConfig


def build_app(arguments: CellarConfig) -> Any:
    """The application; `loraland.cellar.config` explains each setting."""
    return build(arguments)


app = build()
