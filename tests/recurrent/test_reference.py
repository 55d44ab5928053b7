"""The equations in NumPy against complex-step derivatives, and the printed ones that fail them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from loraland.recurrent import reference_augmented as augmented
from loraland.recurrent import reference_rnn as rnn
from loraland.recurrent import reference_vanilla as vanilla
from loraland.recurrent.warping import Array, Standard, data, gate

K, D_X, D_S, D_V, WINDOW = 6, 3, 4, 2, 3
STEP = 1e-30  # of a complex step: so small that its square vanishes
EXACT = 1e-12  # relative error of a gradient

Weights = dict[str, Array]


def weights_of(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    draw = np.random.default_rng(seed)
    return {name: draw.normal(size=shape) * 0.7 for name, shape in shapes.items()}


def inputs(d_v: int, seed: int = 1) -> dict[str, Array]:
    draw = np.random.default_rng(seed)
    shapes = {"x": (K, D_X), "s0": (D_S,), "v0": (d_v,)}
    return {name: draw.normal(size=shape) for name, shape in shapes.items()}


def complex_step(objective: Callable[[Weights], Any], at: Weights) -> Weights:
    """dE by every number, exact to rounding."""
    found = {}
    for name, value in at.items():
        gradient = np.zeros_like(value)
        for place in np.ndindex(*value.shape):
            moved = value.astype(complex)
            moved[place] += 1j * STEP
            gradient[place] = np.imag(objective(at | {name: moved})) / STEP
        found[name] = gradient
    return found


def errors(ours: Weights, truth: Weights) -> dict[str, float]:
    """The largest difference of each gradient, over its largest number."""
    return {
        name: float(np.abs(ours[name] - one).max() / max(np.abs(one).max(), 1e-300))
        for name, one in truth.items()
    }


def of_vanilla(printed: bool = False) -> dict[str, float]:
    draw = np.random.default_rng(5)
    by_v, by_s = draw.normal(size=(K, D_S)), draw.normal(size=D_S)
    w, given = weights_of(vanilla.entities(D_X, D_S)), inputs(D_S)

    def objective(at: Weights) -> Any:
        trace = vanilla.forward(at, at["x"], at["s0"], at["v0"])
        return (by_v * trace.v[1:]).sum() + (by_s * trace.s[-1]).sum()

    trace = vanilla.forward(w, given["x"], given["s0"], given["v0"])
    flow = vanilla.backward(w, trace, by_v, by_s, printed=printed)
    return errors(flow.gradients, complex_step(objective, w | given))


def of_augmented(printed: Any = None, window: int = WINDOW) -> dict[str, float]:
    draw = np.random.default_rng(6)
    by_v, by_s = draw.normal(size=(K, D_V)), draw.normal(size=D_S)
    w, given = weights_of(augmented.entities(D_X, D_S, D_V, window)), inputs(D_V)

    def objective(at: Weights) -> Any:
        trace = augmented.forward(at, at["x"], at["s0"], at["v0"])
        return (by_v * trace.v[1:]).sum() + (by_s * trace.s[-1]).sum()

    trace = augmented.forward(w, given["x"], given["s0"], given["v0"])
    flow = augmented.backward(w, trace, by_v, by_s, printed=printed)
    return errors(flow.gradients, complex_step(objective, w | given))


def of_rnn(canonical: bool, printed: bool = False) -> dict[str, float]:
    shapes = {"W_x": (D_S, D_X), "W_r": (D_S, D_S), "theta_s": (D_S,)}
    w = weights_of(shapes | ({"W_s": (D_S, D_S)} if canonical else {}))
    by_r = np.random.default_rng(7).normal(size=(K, D_S))
    given = {name: one for name, one in inputs(D_S).items() if name != "v0"}
    trace = rnn.forward(w, given["x"], given["s0"])
    truth = complex_step(
        lambda at: (by_r * rnn.forward(at, at["x"], at["s0"]).r[1:]).sum(), w | given
    )
    return errors(rnn.backward(w, trace, by_r, printed=printed), truth)


def test_every_gradient_of_the_vanilla_lstm_is_exact() -> None:
    found = of_vanilla()
    assert len(found) == 15 + 3 and max(found.values()) < EXACT


@pytest.mark.parametrize("window", [1, WINDOW, K + 2])
def test_every_gradient_of_the_augmented_lstm_is_exact(window: int) -> None:
    found = of_augmented(window=window)
    assert len(found) == 20 + 3 and max(found.values()) < EXACT


@pytest.mark.parametrize("canonical", [False, True])
def test_every_gradient_of_the_rnn_is_exact(canonical: bool) -> None:
    found = of_rnn(canonical)
    assert max(found.values()) < EXACT


def test_equation_150_as_printed_is_wrong() -> None:
    found = of_vanilla(printed=True)
    assert found["W_xcu"] > 0.01 and found["x"] > 0.01


def test_equation_222_as_printed_is_wrong() -> None:
    found = of_augmented("E1")
    assert found["W_xcu"] > 0.01 and found["x"] > 0.01


def test_equation_246_as_printed_is_wrong_for_the_filter_of_the_update_alone() -> None:
    found = of_augmented("E3")
    assert found.pop("W_xdu") > 0.1
    assert found.pop("x") > 0.01  # it passes through the same filter
    assert max(found.values()) < EXACT


@pytest.mark.parametrize("canonical", [False, True])
def test_equation_82_as_printed_is_wrong(canonical: bool) -> None:
    assert of_rnn(canonical, printed=True)["W_x"] > 0.01


def test_central_differences_agree_too() -> None:
    w, given = weights_of(vanilla.entities(D_X, D_S)), inputs(D_S)
    trace = vanilla.forward(w, given["x"])
    ours = vanilla.backward(w, trace, np.ones((K, D_S))).gradients["W_scr"]
    step = 1e-5
    for place in np.ndindex(*ours.shape):
        up, down = w["W_scr"].copy(), w["W_scr"].copy()
        up[place] += step
        down[place] -= step
        high = vanilla.forward(w | {"W_scr": up}, given["x"]).v[1:].sum()
        low = vanilla.forward(w | {"W_scr": down}, given["x"]).v[1:].sum()
        assert (high - low) / (2 * step) == pytest.approx(ours[place], abs=1e-9)


def test_the_entities_are_as_many_as_the_formulas_say() -> None:
    of_vanilla_cell, of_augmented_cell = vanilla.entities(3, 4), augmented.entities(3, 4, 2, 3)
    assert (len(of_vanilla_cell), vanilla.count(3, 4)) == (15, 176)
    assert (len(of_augmented_cell), augmented.count(3, 4, 2, 3)) == (20, 312)
    assert sum(np.prod(one) for one in of_vanilla_cell.values()) == 176
    assert sum(np.prod(one) for one in of_augmented_cell.values()) == 312


def test_an_augmented_cell_with_its_extensions_neutral_is_the_vanilla_cell() -> None:
    plain, given = weights_of(vanilla.entities(D_X, D_S)), inputs(D_S)
    w = {name: one[None] if name.startswith("W_x") else one for name, one in plain.items()}
    w |= {"W_xcx": np.zeros((1, D_S, D_X)), "W_scx": np.zeros((D_S, D_S)), "W_qdr": np.eye(D_S)}
    w |= {"W_vcx": np.zeros((D_S, D_S)), "b_cx": np.full(D_S, 40.0)}
    ours = augmented.forward(w, given["x"], given["s0"], given["v0"])
    theirs = vanilla.forward(plain, given["x"], given["s0"], given["v0"])
    np.testing.assert_allclose(ours.v, theirs.v, rtol=0, atol=1e-15)
    by_v = np.random.default_rng(3).normal(size=(K, D_S))
    first = augmented.backward(w, ours, by_v).gradients
    second = vanilla.backward(plain, theirs, by_v).gradients
    for name, one in second.items():
        np.testing.assert_allclose(first[name].reshape(one.shape), one, rtol=1e-13, atol=1e-13)


def test_the_constant_error_carousel_holds_over_a_thousand_steps() -> None:
    w = weights_of(vanilla.entities(D_X, D_S))
    for name in w:
        if not name.startswith("b_"):
            w[name] = np.zeros_like(w[name])
    w |= {"b_cs": np.full(D_S, 40.0), "b_cu": np.full(D_S, -40.0), "b_cr": np.full(D_S, -40.0)}
    draw = np.random.default_rng(2)
    trace = vanilla.forward(w, draw.normal(size=(1000, D_X)), draw.normal(size=D_S))
    injected = draw.normal(size=D_S)
    flow = vanilla.backward(w, trace, np.zeros((1000, D_S)), injected)
    np.testing.assert_allclose(trace.s, np.broadcast_to(trace.s[0], trace.s.shape), atol=1e-12)
    np.testing.assert_allclose(flow.psi, np.broadcast_to(injected, flow.psi.shape), rtol=1e-12)


def test_clipping_bounds_every_alpha_and_none_leaves_gradients_exact() -> None:
    w, given = weights_of(vanilla.entities(D_X, D_S)), inputs(D_S)
    trace = vanilla.forward(w, given["x"])
    loud = np.full((K, D_S), 1e6)
    bounded = vanilla.backward(w, trace, loud, clip=1.0).gradients["b_cu"]
    assert (
        np.abs(bounded).max()
        <= K
        < np.abs(vanilla.backward(w, trace, loud).gradients["b_cu"]).max()
    )


def test_a_window_sees_the_present_and_the_future_and_zeros_past_the_end() -> None:
    filters = np.random.default_rng(0).normal(size=(3, D_S, D_X))
    x = np.random.default_rng(1).normal(size=(K, D_X))
    xi = augmented.convolve(filters, x)
    np.testing.assert_allclose(xi[-1], filters[0] @ x[-1])
    np.testing.assert_allclose(xi[-2], filters[0] @ x[-2] + filters[1] @ x[-1])
    np.testing.assert_allclose(augmented.convolve(filters, x[1:])[:-2], xi[1:-2])
    changed = x.copy()
    changed[3] += 1.0  # x[n + L] of step 0
    np.testing.assert_array_equal(augmented.convolve(filters, changed)[0], xi[0])
    assert np.abs(augmented.convolve(filters, changed)[1] - xi[1]).max() > 0.1


def test_a_window_of_one_is_a_matrix_product() -> None:
    filters, x = np.random.default_rng(0).normal(size=(1, D_S, D_X)), np.ones((K, D_X))
    np.testing.assert_allclose(augmented.convolve(filters, x), x @ filters[0].T)


def test_the_canonical_rnn_keeps_to_equations_25_to_29() -> None:
    draw = np.random.default_rng(4)
    delay = rnn.Delay(
        -2 * np.eye(2), draw.normal(size=(2, 2)), draw.normal(size=(2, 3)), np.ones(2)
    )
    w, step = delay.discretised(0.1), 0.1
    whole = np.eye(2) - step * delay.a
    np.testing.assert_allclose(whole @ w["W_s"], np.eye(2), atol=1e-14)
    np.testing.assert_allclose(whole @ w["W_r"], step * delay.b, atol=1e-14)
    np.testing.assert_allclose(whole @ w["W_x"], step * delay.c, atol=1e-14)
    np.testing.assert_allclose(whole @ w["theta_s"], step * delay.phi, atol=1e-14)


def test_the_canonical_rnn_converges_to_the_differential_equation_at_first_order() -> None:
    draw = np.random.default_rng(8)
    delay = rnn.Delay(-1.5 * np.eye(2), draw.normal(size=(2, 2)), np.eye(2), np.zeros(2))

    def slope(t: float, s: Array) -> Array:  # the delay is the step, which goes to 0
        drive = np.array([np.sin(t), np.cos(t)])
        return np.asarray(delay.a @ s + delay.b @ np.tanh(s) + drive)

    truth = solve_ivp(slope, (0, 2), np.zeros(2), rtol=1e-11, atol=1e-12).y[:, -1]
    missed = []
    for steps in (200, 400, 800):
        times = np.arange(1, steps + 1) * 2 / steps
        x = np.stack([np.sin(times), np.cos(times)], 1)
        s = rnn.forward(delay.discretised(2 / steps), x).s[-1]
        missed.append(np.abs(s - truth).max())
    ratios = [missed[0] / missed[1], missed[1] / missed[2]]
    assert missed[0] < 0.05 and all(1.9 < ratio < 2.1 for ratio in ratios)


def test_a_step_that_makes_the_matrix_singular_is_refused() -> None:
    delay = rnn.Delay(np.eye(1), np.eye(1), np.eye(1), np.zeros(1))
    with pytest.raises(ValueError, match="no inverse"):
        delay.discretised(1.0)


@pytest.mark.parametrize("steps", [0, 1])
def test_sequences_of_no_step_and_of_one_step_have_gradients(steps: int) -> None:
    w = weights_of(augmented.entities(D_X, D_S, D_V, WINDOW))
    flow = augmented.backward(
        w, augmented.forward(w, np.ones((steps, D_X))), np.ones((steps, D_V)), np.ones(D_S)
    )
    assert (np.abs(flow.gradients["W_qdr"]).sum() > 0) == bool(steps)
    assert flow.psi.shape == (steps, D_S)


def test_the_warping_functions_are_two_forms_of_one() -> None:
    z = np.linspace(-5, 5, 11)
    np.testing.assert_allclose(gate(z), 1 / (1 + np.exp(-z)), rtol=1e-14)
    np.testing.assert_allclose(data(z), 2 * gate(2 * z) - 1, rtol=1e-12, atol=1e-15)


def test_standardising_takes_the_statistics_of_train_rows() -> None:
    train = np.random.default_rng(0).normal(3, 2, size=(50, 4, 2))
    train[..., 1] = 7.0  # a feature that never changes
    found = Standard.of(train).apply(train)
    assert found[..., 0].mean() == pytest.approx(0, abs=1e-12)
    assert found[..., 0].std(ddof=1) == pytest.approx(1)
    assert np.abs(found[..., 1]).max() == 0
    with pytest.raises(ValueError, match="two"):
        Standard.of(np.ones((1, 2)))
