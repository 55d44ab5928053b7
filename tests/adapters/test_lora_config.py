"""Which modules a configuration adapts, held against PEFT itself."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import nn

from loraland.adapters.lora_config import targeted_modules


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.v_proj, self.gate = (nn.Linear(4, 4) for _ in range(3))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(3))
        self.extra = nn.ModuleList(Block() for _ in range(2))
        self.gate = nn.Linear(4, 4)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["gate"]},
        {"target_modules": ["layers.1.q_proj", "gate"]},
        {"target_modules": ["q_proj", "gate"], "exclude_modules": ["layers.0.q_proj"]},
        {"target_modules": ["q_proj"], "layers_to_transform": [0, 1]},
        {"target_modules": ["q_proj"], "layers_to_transform": 1},
        {"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": "extra"},
        {"target_modules": ["v_proj"], "layers_to_transform": [1], "layers_pattern": ["layers"]},
    ],
    ids=str,
)
def test_the_same_modules_are_adapted_as_by_peft(config) -> None:  # type: ignore[no-untyped-def]
    linears = [name for name, module in Outer().named_modules() if isinstance(module, nn.Linear)]
    adapted = {
        name.removeprefix("base_model.model.")
        for name, module in get_peft_model(Outer(), LoraConfig(**config)).named_modules()
        if isinstance(module, LoraLayer)
    }
    assert adapted
    assert targeted_modules(config, linears) == adapted
