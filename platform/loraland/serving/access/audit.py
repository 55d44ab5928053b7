"""One line of JSON for each request, without a word of it, to the logger `loraland.audit`.

Knows visits; where the lines go is said once, by `write_to`, when the logger has no handler yet.
"""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from loraland.serving.access.visit import Visit

logger = logging.getLogger("loraland.audit")

FILE_BYTES, OLD_FILES = 64 << 20, 5  # of one gateway


def record(visit: Visit, route: str | None) -> None:
    """Write a request down that has ended; `route` is the template it matched."""
    now = time.monotonic()
    first = visit.first_token
    line = {
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "request": visit.request_id,
        "trace": visit.trace_id,
        "key": visit.caller.key if visit.caller else None,
        "method": visit.method,
        "route": route,
        "asked": visit.asked,
        "answered": visit.answered,
        "status": visit.status,
        "error": visit.error,
        "prompt_tokens": visit.prompt_tokens,
        "generated_tokens": visit.generated_tokens,
        "ttft_ms": None if first is None else _ms(first - visit.began),
        "total_ms": _ms(now - visit.began),
        "client_left": visit.left,
    }
    logger.info(json.dumps(line, ensure_ascii=True))


def write_to(folder: Path, name: str) -> None:
    """Send lines to `folder/NAME.jsonl`, unless the logger has been given a place already."""
    logger.setLevel(logging.INFO)
    if logger.handlers:
        return
    folder.mkdir(parents=True, exist_ok=True)
    handler = RotatingFileHandler(
        folder / f"{name}.jsonl", maxBytes=FILE_BYTES, backupCount=OLD_FILES, encoding="utf-8"
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)
