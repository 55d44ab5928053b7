"""The Augmented LSTM in NumPy, equation by equation: the oracle of the fast cell.

The Vanilla cell with a window of L inputs, the present and L - 1 future ones; with a projection of
the gated readout; and with a gate on the external input of the update. Past the end of a sequence
the window sees zeros. Numbers are those of arXiv 1808.03314v9; a star marks one corrected here.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from loraland.recurrent.warping import Array, data, data_slope, gate, gate_slope

Weights = dict[str, Array]  # 20 entities; W_x* are filters (L, d_s, d_x)
NODES = ("cx", "cu", "cs", "du", "cr")
SEEING_OLD_STATE = ("cx", "cu", "cs")


def count(d_x: int, d_s: int, d_v: int, window: int) -> int:
    """How many numbers the entities hold."""
    return 5 * window * d_s * d_x + 4 * d_s**2 + 6 * d_s * d_v + 5 * d_s


def entities(d_x: int, d_s: int, d_v: int, window: int) -> dict[str, tuple[int, ...]]:
    """The shape of every entity."""
    found: dict[str, tuple[int, ...]] = {"W_qdr": (d_v, d_s)}
    for node in NODES:
        found |= {f"W_x{node}": (window, d_s, d_x), f"W_v{node}": (d_s, d_v), f"b_{node}": (d_s,)}
        if node != "du":
            found[f"W_s{node}"] = (d_s, d_s)
    return found


def convolve(filters: Array, x: Array) -> Array:
    """xi[n] = sum over l of W[l] x[n+l], (K, d_s); x[n] = 0 for n >= K. Equations 187, 188."""
    steps = len(x)
    xi = np.zeros((steps, filters.shape[1]), np.result_type(filters, x))
    for late in range(min(len(filters), steps)):
        xi[: steps - late] += x[late:] @ filters[late].T
    return xi


class Trace(NamedTuple):
    """What a pass leaves for the way back; s and v have the initial state first."""

    x: Array  # (K, d_x)
    s: Array  # (K + 1, d_s)
    v: Array  # (K + 1, d_v)
    xi_du: Array  # (K, d_s)
    gates: dict[str, Array]  # cx, cu, cs, cr: (K, d_s)
    u: Array  # (K, d_s)
    r: Array  # (K, d_s)


def forward(w: Weights, x: Array, s0: Array | None = None, v0: Array | None = None) -> Trace:
    """One sequence (K, d_x) from s[-1] = `s0` (d_s) and v[-1] = `v0` (d_v), or 0."""
    starts = [one for one in (s0, v0) if one is not None]
    kind, steps = np.result_type(x, *w.values(), *starts), len(x)
    d_v, d_s = w["W_qdr"].shape
    s, v = np.zeros((steps + 1, d_s), kind), np.zeros((steps + 1, d_v), kind)
    u, r = np.zeros((steps, d_s), kind), np.zeros((steps, d_s), kind)
    g = {node: np.zeros((steps, d_s), kind) for node in NODES if node != "du"}
    s[0], v[0] = 0 if s0 is None else s0, 0 if v0 is None else v0
    xi = {node: convolve(w[f"W_x{node}"], x) for node in NODES}
    for n in range(steps):  # 196 to 214
        for k in SEEING_OLD_STATE:
            a = xi[k][n] + w[f"W_s{k}"] @ s[n] + w[f"W_v{k}"] @ v[n] + w[f"b_{k}"]
            g[k][n] = gate(a)
        a_du = g["cx"][n] * xi["du"][n] + w["W_vdu"] @ v[n] + w["b_du"]
        u[n] = data(a_du)
        s[n + 1] = g["cs"][n] * s[n] + g["cu"][n] * u[n]
        a_cr = xi["cr"][n] + w["W_scr"] @ s[n + 1] + w["W_vcr"] @ v[n] + w["b_cr"]
        g["cr"][n], r[n] = gate(a_cr), data(s[n + 1])
        v[n + 1] = w["W_qdr"] @ (g["cr"][n] * r[n])  # q, then its projection
    return Trace(x, s, v, xi["du"], g, u, r)


class Flow(NamedTuple):
    """The total partial derivatives of every step, and the gradients that they sum to."""

    chi: Array  # (K, d_v), dE/dv
    psi: Array  # (K, d_s), dE/ds
    gradients: Weights  # by entity, and x, s0, v0


def backward(
    w: Weights,
    trace: Trace,
    d_v: Array,
    d_s: Array | None = None,
    printed: Literal["E1", "E3"] | None = None,
) -> Flow:
    """The way back for (dy/dv)^T dE/dy in `d_v` (K, d_v), and dE/ds[K-1] by itself in `d_s` (d_s).

    `printed` takes one erratum as it stands in the paper, for the tests that it fails: E1 is
    equation 222 without its transpose, E3 equation 246 without the gate of the input.
    """
    x, s, v, xi_du, g, u, r = trace
    found = {name: np.zeros_like(value, d_v.dtype) for name, value in w.items()}
    found["x"] = np.zeros_like(x, d_v.dtype)
    chi, psi = np.zeros_like(v[1:], d_v.dtype), np.zeros_like(r, d_v.dtype)
    f_chi = np.zeros(v.shape[1], d_v.dtype)
    f_psi = np.zeros(r.shape[1], d_v.dtype) if d_s is None else d_s
    w_scr = w["W_scr"] if printed == "E1" else w["W_scr"].T
    for n in reversed(range(len(x))):  # 216 to 229
        chi[n] = d_v[n] + f_chi
        beta = w["W_qdr"].T @ chi[n]
        alpha = {"cr": beta * r[n] * gate_slope(g["cr"][n])}
        psi[n] = beta * g["cr"][n] * data_slope(r[n]) + w_scr @ alpha["cr"] + f_psi  # 222*
        alpha["cs"] = psi[n] * s[n] * gate_slope(g["cs"][n])
        alpha["cu"] = psi[n] * u[n] * gate_slope(g["cu"][n])
        alpha["du"] = psi[n] * g["cu"][n] * data_slope(u[n])
        alpha["cx"] = alpha["du"] * xi_du[n] * gate_slope(g["cx"][n])
        f_chi = sum((w[f"W_v{k}"].T @ alpha[k] for k in NODES), np.zeros_like(f_chi))
        f_psi = g["cs"][n] * psi[n]
        f_psi = f_psi + sum(w[f"W_s{k}"].T @ alpha[k] for k in SEEING_OLD_STATE)
        found["W_qdr"] += np.outer(chi[n], g["cr"][n] * r[n])
        _gather(w, found, trace, n, alpha, printed)
    return Flow(chi, psi, found | {"s0": f_psi, "v0": f_chi})


def _gather(
    w: Weights, found: Weights, trace: Trace, n: int, alpha: Weights, printed: str | None
) -> None:
    """Equations 230 to 249 of one step; and by the input, which the paper leaves out."""
    x, s, v = trace.x, trace.s, trace.v
    for k in NODES:
        found[f"W_v{k}"] += np.outer(alpha[k], v[n])
        found[f"b_{k}"] += alpha[k]
        if k != "du":
            found[f"W_s{k}"] += np.outer(alpha[k], s[n + 1] if k == "cr" else s[n])
        is_gated = k == "du" and printed != "E3"
        outer = trace.gates["cx"][n] * alpha[k] if is_gated else alpha[k]  # 246*
        for late in range(min(len(w[f"W_x{k}"]), len(x) - n)):
            found[f"W_x{k}"][late] += np.outer(outer, x[n + late])
            found["x"][n + late] += w[f"W_x{k}"][late].T @ outer
