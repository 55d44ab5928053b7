"""When two texts count as the same: the normal form behind overlap checks and generated splits.

Pure text; knows nothing of tasks.
"""

from __future__ import annotations

import hashlib
import unicodedata


def normalised(text: str) -> str:
    """NFKC, case-folded, each run of white space one space, none at the ends."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def normalised_hash(text: str) -> str:
    r"""SHA-256 (64 hex digits) of the normal form; equal for texts that differ in case or spacing.

    >>> normalised_hash("\uff28ello  World") == normalised_hash("hello world ")
    True
    """
    return hashlib.sha256(normalised(text).encode("utf-8", "surrogatepass")).hexdigest()
