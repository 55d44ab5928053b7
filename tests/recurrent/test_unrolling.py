"""Segments, carried states, streams and the flow of gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given as for_all
from hypothesis import strategies as st
from torch import Tensor

from loraland.errors import InvalidConfiguration, InvalidRequest
from loraland.recurrent import reference_vanilla
from loraland.recurrent.figures import carousel, flow_figure
from loraland.recurrent.flow import flow_of, jacobian
from loraland.recurrent.modules import AugmentedLSTM, Lstm, Rnn, VanillaLSTM
from loraland.recurrent.streaming import Stream
from loraland.recurrent.truncated import carried, independent, truncated_loss
from loraland.recurrent.unrolling import dependence, segments, segments_at


@for_all(st.integers(1, 200), st.integers(1, 50))
def test_segments_cover_all_steps_once(steps: int, length: int) -> None:
    cut = segments(steps, length)
    assert [n for one in cut for n in range(one.start, one.end)] == list(range(steps))
    assert all(one.steps == length for one in cut[:-1]) and 1 <= cut[-1].steps <= length


def test_boundaries_that_do_not_rise_are_refused() -> None:
    assert [one.steps for one in segments_at(10, [3, 7])] == [3, 4, 3]
    for wrong in ([0], [10], [7, 3], [3, 3]):
        with pytest.raises(InvalidConfiguration, match="do not cut"):
            segments_at(10, wrong)
    with pytest.raises(InvalidConfiguration, match="at least 1"):
        segments(0, 3)


@pytest.mark.parametrize("how", [{}, {"window": 3, "input_gate": True}], ids=str)
def test_independent_segments_are_the_same_in_a_batch_in_any_order_and_one_by_one(
    how: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    net = Lstm(2, 4, **how).double()
    x, cut = torch.randn(20, 2, dtype=torch.float64), segments_at(20, [5, 8, 14])

    def total(parts: list[Tensor]) -> list[Tensor]:
        loss = sum((one.sum() ** 2 for one in parts), torch.zeros(()))
        return [*torch.autograd.grad(loss, list(net.parameters()), retain_graph=True)]

    together = independent(net, x, cut)
    turned = independent(net, x, cut[::-1])[::-1]
    one_by_one = [net(x[one.start : one.end].unsqueeze(1))[0][:, 0] for one in cut]
    for other in (turned, one_by_one):
        for first, second in zip(together, other, strict=True):
            torch.testing.assert_close(first, second, rtol=0, atol=1e-14)
        for first, second in zip(total(together), total(other), strict=True):
            torch.testing.assert_close(first, second, rtol=1e-11, atol=1e-12)


def test_a_carried_state_gives_the_values_of_the_whole_sequence() -> None:
    torch.manual_seed(0)
    net, x = VanillaLSTM(2, 4, 2).double(), torch.randn(11, 3, 2, dtype=torch.float64)
    parts = list(carried(net, x, segments(11, 4)))
    torch.testing.assert_close(
        torch.cat([one.values for one in parts]), net(x)[0], rtol=0, atol=1e-14
    )
    assert not parts[0].state[0].requires_grad


def test_truncation_drops_the_paths_over_boundaries_and_nothing_else() -> None:
    torch.manual_seed(0)
    net, x = VanillaLSTM(2, 4).double(), torch.randn(9, 3, 2, dtype=torch.float64)
    total, _ = truncated_loss(net, x, segments(9, 3), lambda values, _: values.sum())
    truncated = [one.grad.clone() for one in net.parameters() if one.grad is not None]
    state, parts = None, []
    for n in range(0, 9, 3):
        values, state = net(x[n : n + 3], state)
        state = (state[0].detach(), state[1].detach())
        parts.append(values.sum())
    theirs = torch.autograd.grad(sum(parts, torch.zeros(())), list(net.parameters()))
    for first, second in zip(truncated, theirs, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-13)
    whole = torch.autograd.grad(net(x)[0].sum(), list(net.parameters()))
    assert not torch.allclose(truncated[3], whole[3])
    assert total == pytest.approx(net(x)[0].sum().item())


def test_a_net_that_reads_from_the_end_cannot_be_carried_or_streamed() -> None:
    net = VanillaLSTM(2, 4, bidirectional=True)
    with pytest.raises(InvalidConfiguration, match="bidirectional"):
        list(carried(net, torch.zeros(4, 1, 2), segments(4, 2)))
    with pytest.raises(InvalidConfiguration, match="bidirectional"):
        Stream(net)


def test_neighbours_that_correlate_are_called_dependent_and_others_are_not() -> None:
    random = np.random.default_rng(0)
    walk, cut = random.normal(size=(400, 2)).cumsum(axis=0), segments(400, 10)
    assert not dependence(walk, cut).independent
    assert dependence(random.normal(size=(400, 2)), cut).independent
    assert dependence(np.ones((400, 1)), cut).independent
    with pytest.raises(InvalidConfiguration, match="too few"):
        dependence(walk, cut[:5])


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("steps", [3, 7])
def test_a_stream_gives_the_values_of_the_whole_sequence_late(layers: int, steps: int) -> None:
    torch.manual_seed(0)
    net = AugmentedLSTM(2, 4, 3, 3, layers).double().eval()
    x = torch.randn(steps, 2, 2, dtype=torch.float64)
    stream = Stream(net, rows=2)
    assert stream.latency == 2 * layers
    given = [stream.step(one) for one in x]
    assert [one is None for one in given] == [n < stream.latency for n in range(steps)]
    values = [one for one in given if one is not None] + stream.finish()
    torch.testing.assert_close(torch.stack(values), net(x)[0].detach(), rtol=0, atol=1e-14)
    with pytest.raises(InvalidRequest, match="was finished"):
        stream.step(x[0])


def test_without_a_window_a_stream_is_not_late() -> None:
    net = VanillaLSTM(2, 4)
    stream = Stream(net)
    assert stream.latency == 0 and stream.step(torch.zeros(1, 2)) is not None
    assert stream.finish() == []
    with pytest.raises(InvalidRequest, match=r"expected \(1, 2\)"):
        Stream(net).step(torch.zeros(2))
    with pytest.raises(InvalidRequest, match="finite"):
        Stream(net).step(torch.full((1, 2), float("nan")))


def test_the_jacobian_is_the_way_of_psi_when_nothing_passes_by_the_readout_gate() -> None:
    draw = np.random.default_rng(0)
    w = {name: draw.normal(size=shape) * 0.5 for name, shape in
         reference_vanilla.entities(3, 4).items()}  # fmt: skip
    w["W_vcr"] = np.zeros((4, 4))  # the path that the paper's Jacobian leaves out (E6)
    trace = reference_vanilla.forward(w, draw.normal(size=(6, 3)))
    by_v = np.zeros((6, 4))
    by_v[-1] = draw.normal(size=4)
    psi = reference_vanilla.backward(w, trace, by_v).psi
    for k in range(1, 6):
        q, carried_on = jacobian(w, trace, k)
        np.testing.assert_allclose((q + carried_on) @ psi[k], psi[k - 1], rtol=1e-11, atol=1e-13)


def test_the_carousel_keeps_the_error_and_an_rnn_of_small_norm_loses_it() -> None:
    x = np.random.default_rng(0).normal(size=(60, 2))
    kept = flow_of(carousel(), x)
    np.testing.assert_allclose(kept.psi, kept.psi[-1], rtol=1e-12)
    np.testing.assert_allclose(kept.carousel, 1, rtol=1e-12)
    torch.manual_seed(0)
    rnn = Rnn(2, 8)
    with torch.no_grad():
        rnn.weights().r.mul_(0.5)
    assert flow_of(rnn, x).psi[0] < 1e-15


def test_the_flow_of_a_cell_is_the_same_with_extensions_that_change_nothing() -> None:
    torch.manual_seed(0)
    x = np.random.default_rng(0).normal(size=(6, 2))
    plain, extended = VanillaLSTM(2, 4).double(), Lstm(2, 4, projection=4, window=2).double()
    with torch.no_grad():
        w, other = plain.weights(), extended.weights()
        other.x[0], other.x[1] = w.x[0], 0.0
        for first, second in zip(other[1:5], w[1:5], strict=True):
            first.copy_(second)  # type: ignore[union-attr, arg-type]
        assert other.q is not None
        other.q.copy_(torch.eye(4))
    for first, second in zip(flow_of(plain, x), flow_of(extended, x), strict=True):
        np.testing.assert_allclose(first, second, rtol=1e-12)


def test_a_flow_without_steps_is_refused_and_the_figure_has_every_net() -> None:
    with pytest.raises(InvalidConfiguration, match="at least one step"):
        flow_of(VanillaLSTM(2, 3), np.zeros((0, 2)))
    figure = flow_figure()
    assert figure.count("<polyline") == 16 and "carousel" in figure and "NaN" not in figure
