"""Tiny bases and random adapters for the engine's tests."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.engine.reference import ReferenceEngine

ALL_LINEAR = ["q_proj", "v_proj", "up_proj", "down_proj"]


@dataclass
class Zoo:
    """A base on disk with adapters `one` (rank 4, q and v) and `two` (rank 2, more layers)."""

    architecture: str
    folder: Path
    one: Path
    two: Path

    def base(self, precision: str = "fp32") -> LoadedBase:
        """A fresh copy of the base in memory; an engine changes its layers."""
        return load_tiny(self.architecture, self.folder, precision)  # type: ignore[arg-type]


def write_adapter(base: LoadedBase, folder: Path, seed: int, **config: object) -> Path:
    """Save a random adapter that moves the logits by a lot."""
    settings = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "lora_dropout": 0.05,
    }
    peft = get_peft_model(base.model, LoraConfig(**(settings | config), task_type="CAUSAL_LM"))
    generator = torch.Generator().manual_seed(seed)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    peft.save_pretrained(folder)
    peft.unload()
    return folder


def _zoo(architecture: str, root: Path) -> Zoo:
    folder = root / "base"
    rich = ["q_proj", "dense", "fc1"] if architecture == "phi" else ALL_LINEAR
    load = lambda: load_tiny(architecture, folder)  # type: ignore[arg-type]  # noqa: E731
    one = write_adapter(load(), root / "one", 1)
    two = write_adapter(load(), root / "two", 2, r=2, lora_alpha=2, target_modules=rich)
    return Zoo(architecture, folder, one, two)


@pytest.fixture(scope="session")
def zoo_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Zoo]:
    made: dict[str, Zoo] = {}

    def make(architecture: str) -> Zoo:
        if architecture not in made:
            made[architecture] = _zoo(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def zoo(zoo_of: Callable[[str], Zoo]) -> Zoo:
    return zoo_of("llama")


@pytest.fixture
def broken_copy(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"{folder.name}-broken"))

    yield copy


@asynccontextmanager
async def running(base: LoadedBase, **options: int) -> AsyncIterator[ReferenceEngine]:
    """An engine that is closed at the end, whatever happens."""
    engine = ReferenceEngine.of(base, **options)
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture
def engine_of() -> Callable[..., object]:
    return running
