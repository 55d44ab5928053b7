"""Applications for `serve run serve_apps.NAME:app`; in a checkout they find the library."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("loraland") is None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "platform"))
