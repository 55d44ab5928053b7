"""Small random factors, tiny bases and PEFT folders for the multi-LoRA layer's tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loraland.bases.tiny import load_tiny
from loraland.lora.factors import Layout, ServedFactors, TrainedFactors
from loraland.lora.weights import LoraPair

MakeAdapter = Callable[..., Path]
FactorsOf = Callable[..., tuple[ServedFactors | TrainedFactors, Mapping[int, LoraPair]]]


def random_pair(rank: int, inputs: int, outputs: int, seed: int) -> LoraPair:
    numbers = torch.Generator().manual_seed(seed)
    a = torch.randn(rank, inputs, generator=numbers)
    b = torch.randn(outputs, rank, generator=numbers)
    return LoraPair(a, b, 0.25 + seed % 3)


def _factors_of(
    ranks: Sequence[int],
    shape: tuple[int, int] = (24, 16),
    width: int = 8,
    trainable: bool = False,
    device: str = "cpu",
) -> tuple[ServedFactors | TrainedFactors, Mapping[int, LoraPair]]:
    """Factors whose slots have these ranks (the base's 0 first), and what was written."""
    layout = Layout(tuple(ranks), width)
    kind = TrainedFactors if trainable else ServedFactors.empty
    factors = kind(shape, layout, torch.device(device), torch.float32)
    pairs = {slot: random_pair(rank, *shape, seed=slot) for slot, rank in enumerate(ranks) if rank}
    for slot, pair in pairs.items():
        factors.prepare(slot, pair, layout)()
    return factors, pairs


@pytest.fixture(scope="session")
def factors_of() -> FactorsOf:
    return _factors_of


@pytest.fixture(scope="session")
def pair_of() -> Callable[[int, int, int, int], LoraPair]:
    return random_pair


@pytest.fixture(scope="session")
def adapter_folder(
    tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> MakeAdapter:
    """Writes a PEFT folder with a random adapter that moves the logits by a lot."""

    def make(architecture: str = "llama", seed: int = 1, **config: object) -> Path:
        base = load_tiny(architecture, tiny_folders[architecture])  # type: ignore[arg-type]
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}
        peft = get_peft_model(base.model, LoraConfig(**(settings | config), task_type="CAUSAL_LM"))
        numbers = torch.Generator().manual_seed(seed)
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.data = torch.randn(weight.shape, generator=numbers) * 0.3
        folder = tmp_path_factory.mktemp(f"adapter-{architecture}") / f"seed{seed}"
        # PEFT would add the base's own lm_head where that is a target.
        peft.save_pretrained(folder, save_embedding_layers=False)
        return folder

    return make
