"""A folder that fits the base becomes tensors; any other is refused with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file, save_file

from loraland.adapters.admission import Limits
from loraland.bases.tiny import load_tiny
from loraland.errors import AdapterRejected
from loraland.lora.bank import LoraBank
from loraland.lora.weights import AdapterWeights, LoraPair, linears_of, peft_name, read_adapter

MakeAdapter = Callable[..., Path]
Linears = dict[str, tuple[int, int]]


@pytest.fixture(scope="module")
def linears(tiny_folders: dict[str, Path]) -> Linears:
    return linears_of(load_tiny("llama", tiny_folders["llama"]).model)


def reconfigured(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


def test_a_folder_gives_each_module_s_matrices_and_scale(
    adapter_folder: MakeAdapter, linears: Linears
) -> None:
    folder = adapter_folder(r=4, lora_alpha=8)
    weights = read_adapter(folder, linears)
    stored = load_file(folder / "adapter_model.safetensors")
    assert len(weights.modules) == 4 and weights.rank == 4
    assert weights.size_bytes == sum(tensor.nbytes for tensor in stored.values())
    for path, pair in weights.modules.items():
        assert pair.scale == 2.0
        assert torch.equal(pair.a, stored[peft_name(path, "A")])
        assert torch.equal(pair.b, stored[peft_name(path, "B")])


def test_each_module_has_its_own_rank_and_scale(
    adapter_folder: MakeAdapter, linears: Linears
) -> None:
    folder = adapter_folder(
        r=4, lora_alpha=8, rank_pattern={"v_proj": 9}, alpha_pattern={"v_proj": 27}, use_rslora=True
    )
    weights = read_adapter(folder, linears)
    assert weights.rank == 9
    assert weights.modules["model.layers.0.self_attn.v_proj"].scale == 9.0
    assert weights.modules["model.layers.0.self_attn.q_proj"].scale == 4.0


def test_what_was_read_survives_its_file(adapter_folder: MakeAdapter, linears: Linears) -> None:
    folder = adapter_folder()
    weights = read_adapter(folder, linears)
    before = {path: pair.a.clone() for path, pair in weights.modules.items()}
    file = folder / "adapter_model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert all(torch.equal(weights.modules[path].a, a) for path, a in before.items())


def _to_nan(tensors: dict[str, torch.Tensor]) -> None:
    next(iter(tensors.values()))[0, 0] = float("nan")


def _to_unknown_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        tensors[name.replace("layers.1.", "layers.7.")] = tensors.pop(name)


def _to_other_width(tensors: dict[str, torch.Tensor]) -> None:
    for name in list(tensors):
        if "q_proj.lora_A" in name:
            tensors[name] = tensors[name][:, :32].contiguous()


def _to_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def _cut_short(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda folder: rewritten(folder, _to_nan), "NaN or infinity"),
        (lambda folder: rewritten(folder, _to_unknown_layer), "layers that the base does not have"),
        (lambda folder: rewritten(folder, _to_other_width), "another shape than the base"),
        (lambda folder: reconfigured(folder, r=2), "has rank 4, the configuration says 2"),
        (lambda folder: reconfigured(folder, use_dora=True), "DoRA"),
        (lambda folder: reconfigured(folder, bias="all"), "biases of the base"),
        (lambda folder: reconfigured(folder, modules_to_save=["lm_head"]), "modules_to_save"),
        (_to_pickle, "pickle"),
        (_cut_short, "cannot be read"),
    ],
)
def test_a_bad_folder_is_refused_with_the_reason(
    adapter_folder: MakeAdapter, linears: Linears, damage: Callable[[Path], object], reason: str
) -> None:
    folder = adapter_folder()
    damage(folder)
    with pytest.raises(AdapterRejected, match=reason):
        read_adapter(folder, linears)


def test_a_rank_above_the_limit_is_refused(adapter_folder: MakeAdapter, linears: Linears) -> None:
    with pytest.raises(AdapterRejected, match="has rank 4, this replica accepts at most 2"):
        read_adapter(adapter_folder(), linears, Limits(max_rank=2))


def test_an_adapter_without_matrices_is_none() -> None:
    with pytest.raises(AdapterRejected, match="at least one linear layer"):
        AdapterWeights.of({})


def test_linears_are_all_modules_with_two_widths_and_count_once(
    tiny_folders: dict[str, Path],
) -> None:
    model = load_tiny("llama", tiny_folders["llama"]).model
    found = linears_of(model)
    assert found["lm_head"] == (64, 259)
    assert found["model.layers.1.mlp.down_proj"] == (128, 64)
    assert len(found) == 2 * 7 + 1
    bank = LoraBank(model, slots=1, max_rank=4)
    pair = LoraPair(torch.ones(2, 64), torch.ones(259, 2), 1.0)
    bank.write(1, AdapterWeights.of({"lm_head": pair}))
    assert linears_of(model) == found


def test_quantised_layers_are_linear_layers(tiny_folders: dict[str, Path]) -> None:
    plain = load_tiny("llama", tiny_folders["llama"]).model
    nf4 = load_tiny("llama", tiny_folders["llama"], "nf4").model
    assert isinstance(nf4.get_submodule("model.layers.0.mlp.up_proj"), bitsandbytes.nn.Linear4bit)
    assert linears_of(nf4) == linears_of(plain)
