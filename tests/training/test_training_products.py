"""Training on oneDNN's products: the same numbers, and a base that is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from loraland.bases.loading import LoadedBase
from loraland.bases.products import has_onednn
from loraland.bases.tiny import load_tiny
from loraland.tasks.task import Item
from loraland.training import products
from loraland.training.examples import Example, encode
from loraland.training.fused import FusedMember, train_fused
from loraland.training.loop import train
from loraland.training.products import FrozenLinear, fast_products
from loraland.training.recipe import get_recipe

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="this torch has no oneDNN products")


@pytest.fixture
def any_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of any size are replaced, whatever this machine is."""
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(products, "SMALLEST", 1)


@needs_onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(24,), (5, 24), (2, 3, 24)])
def test_values_and_gradients_are_those_of_a_plain_layer(
    bias: bool, shape: tuple[int, ...]
) -> None:
    plain = nn.Linear(24, 16, bias=bias).requires_grad_(False)
    fast = FrozenLinear(plain)
    ours = torch.randn(shape, requires_grad=True)
    theirs = ours.detach().clone().requires_grad_()
    weights = torch.randn(*shape[:-1], 16)
    (fast(ours) * weights).sum().backward()
    (plain(theirs) * weights).sum().backward()
    torch.testing.assert_close(fast(ours), plain(theirs))
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert fast.weight.grad is None and fast.weight is plain.weight


@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_base_trains_the_same_inside_and_is_itself_again_outside(
    any_processor: None, tiny_folders: dict[str, Path], precision: Any
) -> None:
    base = load_tiny("llama", tiny_folders["llama"], precision)
    before = dict(base.model.named_modules())

    def gradient() -> torch.Tensor:
        embedded = base.model.get_input_embeddings()(torch.tensor([[5, 6, 7, 8]]))
        embedded = embedded.detach().requires_grad_()
        base.model(inputs_embeds=embedded).logits.square().sum().backward()
        assert embedded.grad is not None
        return embedded.grad

    base.model.train()
    plainly = gradient()
    with fast_products(base) as faster:
        assert faster
        assert sum(isinstance(m, FrozenLinear) for m in base.model.modules()) == 2 * 7 + 1
        torch.testing.assert_close(gradient(), plainly, rtol=1e-3, atol=1e-3)
    after = dict(base.model.named_modules())
    assert after.keys() == before.keys()
    assert all(after[name] is module for name, module in before.items())


def test_nothing_changes_where_mkl_is_at_home(
    tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base: LoadedBase = load_tiny("llama", tiny_folders["llama"])
    monkeypatch.setattr(products, "_mkl_is_slow", lambda: False)
    with fast_products(base) as faster:
        assert not faster
        assert not any(isinstance(module, FrozenLinear) for module in base.model.modules())


@pytest.mark.parametrize(
    ("vendor", "slow"), [("AuthenticAMD", True), ("GenuineIntel", False), (None, False)]
)
def test_the_processor_decides_and_not_a_measurement(
    tmp_path: Path, vendor: str | None, slow: bool
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if vendor:
        cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {vendor}\n")
    assert products._mkl_is_slow(cpuinfo) is slow


@needs_onednn
@pytest.mark.parametrize("precision", ["fp32", pytest.param("nf4", marks=pytest.mark.slow)])
def test_both_loops_end_with_the_same_weights_on_them(
    any_processor: None, tiny_folders: dict[str, Path], tmp_path: Path, precision: Any
) -> None:
    base = load_tiny("llama", tiny_folders["llama"], precision)
    recipe = get_recipe("quick", precision=precision, evaluate_every=99, examples_per_update=4)
    items = [Item(f"Double {n}:", str(2 * n), {}) for n in range(24)]
    encoded = [encode(item, base.tokenizer) for item in items]
    examples = [one for one in encoded if isinstance(one, Example)]
    member = FusedMember("a", examples[4:], examples[:4], recipe, 0, tmp_path / "fused")

    def plain(folder: Path) -> Path:
        train(base, member.training, member.validation, recipe, folder)
        return folder

    folders = [plain(tmp_path / "as it is")]
    with fast_products(base):
        folders.append(plain(tmp_path / "fast"))
        train_fused(base, [member], slots=1)
        folders.append(member.folder)
    expected, *found = (load_file(folder / "adapter_model.safetensors") for folder in folders)
    for weights in found:
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, atol=1e-5, rtol=0, msg=name)
