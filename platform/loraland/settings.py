"""The places of this machine, for adapters, data and copies, and what may be done on it.

Four environment variables choose places. A fifth allows generated programs to be run; without
it, what needs that is refused. No variable changes a result.
"""

from __future__ import annotations

import os
from pathlib import Path

from loraland.errors import InvalidConfiguration

STORAGE = "LORALAND_STORAGE"  # a folder, or an s3:// or gs:// URI, for all that must last
DATA = "LORALAND_DATA"  # a folder <task>/{train,test}.parquet, tried before any other source
DATABASE = "LORALAND_DATABASE"  # of people and events: a path for SQLite, or a PostgreSQL URL
CACHE = "LORALAND_CACHE"  # a local folder that may be deleted at any time
RUN_CODE = "LORALAND_RUN_CODE"  # 1: programs that a model wrote may be run, confined; else not


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


def database_url() -> str | None:
    """The database of Grapevine's people and events; None for a file in the storage."""
    return os.environ.get(DATABASE) or None


def run_code() -> bool:
    """Whether programs that a model wrote may be run, in a sandbox; off unless asked for.

    Raises InvalidConfiguration when the variable is neither 1 nor 0.
    """
    named = os.environ.get(RUN_CODE, "")
    if named not in ("", "0", "1"):
        raise InvalidConfiguration(
            f"{RUN_CODE} is '{named[:40]}'; set it to 1 to run programs that models wrote "
            "(confined), to 0 or not at all to run none"
        )
    return named == "1"
