"""What a base is, in one hash: every weight, and the numbers of its config that change what it
computes.

The same whatever the precision it is loaded in, the file layout of its shards or the version of
transformers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from loraland import settings
from loraland.errors import BaseUnavailable

# Fields of a config that change the forward pass of the architectures in the catalogue.
FIELDS = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "hidden_activation",
    "rms_norm_eps", "layer_norm_eps", "tie_word_embeddings", "partial_rotary_factor",
    "sliding_window", "attention_bias", "qk_layernorm",
)  # fmt: skip


def fingerprint(folder: Path) -> str:
    """SHA-256 (64 hex) over the weights and config in a local folder of safetensors.

    The answer is remembered in the cache for files of the same path, size and time of change.
    Raises BaseUnavailable when the folder has no safetensors.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BaseUnavailable(f"{folder} holds no *.safetensors; only safetensors weights are read")
    known = _remembered_at(folder, weights)
    if known.is_file():
        return known.read_text().strip()
    value = _compute(folder, weights)
    known.parent.mkdir(parents=True, exist_ok=True)
    temporary = known.with_suffix(".tmp")
    temporary.write_text(value)
    temporary.replace(known)
    return value


def _compute(folder: Path, weights: list[Path]) -> str:
    whole = hashlib.sha256(json.dumps(_config_facts(folder), sort_keys=True).encode())
    for name, digest in sorted(_tensor_digests(weights)):
        whole.update(name.encode() + digest)
    return whole.hexdigest()


def _config_facts(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = rope.get("rope_theta", config.get("rope_theta"))
    facts = {field: config[field] for field in FIELDS if config.get(field) is not None}
    return facts | {"rope_theta": theta, "rope_type": rope.get("rope_type", "default")}


def _tensor_digests(weights: list[Path]) -> list[tuple[str, bytes]]:
    digests = []
    for file in weights:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  safe_open is not iterable
                tensor = tensors.get_tensor(name).contiguous()
                digest = hashlib.sha256(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
                digest.update(memoryview(tensor.view(-1).view(torch.uint8).numpy()))
                digests.append((name, digest.digest()))
    return digests


def _remembered_at(folder: Path, weights: list[Path]) -> Path:
    files = [*weights, folder / "config.json"]
    stamp = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps([FIELDS, stamp]).encode()).hexdigest()[:24]
    return settings.cache_folder() / "fingerprints" / key
