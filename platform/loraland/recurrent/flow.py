"""How gradients flow through a cell: norms of chi and psi per step, and how far gates stay open.

Diagnostics of one sequence by the NumPy reference, exact and slow. Knows the paper's constant error
carousel: psi passes a step through the state gate, times g_cs, and through Q, everything else
(equations 173 to 182, transposes corrected).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loraland.errors import InvalidConfiguration
from loraland.recurrent import reference_augmented, reference_rnn, reference_vanilla
from loraland.recurrent.modules import Lstm, Rnn
from loraland.recurrent.warping import Array, data_slope, gate_slope


class Flow(NamedTuple):
    """What an error at the last step becomes on its way to the first."""

    psi: Array  # (K,), norm of dE/ds
    chi: Array  # (K,), norm of dE/dv
    carousel: Array  # (K,), mean over units of the product of g_cs behind each step; 0 of an RNN


def flow_of(net: Lstm | Rnn, x: Array) -> Flow:
    """The flow through the first layer for one sequence (K, d_x) and E = sum of the last value.

    Raises InvalidConfiguration where there are no steps.
    """
    if not len(x):
        raise InvalidConfiguration("a flow needs at least one step; the sequence has none")
    return _of_rnn(net, x) if isinstance(net, Rnn) else _of_lstm(net, x)


def _of_lstm(net: Lstm, x: Array) -> Flow:
    w = {name: one.detach().double().numpy() for name, one in net.entities().items()}
    by_v = np.zeros((len(x), net.sizes[0]))
    by_v[-1] = 1.0
    if "W_qdr" in w or "W_xcx" in w or net.window > 1:
        full = _with_neutral_extensions(w, net)
        trace = reference_augmented.forward(full, x)
        chi, psi, _ = reference_augmented.backward(full, trace, by_v)
        open_ = trace.gates["cs"]
    else:
        plain = reference_vanilla.forward(w, x)
        chi, psi, _ = reference_vanilla.backward(w, plain, by_v)
        open_ = plain.g_cs
    return Flow(_norms(psi), _norms(chi), _behind(open_))


def _of_rnn(net: Rnn, x: Array) -> Flow:
    given = net.weights()
    named = {"W_x": given.x[0], "W_r": given.r, "theta_s": given.theta, "W_s": given.s}
    w = {name: one.detach().double().numpy() for name, one in named.items() if one is not None}
    trace = reference_rnn.forward(w, x)
    psi = np.ones(net.hidden_size) * data_slope(trace.r[-1])
    psis, chis = [psi], [np.ones(net.hidden_size)]
    for n in range(len(x) - 1, 0, -1):
        chi = w["W_r"].T @ psi
        psi = chi * data_slope(trace.r[n]) + (w["W_s"].T @ psi if "W_s" in w else 0.0)
        psis.append(psi)
        chis.append(chi)
    return Flow(_norms(np.stack(psis[::-1])), _norms(np.stack(chis[::-1])), np.zeros(len(x)))


def jacobian(w: dict[str, Array], trace: reference_vanilla.Trace, k: int) -> tuple[Array, Array]:
    """d psi[k-1] / d psi[k] of a Vanilla cell by way of psi alone: Q(k-1, k) and diag(g_cs[k]).

    Both (d_s, d_s), for 1 <= k < K. The path through W_vcr and chi is outside of it (E6).
    """
    old_r, old_cr = trace.r[k - 1], trace.g_cr[k - 1]
    through = np.diag(old_cr * data_slope(old_r)) + w["W_scr"].T @ np.diag(
        old_r * gate_slope(old_cr)
    )
    cu = np.diag(trace.u[k] * gate_slope(trace.g_cu[k]))
    cs = np.diag(trace.s[k] * gate_slope(trace.g_cs[k]))  # s[k] holds the state of step k - 1
    du = np.diag(trace.g_cu[k] * data_slope(trace.u[k]))
    q = through @ (w["W_vcu"].T @ cu + w["W_vcs"].T @ cs + w["W_vdu"].T @ du)
    q = q + w["W_scu"].T @ cu + w["W_scs"].T @ cs
    return q, np.diag(trace.g_cs[k])


def _with_neutral_extensions(w: dict[str, Array], net: Lstm) -> dict[str, Array]:
    """Weights of any cell as those of a fully augmented one that computes the same."""
    d_s, (d_v, _) = net.hidden_size, net.sizes
    full = {
        n: one if one.ndim == 3 or not n.startswith("W_x") else one[None] for n, one in w.items()
    }
    full.setdefault("W_qdr", np.eye(d_s))
    if "W_xcx" not in full:
        full |= {"W_xcx": np.zeros_like(full["W_xcu"]), "W_scx": np.zeros((d_s, d_s))}
        full |= {"W_vcx": np.zeros((d_s, d_v)), "b_cx": np.full(d_s, 40.0)}
    return full


def _norms(of_steps: Array) -> Array:
    return np.asarray(np.linalg.norm(of_steps, axis=1))


def _behind(open_: Array) -> Array:
    """Of each step, the product of g_cs over all steps behind it, and the mean over units."""
    ahead = np.cumprod(open_[::-1], axis=0)[::-1]
    return np.asarray(np.concatenate([ahead[1:], np.ones_like(ahead[:1])]).mean(axis=1))
