"""Where the registry keeps what it was given."""

from __future__ import annotations

from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry


def path_of(name: ModelName, file: str) -> str:
    return f"adapters/{name.base}/{name.task}/versions/{name.version}/{file}"


def files_of(registry: Registry) -> list[str]:
    return [f"adapters/{path}" for path in registry.storage.walk("adapters")]
