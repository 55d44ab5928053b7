"""The places of this machine: where adapters are kept, where data is read, where copies are cached.

Three environment variables choose places and nothing else; no variable changes a result.
"""

from __future__ import annotations

import os
from pathlib import Path

STORAGE = "LORALAND_STORAGE"  # a folder, or an s3:// or gs:// URI, for all that must last
DATA = "LORALAND_DATA"  # a folder <task>/{train,test}.parquet, tried before any other source
CACHE = "LORALAND_CACHE"  # a local folder that may be deleted at any time


def storage_uri() -> str:
    """The root of adapters, samples, scores and runs.

    A local path or a URI that pyarrow understands.
    """
    return os.environ.get(STORAGE) or str(Path.home() / ".loraland")


def data_folder() -> Path | None:
    """The folder of Parquet files that comes before the hub, or None when none is named."""
    named = os.environ.get(DATA)
    return Path(named).expanduser() if named else None


def cache_folder() -> Path:
    """A local folder for copies that can be made again (for one, the dequantised embedded base)."""
    named = os.environ.get(CACHE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "loraland"
