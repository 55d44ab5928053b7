"""An adapter folder on local disk, and the content hash that is its identity.

The folder holds `adapter_config.json` and `adapter_model.safetensors` exactly as PEFT writes and
reads them, and `card.json` beside them. The hash covers the configuration and the weights, never
the card, and leaves out the fields of the configuration that tell where and with what the folder
was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from loraland.adapters.card import Card
from loraland.adapters.names import VERSION_DIGITS
from loraland.adapters.strict_json import parse_object
from loraland.errors import AdapterRejected

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
CARD = "card.json"

MAX_CONFIG_BYTES = 1 << 20
MAX_CARD_BYTES = 16 << 20  # a curve of 40,000 steps takes about 6 MiB
MAX_WEIGHTS_BYTES = 4 << 30

# Not part of the identity. base_model_name_or_path is often a path of the machine that trained
# (the card holds the fingerprint of the base), revision belongs to it; peft_version and
# auto_mapping name the installation that wrote the file. PEFT computes the same with any value of
# these.
INCIDENTAL = frozenset({"base_model_name_or_path", "revision", "peft_version", "auto_mapping"})
_SETS = (
    "exclude_modules",
    "target_modules",
)  # PEFT keeps them as sets and writes them in any order


def content_hash(folder: Path) -> str:
    """SHA-256 (64 hex digits) of an adapter folder; equal for equal adapters, wherever they were
    written.

    Raises AdapterRejected when a file is missing, too large, or no JSON.
    """
    config = read_config(folder)
    digest = _started_hash(config)
    _check_file(folder, WEIGHTS, MAX_WEIGHTS_BYTES)
    with (folder / WEIGHTS).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def hash_content(config: Mapping[str, Any], weights: bytes) -> str:
    """The content hash of an adapter whose parts are in memory."""
    digest = _started_hash(config)
    digest.update(weights)
    return digest.hexdigest()


def version_of(content_hash: str) -> str:
    """The version that a content hash stands for."""
    return content_hash[:VERSION_DIGITS]


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration of an adapter folder. Raises AdapterRejected."""
    content = read_limited(folder, CONFIG, MAX_CONFIG_BYTES)
    try:
        return parse_object(content)
    except ValueError as error:
        raise AdapterRejected(f"{folder / CONFIG}: {error}") from error


def canonical_config(config: Mapping[str, Any], base_model: str | None = None) -> bytes:
    """The one way to write a configuration: keys sorted, sets sorted.

    `base_model`, where given, takes the place of `base_model_name_or_path`.
    """
    settled = _sorted_sets(config)
    if base_model is not None:
        settled["base_model_name_or_path"] = base_model
    return (json.dumps(settled, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def canonicalise_config(folder: Path) -> None:
    """Rewrite adapter_config.json so that equal ones are equal bytes. Raises AdapterRejected."""
    _replace(folder / CONFIG, canonical_config(read_config(folder)))


def read_card(folder: Path) -> Card:
    """The card of an adapter folder. Raises AdapterRejected listing all that is wrong with it."""
    content = read_limited(folder, CARD, MAX_CARD_BYTES)
    try:
        return Card.from_json(content)
    except ValueError as error:
        raise AdapterRejected(f"{folder / CARD} is no valid card: {error}") from error


def write_card(folder: Path, card: Card) -> None:
    """Write the card of an adapter folder, whole or not at all."""
    _replace(folder / CARD, card.to_json())


def read_limited(folder: Path, name: str, max_bytes: int) -> bytes:
    """A file of an adapter folder. Raises AdapterRejected when it is missing or too large."""
    _check_file(folder, name, max_bytes)
    return (folder / name).read_bytes()


def _check_file(folder: Path, name: str, max_bytes: int) -> None:
    path = folder / name
    if not path.is_file():
        raise AdapterRejected(f"{folder} has no {name}; an adapter folder is what PEFT saves")
    if path.stat().st_size > max_bytes:
        size = path.stat().st_size
        raise AdapterRejected(f"{path} has {size} bytes, at most {max_bytes} are read")


def _started_hash(config: Mapping[str, Any]) -> hashlib._Hash:
    kept = {key: value for key, value in _sorted_sets(config).items() if key not in INCIDENTAL}
    identity = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    # The length first, so that no byte can move between configuration and weights unnoticed.
    return hashlib.sha256(len(identity).to_bytes(8, "little") + identity)


def _sorted_sets(config: Mapping[str, Any]) -> dict[str, Any]:
    def settle(key: str, value: Any) -> Any:
        return sorted(value, key=str) if key in _SETS and isinstance(value, list) else value

    return {key: settle(key, value) for key, value in config.items()}


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
