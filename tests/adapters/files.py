"""Parts of adapter folders, whole and strange, for the tests of admission."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

Q = "base_model.model.model.layers.0.self_attn.q_proj"
MODULE_Q, MODULE_V = (f"model.layers.0.self_attn.{name}_proj" for name in "qv")


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


def raw_safetensors(header: dict[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
