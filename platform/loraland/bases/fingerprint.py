"""What a base is, in one hash: every weight, and what of its config changes the computation.

The same whatever the precision it is loaded in, the file layout of its shards or the version of
transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedTokenizerBase

from loraland import settings
from loraland.errors import BaseUnavailable

# Fields of a config that change the forward pass of the architectures in the catalogue.
FIELDS = (
    "model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
    "num_attention_heads", "num_key_value_heads", "head_dim", "hidden_act", "hidden_activation",
    "rms_norm_eps", "layer_norm_eps", "tie_word_embeddings", "max_position_embeddings",
    "sliding_window", "attention_bias", "qk_layernorm",
)  # fmt: skip


# Texts in which tokenizers of different making differ: cases, digits, spaces, accents, scripts.
PROBES = ("The Quick brown-fox", " 1234.5 + 67", "a\n\n  b\t{}", "naïve 東京 🙂", "")


def fingerprint(folder: Path) -> str:
    """SHA-256 (64 hex) over the weights and config in a local folder of safetensors.

    The answer is remembered in the cache for files of the same path, size and time of change.
    Raises BaseUnavailable when the folder has no safetensors.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise BaseUnavailable(f"{folder} holds no *.safetensors; only safetensors weights are read")
    known = _remembered_at(folder, weights)
    if known.is_file() and re.fullmatch("[0-9a-f]{64}", text := known.read_text()):
        return text
    value = _compute(folder, weights)
    known.parent.mkdir(parents=True, exist_ok=True)
    temporary = known.with_suffix(f".{uuid.uuid4().hex}")  # processes may compute it side by side
    temporary.write_text(value)
    temporary.replace(known)
    return value


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """What a tokenizer does to a probe, in 16 hex digits: it decides prompts, so also adapters."""
    probe = [tokenizer(text).input_ids for text in PROBES]
    special = [tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)]
    return hashlib.sha256(json.dumps([probe, special]).encode()).hexdigest()[:16]


def _compute(folder: Path, weights: list[Path]) -> str:
    whole = hashlib.sha256(json.dumps(_config_facts(folder), sort_keys=True).encode())
    for name, digest in sorted(_tensor_digests(weights)):
        whole.update(name.encode() + digest)
    return whole.hexdigest()


def _config_facts(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    facts = {field: config[field] for field in FIELDS if config.get(field) is not None}
    return facts | {"rope": _rope_facts(config)}


def _rope_facts(config: dict[str, Any]) -> dict[str, Any]:
    """The rotary embedding, wherever a version of transformers keeps its numbers."""
    inside = config.get("rope_parameters") or config.get("rope_scaling") or {}
    outside = {name: config.get(name) for name in ("rope_theta", "partial_rotary_factor")}
    rope = {"rope_type": inside.get("type", "default")} | outside | inside
    return {name: value for name, value in rope.items() if value is not None and name != "type"}


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
