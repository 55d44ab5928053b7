"""The Vanilla LSTM in NumPy, equation by equation: the oracle of the fast cell.

float64 (or complex, for a complex step), one sequence, a Python loop over steps. Numbers in
comments are those of arXiv 1808.03314v9; a star marks one that is corrected here (E1). The same
cell in other words: cu is the input gate i, cs the forget gate f, cr the output gate o, u the
candidate g, s the cell c, v the hidden state h; each gate has a full peephole, cr at the new state.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loraland.recurrent.warping import Array, data, data_slope, gate, gate_slope

# 15 entities (123, 124): {W_x, W_s, W_v, b} of cu, cs, cr and {W_x, W_v, b} of du, named W_xcu, ...
Weights = dict[str, Array]
NODES = ("cu", "cs", "cr", "du")


def count(d_x: int, d_s: int) -> int:
    """How many numbers the entities hold."""
    return 4 * d_s * d_x + 7 * d_s**2 + 4 * d_s


def entities(d_x: int, d_s: int) -> dict[str, tuple[int, ...]]:
    """The shape of every entity."""
    found: dict[str, tuple[int, ...]] = {}
    for node in NODES:
        found |= {f"W_x{node}": (d_s, d_x), f"W_v{node}": (d_s, d_s), f"b_{node}": (d_s,)}
        if node != "du":
            found[f"W_s{node}"] = (d_s, d_s)
    return found


class Trace(NamedTuple):
    """What a pass leaves for the way back; s and v have the initial state first."""

    x: Array  # (K, d_x)
    s: Array  # (K + 1, d_s)
    v: Array  # (K + 1, d_s)
    u: Array  # (K, d_s), as are the gates and r
    g_cu: Array
    g_cs: Array
    g_cr: Array
    r: Array


def forward(w: Weights, x: Array, s0: Array | None = None, v0: Array | None = None) -> Trace:
    """One sequence (K, d_x) from s[-1] = `s0` and v[-1] = `v0`, each (d_s), or 0."""
    starts = [one for one in (s0, v0) if one is not None]
    kind, d_s, steps = np.result_type(x, *w.values(), *starts), len(w["b_cu"]), len(x)
    s, v = np.zeros((steps + 1, d_s), kind), np.zeros((steps + 1, d_s), kind)
    u, g_cu, g_cs, g_cr, r = (np.zeros((steps, d_s), kind) for _ in range(5))
    s[0], v[0] = 0 if s0 is None else s0, 0 if v0 is None else v0
    for n in range(steps):  # 126 to 136
        old_s, old_v = s[n], v[n]  # of step n - 1
        a_cu = w["W_xcu"] @ x[n] + w["W_scu"] @ old_s + w["W_vcu"] @ old_v + w["b_cu"]
        a_cs = w["W_xcs"] @ x[n] + w["W_scs"] @ old_s + w["W_vcs"] @ old_v + w["b_cs"]
        a_du = w["W_xdu"] @ x[n] + w["W_vdu"] @ old_v + w["b_du"]
        u[n], g_cu[n], g_cs[n] = data(a_du), gate(a_cu), gate(a_cs)
        s[n + 1] = g_cs[n] * old_s + g_cu[n] * u[n]
        # The readout gate sees the new state.
        a_cr = w["W_xcr"] @ x[n] + w["W_scr"] @ s[n + 1] + w["W_vcr"] @ old_v + w["b_cr"]
        g_cr[n], r[n] = gate(a_cr), data(s[n + 1])
        v[n + 1] = g_cr[n] * r[n]
    return Trace(x, s, v, u, g_cu, g_cs, g_cr, r)


class Flow(NamedTuple):
    """The total partial derivatives of every step, and the gradients that they sum to."""

    chi: Array  # (K, d_s), dE/dv
    psi: Array  # (K, d_s), dE/ds
    gradients: Weights  # by entity, and x, s0, v0


def backward(
    w: Weights,
    trace: Trace,
    d_v: Array,
    d_s: Array | None = None,
    clip: float | None = None,
    printed: bool = False,
) -> Flow:
    """The way back for (dy/dv)^T dE/dy in `d_v` (K, d_s), and dE/ds[K-1] by itself in `d_s` (d_s).

    `clip` bounds every alpha, as the paper advises; None bounds nothing, and gradients are exact.
    `printed` takes equation 150 as it stands in the paper, for the test that it fails.
    """
    x, s, v, u, g_cu, g_cs, g_cr, r = trace
    found = {name: np.zeros_like(value, d_v.dtype) for name, value in w.items()}
    found["x"] = np.zeros_like(x, d_v.dtype)
    chi, psi = np.zeros_like(r, d_v.dtype), np.zeros_like(r, d_v.dtype)
    f_chi = np.zeros(r.shape[1], d_v.dtype)
    f_psi = f_chi if d_s is None else d_s
    w_scr = w["W_scr"] if printed else w["W_scr"].T
    for n in reversed(range(len(x))):
        chi[n] = d_v[n] + f_chi  # 144
        alpha = {"cr": _clipped(chi[n] * r[n] * gate_slope(g_cr[n]), clip)}  # 146, 147
        psi[n] = chi[n] * g_cr[n] * data_slope(r[n]) + w_scr @ alpha["cr"] + f_psi  # 145, 150*
        alpha["cs"] = _clipped(psi[n] * s[n] * gate_slope(g_cs[n]), clip)  # 151
        alpha["cu"] = _clipped(psi[n] * u[n] * gate_slope(g_cu[n]), clip)  # 152
        alpha["du"] = _clipped(psi[n] * g_cu[n] * data_slope(u[n]), clip)  # 153
        f_chi = sum((w[f"W_v{k}"].T @ alpha[k] for k in NODES), np.zeros_like(f_chi))  # 154
        f_psi = w["W_scu"].T @ alpha["cu"] + w["W_scs"].T @ alpha["cs"] + g_cs[n] * psi[n]  # 155
        for k in NODES:  # 156 to 172
            found[f"W_x{k}"] += np.outer(alpha[k], x[n])
            found[f"W_v{k}"] += np.outer(alpha[k], v[n])
            found[f"b_{k}"] += alpha[k]
            if k != "du":
                found[f"W_s{k}"] += np.outer(alpha[k], s[n + 1] if k == "cr" else s[n])
            found["x"][n] += w[f"W_x{k}"].T @ alpha[k]  # the paper has no gradient of the input
    return Flow(chi, psi, found | {"s0": f_psi, "v0": f_chi})


def _clipped(alpha: Array, bound: float | None) -> Array:
    return alpha if bound is None else np.clip(alpha, -bound, bound)
