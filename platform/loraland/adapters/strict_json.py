"""JSON from outside, read strictly, so that no two readers can understand one file differently."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse_object(content: bytes) -> dict[str, Any]:
    """One JSON object: no name twice, no NaN, no infinity, no depth that exhausts the stack.

    Raises ValueError that ends a sentence about the file ("... is not a JSON object").
    """
    try:
        value = json.loads(content, object_pairs_hook=_no_duplicates, parse_constant=_refuse)
        json.dumps(value, allow_nan=False)  # 1e999 reads as infinity
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("is not text") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("names something twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"holds {constant}, which is not JSON")
