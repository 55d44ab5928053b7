"""Tiny bases and random adapters for the engine's tests."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.tiny import load_tiny
from loraland.engine.batched import BatchedEngine
from loraland.engine.reference import ReferenceEngine
from loraland.engine.settings import EngineLimits
from tests.engine.asking import PROMPTS, expected

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


def write_adapter(
    base: LoadedBase, folder: Path, seed: int, spread: float = 0.3, **config: object
) -> Path:
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
            weight.data = torch.randn(weight.shape, generator=generator) * spread
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


Answers = dict[str | None, dict[tuple[int, ...], list[int]]]


@pytest.fixture(scope="session")
def answers_of() -> Callable[..., Answers]:
    """{adapter or None: {prompt: greedy tokens}} by transformers and PEFT, one prompt at a time."""
    made: dict[tuple[str, str], Answers] = {}

    def ask_each(zoo: Zoo, precision: str) -> Answers:
        answers: Answers = {None: {p: expected(zoo.base(precision).model, p) for p in PROMPTS}}
        for name, folder in (("one", zoo.one), ("two", zoo.two)):
            model = PeftModel.from_pretrained(zoo.base(precision).model, folder).eval()
            answers[name] = {p: expected(model, p) for p in PROMPTS}
        return answers

    def answers(zoo: Zoo, precision: str = "fp32") -> Answers:
        key = (zoo.architecture, precision)
        if key not in made:
            made[key] = ask_each(zoo, precision)
        return made[key]

    return answers


@pytest.fixture
def broken_copy(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"{folder.name}-broken"))

    yield copy


@asynccontextmanager
async def reference(base: LoadedBase, **options: int) -> AsyncIterator[ReferenceEngine]:
    """An engine that is closed at the end, whatever happens."""
    engine = ReferenceEngine.of(base, **options)
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def batched(
    base: LoadedBase, *, max_batch: int = 16, max_waiting: int = 256
) -> AsyncIterator[BatchedEngine]:
    """The same for the batched engine, which must also have lost nothing."""
    limits = EngineLimits(rows=max_batch, waiting=max_waiting, kv_tokens=2048)
    engine = BatchedEngine.of(base, limits)
    try:
        yield engine
        engine.check()
    finally:
        await engine.close()


@pytest.fixture
def reference_engine() -> Callable[..., object]:
    return reference


@pytest.fixture(params=["reference", "batched"])
def engine_of(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Each engine in turn: what one promises, both keep."""
    return {"reference": reference, "batched": batched}[request.param]


@pytest.fixture(scope="session")
def crowd_of(
    zoo_of: Callable[[str], Zoo], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Zoo, dict[str, Path]]]:
    """A base with 25 adapters of ranks 4 to 32 over different layers, by name `a0` to `a24`."""
    made: dict[str, tuple[Zoo, dict[str, Path]]] = {}

    def make(architecture: str) -> tuple[Zoo, dict[str, Path]]:
        if architecture not in made:
            zoo, root = zoo_of(architecture), tmp_path_factory.mktemp(f"crowd-{architecture}")
            made[architecture] = zoo, _crowd(zoo, root)
        return made[architecture]

    return make


@pytest.fixture(scope="session")
def embedded_crowd(
    embedded_cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Embedded, dict[str, Path]]:
    """The same over the embedded base."""
    zoo, root = Embedded(embedded_cache), tmp_path_factory.mktemp("crowd-embedded")
    return zoo, _crowd(zoo, root, spread=0.05)


@dataclass
class Embedded:
    """The embedded base from a cache that holds it."""

    cache: Path
    architecture: str = "llama"

    def base(self) -> LoadedBase:
        """A fresh copy in fp32; an engine changes its layers."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LORALAND_CACHE", str(self.cache))
            return load_base(find_base("smollm2-135m"), "fp32")


def _crowd(zoo: Zoo | Embedded, root: Path, spread: float = 0.3) -> dict[str, Path]:
    base = zoo.base()
    phi = zoo.architecture == "phi"
    return {f"a{i}": _member(base, root / f"a{i}", i, spread, phi) for i in range(25)}


def _member(base: LoadedBase, folder: Path, number: int, spread: float, phi: bool) -> Path:
    targets = [
        ["q_proj", "v_proj"],
        ["q_proj", "k_proj", "v_proj", "dense" if phi else "o_proj"],
        ["fc1", "fc2"] if phi else ["gate_proj", "up_proj", "down_proj"],
        ["k_proj"],
    ][number % 4]
    rank = (4, 8, 16, 32)[(number // 4) % 4]
    return write_adapter(
        base,
        folder,
        100 + number,
        spread,
        r=rank,
        lora_alpha=rank,
        target_modules=targets,
        use_rslora=number % 5 == 4,
    )
