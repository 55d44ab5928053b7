"""Adapters with random weights, as PEFT writes them: valid, useless, for measuring and load tests.

Twins of one seed compute exactly the same from other bytes: signs and powers of two are moved from
one matrix to the other. So each is a version of its own, and what is measured of one holds for all.
Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from loraland.adapters.folder import CONFIG, WEIGHTS
from loraland.errors import AdapterRejected

SCALE = 0.02  # standard deviation of all weights
TARGETS = ("q_proj", "v_proj")  # as in the report
# What a twin multiplies a row of A with, and divides the column of B by: one for each digit.
FACTORS = (1.0, -1.0, 2.0, -2.0, 4.0, -4.0, 0.5, -0.5, 0.25, -0.25)


def write_random_adapter(
    folder: Path,
    linears: Mapping[str, tuple[int, int]],
    *,
    rank: int,
    seed: int,
    twin: int = 0,
    targets: Sequence[str] = TARGETS,
) -> None:
    """Write an adapter of all layers of `linears` that are called one of `targets`.

    `linears` gives (in_features, out_features) by path; there are 10^rank twins, from 0. Raises
    AdapterRejected where no layer is so called, FileExistsError for a folder that exists.
    """
    chosen = {path: shape for path, shape in linears.items() if path.split(".")[-1] in targets}
    if not chosen:
        raise AdapterRejected(f"the base has no layer called {' or '.join(targets)}")
    chance = np.random.default_rng(seed)
    factors = _factors(rank, twin)
    weights: dict[str, NDArray[np.float32]] = {}
    for path, (inputs, outputs) in sorted(chosen.items()):
        a = (chance.standard_normal((rank, inputs)) * SCALE).astype(np.float32)
        b = (chance.standard_normal((outputs, rank)) * SCALE).astype(np.float32)
        name = f"base_model.model.{path}.lora_"
        weights[f"{name}A.weight"] = a * factors[:, None]
        weights[f"{name}B.weight"] = b / factors
    folder.mkdir(parents=True)
    save_file(weights, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(_config(rank, targets)))


def _factors(rank: int, twin: int) -> NDArray[np.float32]:
    """What each row of A is multiplied by, shape (rank,): the decimal digits of `twin`."""
    if not 0 <= twin < len(FACTORS) ** rank:
        raise ValueError(f"twin {twin} of rank {rank}; there are {len(FACTORS)}^rank")
    digits = [twin // len(FACTORS) ** place % len(FACTORS) for place in range(rank)]
    return np.array([FACTORS[digit] for digit in digits], np.float32)


def _config(rank: int, targets: Sequence[str]) -> dict[str, object]:
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank,
        "target_modules": list(targets), "bias": "none", "lora_dropout": 0.0,
        "inference_mode": True, "base_model_name_or_path": None,
    }  # fmt: skip
