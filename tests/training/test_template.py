"""A template draws and writes what PEFT would have drawn and written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from loraland.bases.tiny import load_tiny
from loraland.errors import InvalidConfiguration
from loraland.training.adapter import add_adapter, remove_adapter, trainable, write_adapter
from loraland.training.recipe import get_recipe
from loraland.training.template import AdapterTemplate

RECIPE = get_recipe("quick", rank=5, gradient_checkpointing=True)


@pytest.mark.parametrize(
    ("architecture", "precision"),
    [("llama", "fp32"), ("llama", "nf4"), ("llama", "bf16"), ("mistral", "fp32"), ("phi", "fp32"),
     ("gemma", "fp32")],
)  # fmt: skip
def test_weights_and_files_are_those_of_peft(
    tiny_folders: dict[str, Path], tmp_path: Path, architecture: Any, precision: Any
) -> None:
    base = load_tiny(architecture, tiny_folders[architecture], precision)
    template = AdapterTemplate.of(base, RECIPE)
    assert template.draws_as_peft
    model = add_adapter(base, RECIPE, seed=7)
    theirs = trainable(model)
    ours = template.initial(base, RECIPE, seed=7)
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
    write_adapter(model, dict(theirs), tmp_path / "theirs")
    remove_adapter(base, model, RECIPE)
    template.write(ours, tmp_path / "ours")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_where_peft_draws_otherwise_it_is_asked_each_time(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    draw = AdapterTemplate._draw
    monkeypatch.setattr(
        AdapterTemplate, "_draw", lambda self, seed: {n: -v for n, v in draw(self, seed).items()}
    )
    template = AdapterTemplate.of(base, RECIPE)
    assert not template.draws_as_peft
    model = add_adapter(base, RECIPE, seed=3)
    theirs = {name: value.detach().clone() for name, value in trainable(model).items()}
    remove_adapter(base, model, RECIPE)
    ours = template.initial(base, RECIPE, seed=3)
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())


def test_targets_that_the_base_does_not_have_are_an_error(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    with pytest.raises(InvalidConfiguration, match=r"'quick' cannot adapt base 'tiny-llama'.*side"):
        AdapterTemplate.of(base, RECIPE.model_copy(update={"targets": ("sideways",)}))
