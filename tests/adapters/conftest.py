"""Small PEFT folders written by hand, their cards, and storage on a disk and a real S3 server."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from loraland.adapters.card import Canary, Card, CurvePoint, DataStamp, Score
from loraland.adapters.folder import content_hash, version_of
from loraland.adapters.registry import Registry
from loraland.storage import Storage

FINGERPRINT = "a" * 64
MODULE = "model.layers.{layer}.self_attn.{target}"
MakeFolder = Callable[..., Path]
MakeCard = Callable[..., Card]


def peft_config(rank: int, **changes: Any) -> dict[str, Any]:
    config = {
        "base_model_name_or_path": "/home/someone/.cache/base",
        "bias": "none",
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "peft_version": "0.21.2",
        "r": rank,
        "rank_pattern": {},
        "alpha_pattern": {},
        "target_modules": ["v_proj", "q_proj"],
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
    return {key: value for key, value in {**config, **changes}.items() if value != "absent"}


def peft_tensors(rank: int, seed: int, hidden: int = 8) -> dict[str, np.ndarray]:
    numbers = np.random.default_rng(seed)
    tensors = {}
    for target in ("q_proj", "v_proj"):
        stem = "base_model.model." + MODULE.format(layer=0, target=target)
        tensors[f"{stem}.lora_A.weight"] = numbers.normal(size=(rank, hidden)).astype(np.float32)
        tensors[f"{stem}.lora_B.weight"] = numbers.normal(size=(hidden, rank)).astype(np.float32)
    return tensors


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes a PEFT folder; `config` and `tensors` change entries, None removes a tensor."""

    def make(
        seed: int = 0,
        rank: int = 2,
        config: dict[str, Any] | None = None,
        tensors: dict[str, np.ndarray | None] | None = None,
    ) -> Path:
        folder = tmp_path / f"adapter-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(peft_config(rank, **(config or {}))))
        changed = {**peft_tensors(rank, seed), **(tensors or {})}
        kept = {name: value for name, value in changed.items() if value is not None}
        save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        return folder

    return make


@pytest.fixture
def make_score() -> Callable[..., Score]:
    def make(mean: float = 0.9, **changes: Any) -> Score:
        values = {
            "metric": "label",
            "items": 100,
            "mean": mean,
            "low": mean - 0.05,
            "high": mean + 0.05,
            "base_mean": 0.5,
            "base_low": 0.4,
            "base_high": 0.6,
            "lift": mean - 0.5,
            "lift_low": mean - 0.6,
            "lift_high": mean - 0.4,
            "unparsable": 1,
            "base_unparsable": 20,
            "failures": 0,
            "confidence": 0.95,
            "samples": "samples/x.parquet",
            "base_samples": "samples/base.parquet",
            "data_source": "generator topics",
            "created": "2026-01-31T12:00:00+00:00",
        }
        return Score(**{**values, **changes})

    return make


@pytest.fixture
def make_card() -> MakeCard:
    """Makes the card of a folder, or of version 0 without one; writes no file."""

    def make(folder: Path | None = None, **changes: Any) -> Card:
        values = {
            "base": "tiny-llama",
            "base_fingerprint": FINGERPRINT,
            "hub_id": "someone/tiny-llama",
            "precision": "fp32",
            "task": "topics",
            "version": version_of(content_hash(folder)) if folder else "0" * 12,
            "recipe": {"rank": 2, "targets": ["q_proj", "v_proj"]},
            "seed": 7,
            "data": DataStamp(
                fingerprint="d" * 64,
                source="generator topics",
                train_rows=100,
                validation_rows=10,
                dropped_long=0,
            ),
            "curve": [
                CurvePoint(
                    step=1,
                    tokens=12,
                    train_loss=2.5,
                    validation_loss=None,
                    learning_rate=1e-4,
                    seconds=0.1,
                )
            ],
            "best_step": 1,
            "canary": Canary(
                prompt_ids=[1, 2, 3],
                top_ids=[5, 6],
                logits=[1.5, 1.0],
                base_logits=[0.5, 0.25],
                max_difference=1.25,
            ),
            "packages": {"peft": "0.21.2"},
            "git_commit": None,
            "git_dirty": None,
            "hardware": "2 CPU cores",
            "created": "2026-01-31T12:00:00+00:00",
        }
        return Card(**{**values, **changes})

    return make


@pytest.fixture
def registry(storage_uri: str) -> Registry:
    return Registry(Storage.open(storage_uri))
