"""The fast cells against NumPy, autograd and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from loraland.errors import InvalidConfiguration
from loraland.recurrent import reference_augmented, reference_rnn, reference_vanilla
from loraland.recurrent.beginnings import count
from loraland.recurrent.convert import from_torch, to_torch
from loraland.recurrent.modules import AugmentedLSTM, Lstm, Rnn, VanillaLSTM
from loraland.recurrent.plain import plain_lstm
from loraland.recurrent.products import product
from loraland.recurrent.scan import Plan, lstm
from loraland.recurrent.scan_rnn import plain_rnn, rnn

STEPS, ROWS, D_X, D_S = 7, 4, 3, 5
LENGTHS = [(7, 7, 7, 7), (7, 4, 2, 1)]
SHAPES: list[dict[str, Any]] = [
    {},
    {"window": 3},
    {"input_gate": True},
    {"projection": 2},
    {"window": 2, "input_gate": True, "projection": 5},
    {"window": 3, "input_gate": True, "projection": 2},
]


def cell(**how: Any) -> Lstm:
    torch.manual_seed(0)
    made = Lstm(D_X, D_S, **how).double()
    with torch.no_grad():
        for one in made.parameters():
            one.normal_(0, 0.7)
    return made


def given(sizes: tuple[int, int], lengths: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(1)
    x = torch.randn(STEPS, ROWS, D_X, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x[length:, row] = 0
    starts = [torch.randn(ROWS, size, dtype=torch.float64) for size in reversed(sizes)]
    return [one.requires_grad_() for one in (x, *starts)]


def gradients(function: Any, inputs: list[Tensor], weights: Any, plan: Plan) -> list[Tensor]:
    outputs = function(*inputs, weights, plan)
    torch.manual_seed(2)
    loss = sum((torch.randn_like(one) * one).sum() for one in outputs)
    learned = [one for one in weights if one is not None]
    return [*outputs, *torch.autograd.grad(loss, [*inputs, *learned], materialize_grads=True)]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("how", SHAPES, ids=str)
def test_the_way_back_is_that_of_autograd(how: dict[str, Any], lengths: tuple[int, ...]) -> None:
    made, plan = cell(**how), Plan.of_lengths(lengths)
    inputs = given(made.sizes, lengths)
    ours = gradients(lstm, inputs, made.weights(), plan)
    theirs = gradients(plain_lstm, inputs, made.weights(), plan)
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("canonical", [False, True])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_the_way_back_of_the_rnn_is_that_of_autograd(
    canonical: bool, lengths: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    made, plan = Rnn(D_X, D_S, canonical=canonical).double(), Plan.of_lengths(lengths)
    inputs = given(made.sizes, lengths)
    ours = gradients(rnn, inputs, made.weights(), plan)
    theirs = gradients(plain_rnn, inputs, made.weights(), plan)
    for first, second in zip(ours, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-13)


def numpy_weights(made: Lstm) -> dict[str, Any]:
    return {name: one.detach().numpy() for name, one in made.entities().items()}


@pytest.mark.parametrize("window", [1, 3])
def test_the_augmented_cell_is_the_reference(window: int) -> None:
    made = cell(window=window, input_gate=True, projection=2)
    x, s0, v0 = given(made.sizes, LENGTHS[0])
    values, s, _ = lstm(x, s0, v0, made.weights(), Plan.of_lengths(LENGTHS[0]))
    (values.sum() + s.sum()).backward()
    w = numpy_weights(made)
    total: dict[str, Any] = {}
    for row in range(ROWS):
        start = [one[row].detach().numpy() for one in (s0, v0)]
        trace = reference_augmented.forward(w, x[:, row].detach().numpy(), *start)
        np.testing.assert_allclose(values[:, row].detach().numpy(), trace.v[1:], atol=1e-14)
        by_v = np.ones((STEPS, 2))
        found = reference_augmented.backward(w, trace, by_v, np.ones(D_S)).gradients
        for name, one in found.items():
            total[name] = total.get(name, 0) + one
    of_x = made.weight_x_l0.grad  # type: ignore[union-attr]
    assert isinstance(of_x, Tensor)
    for n, node in enumerate(made.nodes()):
        rows = slice(n * D_S, (n + 1) * D_S)
        np.testing.assert_allclose(of_x[:, rows].numpy(), total[f"W_x{node}"], rtol=1e-11)
    np.testing.assert_allclose(made.weight_q_l0.grad.numpy(), total["W_qdr"], rtol=1e-11)  # type: ignore[union-attr]
    np.testing.assert_allclose(made.weight_s_cr_l0.grad.numpy(), total["W_scr"], rtol=1e-11)  # type: ignore[union-attr]


def test_the_vanilla_cell_is_the_reference_also_when_clipped() -> None:
    made = cell(clip=0.05)
    x, s0, v0 = given(made.sizes, LENGTHS[0])
    values, _, _ = lstm(x, s0, v0, made.weights(), Plan.of_lengths(LENGTHS[0], 0.05))
    values.sum().backward()
    w, total = numpy_weights(made), 0.0
    for row in range(ROWS):
        start = [one[row].detach().numpy() for one in (s0, v0)]
        trace = reference_vanilla.forward(w, x[:, row].detach().numpy(), *start)
        by_v = np.ones((STEPS, D_S))
        total = total + reference_vanilla.backward(w, trace, by_v, clip=0.05).gradients["W_xdu"]
    ours = made.weight_x_l0.grad[0, 2 * D_S : 3 * D_S]  # type: ignore[union-attr, index]
    np.testing.assert_allclose(ours.numpy(), total, rtol=1e-11)


@pytest.mark.parametrize("canonical", [False, True])
def test_the_rnn_is_the_reference(canonical: bool) -> None:
    made = Rnn(D_X, D_S, canonical=canonical).double()
    x = torch.randn(STEPS, 1, D_X, dtype=torch.float64)
    w = made.weights()
    named = {"W_x": w.x[0], "W_r": w.r, "theta_s": w.theta} | ({"W_s": w.s} if canonical else {})
    plain = {name: one.detach().numpy() for name, one in named.items() if one is not None}
    theirs = reference_rnn.forward(plain, x[:, 0].numpy()).r[1:]
    np.testing.assert_allclose(made(x)[0][:, 0].detach().numpy(), theirs, atol=1e-15)


@pytest.mark.parametrize("projection", [0, 3])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_without_peepholes_it_is_torch_s_lstm(projection: int, bidirectional: bool) -> None:
    torch.manual_seed(3)
    theirs = nn.LSTM(
        D_X, D_S, 2, bidirectional=bidirectional, proj_size=projection, batch_first=True
    ).double()
    ours = from_torch(theirs)
    x = torch.randn(ROWS, STEPS, D_X, dtype=torch.float64)
    h0 = torch.randn(theirs.num_layers * ours.directions, ROWS, ours.sizes[0], dtype=torch.float64)
    c0 = torch.randn(theirs.num_layers * ours.directions, ROWS, D_S, dtype=torch.float64)
    (first, (h, c)), (second, (v, s)) = theirs(x, (h0, c0)), ours(x, (h0, c0))
    for one, other in ((first, second), (h, v), (c, s)):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-15)
    torch.testing.assert_close(to_torch(ours)(x, (h0, c0))[0], first, rtol=0, atol=1e-15)
    packed = pack_padded_sequence(x, torch.tensor([2, 7, 1, 4]), True, enforce_sorted=False)
    (first, (h, c)), (second, (v, s)) = theirs(packed), ours(packed)
    torch.testing.assert_close(first.data, second.data, rtol=0, atol=1e-15)
    torch.testing.assert_close(h, v, rtol=0, atol=1e-15)
    padded, (again, _) = ours(x, lengths=[2, 7, 1, 4])
    torch.testing.assert_close(pad_packed_sequence(second, True)[0], padded, rtol=0, atol=0)
    torch.testing.assert_close(again, v, rtol=0, atol=0)


def test_what_torch_has_not_cannot_become_torch_s() -> None:
    for how in ({"window": 2}, {"input_gate": True}, {}, {"projection": D_S}):
        with pytest.raises(InvalidConfiguration):
            to_torch(Lstm(D_X, D_S, **how))  # type: ignore[arg-type]  # without extensions: peepholes


def test_parameters_are_counted_as_the_formulas_say() -> None:
    assert count(VanillaLSTM(3, 4)) == reference_vanilla.count(3, 4) == 176
    assert count(AugmentedLSTM(3, 4, 2, 3)) == reference_augmented.count(3, 4, 2, 3) == 312
    assert (
        len(VanillaLSTM(3, 4).entities()) == 15 and len(AugmentedLSTM(3, 4, 2, 3).entities()) == 20
    )
    assert VanillaLSTM(3, 4).entities()["W_xcu"].shape == (4, 3)


def test_the_last_steps_of_a_window_see_zeros_in_every_row_of_a_padded_batch() -> None:
    made = cell(window=3)
    x = torch.randn(STEPS, 2, D_X, dtype=torch.float64)
    together, _ = made(x, lengths=[7, 4])
    alone, _ = made(torch.cat([x[:4, 1:], torch.zeros(3, 1, D_X, dtype=torch.float64)]))
    torch.testing.assert_close(together[:4, 1], alone[:4, 0], rtol=0, atol=1e-15)
    assert together[4:, 1].abs().max() == 0


def test_what_lies_in_the_padding_changes_nothing_not_even_a_nan() -> None:
    made = cell(window=2, bidirectional=True)
    x = torch.randn(STEPS, 2, D_X, dtype=torch.float64)
    clean, _ = made(x, lengths=[3, 5])
    x[3:, 0], x[5:, 1] = float("nan"), 1e9
    dirty, _ = made(x, lengths=[3, 5])
    torch.testing.assert_close(clean, dirty, rtol=0, atol=0)
    assert clean.shape[0] == STEPS


def test_one_sequence_needs_no_batch() -> None:
    made = cell(num_layers=2)
    x = torch.randn(STEPS, D_X, dtype=torch.float64)
    alone, (v, s) = made(x)
    batch, (first, _) = made(x.unsqueeze(1))
    torch.testing.assert_close(alone, batch[:, 0], rtol=0, atol=0)
    assert v.shape == s.shape == (2, D_S) and torch.equal(first[:, 0], v)
    torch.testing.assert_close(made(x[3:], made(x[:3])[1])[0], alone[3:], rtol=0, atol=1e-15)


def test_a_second_way_back_is_refused() -> None:
    made = cell()
    x = torch.randn(2, 1, D_X, dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad((made(x)[0] ** 2).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


def test_dropout_lies_between_layers_and_only_in_training() -> None:
    made = cell(num_layers=2, dropout=0.5)
    x = torch.randn(STEPS, ROWS, D_X, dtype=torch.float64)
    assert not torch.equal(made(x)[0], made(x)[0])
    made.eval()
    assert torch.equal(made(x)[0], made(x)[0])


def test_the_fast_products_are_products() -> None:
    matrix, x = torch.randn(512, 512), torch.randn(32, 1024)
    for one in (matrix, matrix.double()):
        part = x[:, 512:].to(one.dtype)  # a view with another stride, as in the scan
        target = torch.ones(32, 512, dtype=one.dtype)
        torch.testing.assert_close(
            product(one, 32).add(target.clone(), part), target + part @ one, rtol=1e-4, atol=1e-3
        )


def test_single_precision_at_a_real_width_agrees_with_double() -> None:
    torch.manual_seed(0)
    made = Lstm(64, 512)
    x = torch.randn(5, 8, 64)
    single, _ = made(x)
    single.sum().backward()
    by_single = made.weight_v_l0.grad.clone()  # type: ignore[operator, union-attr]
    made.zero_grad()
    made.double()
    double, _ = made(x.double())
    double.sum().backward()
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(by_single.double(), made.weight_v_l0.grad, rtol=1e-3, atol=1e-4)
