"""A registry with tiny adapters, published as training publishes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from loraland.adapters.card import Canary, Card, DataStamp, Score, utc_now
from loraland.adapters.folder import content_hash, version_of
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.loading import LoadedBase
from loraland.bases.tiny import load_tiny
from loraland.storage import Storage
from loraland.training.effect import measure_canary

BASE = "tiny-llama"


@dataclass
class Shop:
    """A registry at `uri` and what is needed to fill it for the base in `base_folder`."""

    uri: str
    base_folder: Path
    work: Path
    folders: dict[str, Path] = field(default_factory=dict)  # by full name

    @property
    def registry(self) -> Registry:
        return Registry(Storage.open(self.uri))

    def base(self) -> LoadedBase:
        return load_tiny("llama", self.base_folder)

    def publish(self, task: str, seed: int, *aliases: str, **changes: Any) -> ModelName:
        """Train nothing, publish a random adapter.

        `changes` go to its card, or `rank` to its config.
        """
        folder = self.work / f"{task}-{seed}"
        rank = changes.pop("rank", 4)
        base = self.base()
        fingerprint = changes.pop("base_fingerprint", base.fingerprint)
        _write_adapter(base, folder, seed, rank)
        canary = measure_canary(self.base(), folder, (5, 9, 77))
        changes.pop("edit", lambda _: None)(folder)
        version = version_of(content_hash(folder))
        card = _card(task, version, fingerprint, canary).model_copy(update=changes)
        name = self.registry.publish(folder, card, aliases or ("latest",))
        self.folders[str(name)] = folder
        return name

    def greedy(
        self, prompt: str | list[int], name: ModelName | None = None, tokens: int = 12
    ) -> str:
        """The answer by transformers and PEFT, cut at the end token."""
        base = self.base()
        model = base.model
        if name is not None:
            model = PeftModel.from_pretrained(model, self.folders[str(name)]).eval()
        ids = base.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        inputs = torch.tensor([ids])
        output = model.generate(
            input_ids=inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
        )
        return base.tokenizer.decode(output[0, len(ids) :], skip_special_tokens=True)


def _write_adapter(base: LoadedBase, folder: Path, seed: int, rank: int) -> None:
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"
    )
    peft = get_peft_model(base.model, config)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in peft.named_parameters():
        if "lora_" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    peft.save_pretrained(folder)


def _card(task: str, version: str, fingerprint: str, canary: Canary) -> Card:
    score = Score(
        metric="exact", items=50, mean=0.9, low=0.8, high=1.0,
        base_mean=0.1, base_low=0.0, base_high=0.2, lift=0.8, lift_low=0.7, lift_high=0.9,
        unparsable=0, base_unparsable=1, failures=0, confidence=0.95,
        samples="samples/a.parquet", base_samples="samples/b.parquet",
        data_source="generator", created=utc_now(),
    )  # fmt: skip
    return Card(
        base=BASE, base_fingerprint=fingerprint, hub_id=BASE, precision="fp32", task=task,
        version=version, recipe={"rank": 4}, seed=0,
        data=DataStamp(
            fingerprint="f", source="generator", train_rows=8, validation_rows=2, dropped_long=0
        ),
        curve=[], best_step=1,
        canary=canary,
        scores=[score], packages={}, git_commit=None, git_dirty=None, hardware="CPU",
        created=utc_now(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def new_shop(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]
) -> Callable[[], Shop]:
    def make() -> Shop:
        root = tmp_path_factory.mktemp("shop")
        return Shop(str(root / "storage"), tiny_folders["llama"], root)

    return make


def events_of(text: str) -> list[Any]:
    """The data of server-sent events, [DONE] as a text."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.fixture
def read_events() -> Callable[[str], list[Any]]:
    return events_of
