from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loraland.bases.calibration import TEXTS, input_peaks
from loraland.bases.expansion import expand_for_inference
from loraland.bases.int8 import (
    Int8Linear,
    Scheme,
    even_out,
    quantise_for_inference,
    round_rows,
)
from loraland.bases.int8_products import ProductName, best_product, weight_levels
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.bases.products import InferenceLinear
from loraland.bases.tiny import load_tiny
from loraland.errors import InvalidConfiguration
from loraland.lora.bank import LoraBank
from loraland.lora.rows import Rows
from loraland.lora.weights import AdapterWeights, LoraPair

ARCHITECTURES = ["llama", "mistral", "phi", "gemma"]
PLAIN = Scheme(smoothing=None, exact_channels=0)


def linear(outputs: int, inputs: int, seed: int = 0, bias: bool = True) -> nn.Linear:
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    torch.set_rng_state(state)
    return layer


def rows_with_outliers(
    count: int, inputs: int, seed: int = 0, factor: float = 300.0
) -> torch.Tensor:
    """Ordinary rows, two channels of which are `factor` times larger, and a first massive row."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, inputs, generator=draw)
    rows[:, [1, inputs - 2]] *= factor
    rows[0] *= 50
    return rows


def relative_error(layer: nn.Module, exact: nn.Linear, rows: torch.Tensor) -> float:
    """The worst row's error over the norm of its result."""
    with torch.no_grad():
        wanted = exact(rows)
        return float(((layer(rows) - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max())


def logits(base: LoadedBase, text: str) -> torch.Tensor:
    ids = base.tokenizer(text, return_tensors="pt").input_ids
    with torch.inference_mode():
        return base.model(input_ids=ids).logits[0]


# One layer


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**16),
    count=st.integers(1, 40),
    inputs=st.integers(1, 96),
    outputs=st.integers(1, 64),
    size=st.sampled_from([1e-20, 1e-3, 1.0, 1e6, 1e30]),
)
def test_an_error_is_at_most_what_rounding_explains(
    seed: int, count: int, inputs: int, outputs: int, size: float
) -> None:
    draw = torch.Generator().manual_seed(seed)
    exact = linear(outputs, inputs, seed, bias=False)
    rows = torch.randn(count, inputs, generator=draw) * size
    layer = Int8Linear(exact)
    levels = weight_levels(best_product())
    # |x w - x' w'| <= |x - x'| |w| + |x'| |w - w'|, each difference at most half a step.
    x, w = rows.double().abs(), exact.weight.double().abs()
    half_x = x.amax(1, keepdim=True) / 127 / 2
    half_w = w.amax(1) / levels / 2
    bound = half_x * w.sum(1) + (x + half_x).sum(1, keepdim=True) * half_w
    error = (layer(rows).double() - rows.double() @ exact.weight.double().t()).abs()
    assert bool((error <= bound * 1.001 + 1e-35).all())


@pytest.mark.parametrize("product", ["fbgemm", "onednn", "plain"])
def test_products_give_the_same_layer(product: ProductName) -> None:
    try:
        weight_levels(product)
    except InvalidConfiguration as error:
        pytest.skip(error.message)
    exact, rows = linear(48, 64), rows_with_outliers(20, 64)
    peaks = rows.abs().amax(0)
    ours = Int8Linear(exact, peaks, product=product)(rows)
    plain = Int8Linear(exact, peaks, product="plain")(rows)
    wanted = exact(rows)
    # Equal integers, but a product on a CPU that saturates has fewer of them.
    exactly = weight_levels(product) == weight_levels("plain")
    assert torch.allclose(
        ours, plain, rtol=1e-4, atol=float(wanted.abs().max()) * (1e-5 if exactly else 0.02)
    )


def test_scales_per_row_save_the_small_rows_beside_a_massive_one() -> None:
    exact = linear(64, 128)
    rows = torch.randn(16, 128, generator=torch.Generator().manual_seed(1))
    rows[0] *= 10_000
    assert relative_error(Int8Linear(exact), exact, rows) < 0.03


def test_smoothing_and_exact_channels_each_save_the_ordinary_channels() -> None:
    exact, rows = linear(64, 256, bias=False), rows_with_outliers(64, 256)
    exact.weight[:, [1, 254]] *= 0.01  # as trained models do, so that the rest still counts
    peaks = rows.abs().amax(0)
    rough, smooth, kept, both = (
        relative_error(Int8Linear(exact, peaks, scheme), exact, rows)
        for scheme in (PLAIN, Scheme(0.5, 0), Scheme(None, 2), Scheme(0.5, 2))
    )
    assert rough > 0.3
    assert smooth < rough / 5
    assert kept < rough / 10
    assert both < 0.04


def test_a_row_is_the_same_whoever_shares_the_batch() -> None:
    exact, rows = linear(96, 192), rows_with_outliers(50, 192)
    layer = Int8Linear(exact, rows.abs().amax(0))
    whole = layer(rows)
    # The products in integers are equal to the bit; the few fp32 channels are added up in blocks.
    for count in (1, 3, 17):
        assert torch.allclose(layer(rows[:count]), whole[:count], rtol=1e-6, atol=1e-4)
    layer = Int8Linear(exact, rows.abs().amax(0), Scheme(exact_channels=0))
    assert torch.equal(layer(rows[:7]), layer(rows)[:7])


@pytest.mark.parametrize("scheme", [PLAIN, Scheme()])
def test_rows_of_zeros_give_the_bias(scheme: Scheme) -> None:
    exact = linear(8, 16)
    layer = Int8Linear(exact, torch.ones(16), scheme)
    assert torch.equal(layer(torch.zeros(3, 16)), exact.bias.expand(3, 8))


@pytest.mark.parametrize("scheme", [PLAIN, Scheme()])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("channel", [0, 5])  # an exact one under Scheme(), and a rounded one
def test_a_value_that_is_no_number_never_becomes_one(
    scheme: Scheme, bad: float, channel: int
) -> None:
    peaks = torch.linspace(20, 1, 16)
    layer = Int8Linear(linear(8, 16), peaks, scheme)
    rows = torch.ones(3, 16)
    rows[1, channel] = bad
    result = layer(rows)
    assert not torch.isfinite(result[1]).any()
    assert torch.isfinite(result[[0, 2]]).all()
    assert torch.equal(result[0], layer(torch.ones(1, 16))[0])


def test_no_rows_give_no_rows_and_leading_dimensions_stay() -> None:
    layer = Int8Linear(linear(8, 16))
    assert layer(torch.zeros(0, 16)).shape == (0, 8)
    assert layer(torch.zeros(2, 0, 16)).shape == (2, 0, 8)
    assert layer(torch.zeros(2, 3, 16)).shape == (2, 3, 8)
    assert layer(torch.zeros(16)).shape == (8,)


def test_the_answer_has_the_type_of_the_inputs_and_may_be_changed_in_place() -> None:
    layer = Int8Linear(linear(8, 16))
    assert layer(torch.ones(2, 16, dtype=torch.bfloat16)).dtype == torch.bfloat16
    inputs = torch.ones(2, 16)
    with torch.inference_mode():
        first = layer(inputs)
        kept = first.clone()
        first.add_(1)
        assert torch.equal(layer(inputs), kept)
    assert torch.equal(inputs, torch.ones(2, 16))


def test_a_lost_gradient_is_an_error() -> None:
    layer = Int8Linear(linear(8, 16))
    with pytest.raises(RuntimeError, match="no gradient"):
        layer(torch.ones(2, 16, requires_grad=True))
    with torch.no_grad():
        layer(torch.ones(2, 16, requires_grad=True))


@pytest.mark.parametrize("damage", ["weight", "peaks"])
def test_weights_and_peaks_that_are_not_finite_are_refused(damage: str) -> None:
    exact, peaks = linear(8, 16), torch.ones(16)
    (exact.weight if damage == "weight" else peaks).view(-1)[3] = math.nan
    with pytest.raises(InvalidConfiguration, match="NaN or infinite"):
        Int8Linear(exact, peaks)


def test_a_channel_silent_in_calibration_does_not_drown_the_others_later() -> None:
    exact, rows = linear(32, 64), rows_with_outliers(32, 64, factor=1)[1:]
    peaks = rows.abs().amax(0)
    peaks[7] = 0
    assert relative_error(Int8Linear(exact, peaks), exact, rows) < 0.06


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), inputs=st.integers(1, 40), count=st.integers(0, 50))
def test_evening_out_changes_no_product(seed: int, inputs: int, count: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, inputs, generator=draw)
    rows = torch.randn(4, inputs, generator=draw)
    peaks = torch.rand(inputs, generator=draw) * 100
    evened = even_out(weight, peaks, Scheme(0.5, count))
    assert evened.inverse_factors is not None
    result = (rows * evened.inverse_factors) @ evened.weight.t()
    if evened.exact_indices is not None and evened.exact_weight is not None:
        result += rows[:, evened.exact_indices] @ evened.exact_weight
    assert torch.allclose(result, rows @ weight.t(), rtol=1e-3, atol=1e-4)


@settings(deadline=None)
@given(seed=st.integers(0, 2**16), levels=st.sampled_from([63, 127]))
def test_rounded_rows_use_the_levels_they_have(seed: int, levels: int) -> None:
    weight = torch.randn(6, 9, generator=torch.Generator().manual_seed(seed))
    weight[2] = 0
    integers, scales = round_rows(weight, levels)
    assert integers.dtype == torch.int8
    assert integers.abs().amax(1).tolist() == [levels, levels, 0, levels, levels, levels]
    assert bool(((integers * scales[:, None] - weight).abs() <= scales[:, None] * 0.501).all())


# A whole base


def test_adapters_see_the_inputs_as_they_were(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    quantise_for_inference(base)
    path, inputs = "model.layers.0.mlp.down_proj", rows_with_outliers(9, 128)
    plain = base.model.get_submodule(path)(inputs)
    draw = torch.Generator().manual_seed(0)
    pair = LoraPair(torch.randn(4, 128, generator=draw), torch.randn(64, 4, generator=draw), 2.0)
    bank = LoraBank(base.model, slots=1, max_rank=4)
    bank.write(1, AdapterWeights.of({path: pair}))
    bank.bind(Rows.of([1] * 9, "cpu"))
    delta = base.model.get_submodule(path)(inputs) - plain
    assert torch.allclose(delta, 2 * inputs @ pair.a.t() @ pair.b.t(), rtol=1e-3, atol=0.1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_base_in_int8_chooses_the_same_tokens(
    architecture: str, tiny_folders: dict[str, Path]
) -> None:
    base = load_tiny(architecture, tiny_folders[architecture])  # type: ignore[arg-type]
    text = " ".join(TEXTS)[:400]
    before = logits(base, text)
    embedding = base.model.get_input_embeddings().weight.clone()
    report = quantise_for_inference(base)
    after = logits(base, text)
    same = before.argmax(-1) == after.argmax(-1)
    best, second = before.topk(2).values.unbind(-1)
    # Random models have many near ties; where fp32 is sure, int8 must be too.
    assert bool(same[best - second > 0.25 * before.std()].all())
    assert float(same.float().mean()) >= 0.85
    assert float((after - before).norm() / before.norm()) < 0.08
    assert not torch.equal(before, after)
    assert not any(type(module) is nn.Linear for module in base.model.modules())
    assert isinstance(base.model.lm_head, Int8Linear)
    assert torch.equal(base.model.get_input_embeddings().weight, embedding)
    assert report.layers == sum(isinstance(m, Int8Linear) for m in base.model.modules())
    assert report.kept == ()
    assert report.bytes_after < report.bytes_before / 2
    assert base.precision == "fp32"


def test_layers_named_to_be_kept_stay_as_they_are(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    report = quantise_for_inference(base, keep={"lm_head", "model.layers.1.mlp.down_proj"})
    assert type(base.model.lm_head) is nn.Linear
    assert type(base.model.model.layers[1].mlp.down_proj) is nn.Linear
    assert isinstance(base.model.model.layers[0].mlp.down_proj, Int8Linear)
    assert report.kept == ("lm_head", "model.layers.1.mlp.down_proj")


def test_an_unknown_layer_to_keep_is_refused_and_nothing_changes(
    tiny_folders: dict[str, Path],
) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    with pytest.raises(InvalidConfiguration, match=r"did you mean 'lm_head'"):
        quantise_for_inference(base, keep={"lm_haed"})
    assert not any(isinstance(module, Int8Linear) for module in base.model.modules())


def test_layers_with_another_fp32_product_are_replaced_too(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    for path, module in list(base.model.named_modules()):
        if type(module) is nn.Linear:
            base.model.set_submodule(path, InferenceLinear(module))
    assert quantise_for_inference(base).layers == 15


def test_a_base_that_is_in_int8_already_is_refused(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    quantise_for_inference(base)
    with pytest.raises(InvalidConfiguration, match="done already"):
        quantise_for_inference(base)


def test_four_bit_layers_are_refused_until_they_are_expanded(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"], "nf4")
    with pytest.raises(InvalidConfiguration, match="expand_for_inference"):
        quantise_for_inference(base)
    expand_for_inference(base)
    assert quantise_for_inference(base).layers == 15
    assert base.precision == "nf4"


def test_a_base_with_nan_weights_is_refused_and_stays_whole(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    base.model.model.layers[1].mlp.up_proj.weight.data[0, 0] = math.nan
    with pytest.raises(InvalidConfiguration, match="NaN"):
        quantise_for_inference(base)
    assert not any(isinstance(module, Int8Linear) for module in base.model.modules())


def test_two_loads_of_a_base_round_it_alike(tiny_folders: dict[str, Path]) -> None:
    found = []
    for _ in range(2):
        base = load_tiny("llama", tiny_folders["llama"])
        quantise_for_inference(base)
        found.append(logits(base, "the same twice"))
    assert torch.equal(*found)


def test_calibration_leaves_no_hooks_and_notes_every_layer(tiny_folders: dict[str, Path]) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    layers = {n: m for n, m in base.model.named_modules() if type(m) is nn.Linear}
    peaks = input_peaks(base.model, base.tokenizer, layers, ["one text", "another"])
    assert set(peaks) == set(layers)
    assert all(len(peak) == layers[name].in_features for name, peak in peaks.items())
    assert all(bool((peak > 0).any()) for peak in peaks.values())
    assert not any(module._forward_pre_hooks for module in base.model.modules())
    assert not any(peak.is_inference() for peak in peaks.values())


@pytest.mark.slow
def test_the_embedded_base_in_int8_keeps_its_tokens(
    embedded_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORALAND_CACHE", str(embedded_cache))
    base = load_base(find_base("smollm2-135m"), "fp32", "cpu")
    text = (
        "The lighthouse keeper wrote one line each evening: the wind, the swell, and the name of "
        "every ship that passed. After thirty years the notebooks filled a wall of the kitchen."
    )
    before = logits(base, text)
    quantise_for_inference(base)
    after = logits(base, text)
    assert float((before.argmax(-1) == after.argmax(-1)).float().mean()) >= 0.85
    gap = torch.nn.functional.kl_div(
        after.log_softmax(-1), before.log_softmax(-1), log_target=True, reduction="batchmean"
    )
    assert float(gap) < 0.03
