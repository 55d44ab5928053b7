"""The faster products against the plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from loraland.bases import products
from loraland.bases.loading import LoadedBase
from loraland.bases.products import InferenceLinear, speed_up
from loraland.bases.tiny import load_tiny

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch was built without oneDNN"
)


@needs_onednn
@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("outputs", [1, 6, 20, 64])
@pytest.mark.parametrize("shape", [(1,), (0,), (5,), (1, 1), (1, 9), (2, 3)])
def test_the_product_is_that_of_nn_linear(
    blocked: bool, bias: bool, outputs: int, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(outputs)
    plain = nn.Linear(48, outputs, bias=bias)
    fast = InferenceLinear(plain, blocked)
    x = torch.randn(*shape, 48)
    with torch.inference_mode():
        got, expected = fast(x), plain(x)
    assert got.shape == expected.shape
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@needs_onednn
def test_numbers_that_are_not_finite_stay_so() -> None:
    fast = InferenceLinear(nn.Linear(8, 8))
    for rows in (1, 3):
        x = torch.zeros(rows, 8)
        x[0, 0] = float("nan")
        assert fast(x)[0].isnan().all()


@pytest.fixture
def base(tiny_folders) -> LoadedBase:  # type: ignore[no-untyped-def]
    return load_tiny("llama", tiny_folders["llama"])


@needs_onednn
@pytest.mark.parametrize("pays", [True, False])
def test_layers_are_replaced_only_where_that_pays(
    base: LoadedBase, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    monkeypatch.setattr(products, "SMALLEST", 1)
    monkeypatch.setattr(products, "_pays", lambda layer: pays)
    ids = torch.tensor([[5, 9, 77]])
    before = base.model(input_ids=ids).logits
    assert speed_up(base) is pays
    kinds = {type(m) for m in base.model.modules() if isinstance(m, nn.Linear)}
    assert kinds == {InferenceLinear if pays else nn.Linear}
    torch.testing.assert_close(base.model(input_ids=ids).logits, before, rtol=1e-4, atol=1e-4)


def test_small_layers_and_other_precisions_are_left_alone(base: LoadedBase) -> None:
    assert not speed_up(base)
    base.model.to(torch.bfloat16)
    assert not speed_up(base)
