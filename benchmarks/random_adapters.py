"""Adapters with random weights, as PEFT writes them: for measurements of speed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn


def write_random_adapters(
    model: nn.Module,
    root: Path,
    count: int,
    *,
    rank: int,
    targets: Sequence[str] = ("q_proj", "v_proj"),
) -> dict[str, Path]:
    """`count` adapter folders below `root`, by name."""
    shapes = {
        path: (module.in_features, module.out_features)
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in targets and hasattr(module, "in_features")
    }
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank,
        "target_modules": list(targets), "bias": "none", "lora_dropout": 0.0,
        "inference_mode": True, "base_model_name_or_path": None,
    }  # fmt: skip
    folders = {}
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        weights = {}
        for path, (inputs, outputs) in shapes.items():
            name = f"base_model.model.{path}.lora_"
            weights[f"{name}A.weight"] = torch.randn(rank, inputs, generator=generator) * 0.02
            weights[f"{name}B.weight"] = torch.randn(outputs, rank, generator=generator) * 0.02
        folder = root / f"adapter{number:03d}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(weights, folder / "adapter_model.safetensors")
        folders[folder.name] = folder
    return folders
