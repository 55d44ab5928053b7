"""The canonical and the standard RNN in NumPy, equation by equation, from a delay equation.

The oracle of the fast cells: float64, one sequence, a Python loop over steps. Numbers in comments
are those of arXiv 1808.03314v9; a star marks one that is printed without its transpose (E2).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from loraland.recurrent.warping import Array, data, data_slope

Weights = dict[str, Array]  # W_x (d_s, d_x), W_r (d_s, d_s), theta_s (d_s); canonical: W_s too


class Delay(NamedTuple):
    """ds/dt = A s(t) + B r(t - tau_0) + C x(t) + phi, r = G_d(s). Equation 14."""

    a: Array  # (d_s, d_s)
    b: Array  # (d_s, d_s)
    c: Array  # (d_s, d_x)
    phi: Array  # (d_s,)

    def discretised(self, step: float) -> Weights:
        """The canonical RNN of a backward Euler step, which is the delay too. Equations 15 to 29.

        Raises ValueError where I - step A has no inverse.
        """
        try:
            w_s = np.linalg.inv(np.eye(len(self.a)) - step * self.a)  # 25
        except np.linalg.LinAlgError:
            raise ValueError(
                f"I - step A has no inverse at a step of {step}; take a smaller step"
            ) from None
        return {
            "W_s": w_s,
            "W_r": step * w_s @ self.b,  # 27
            "W_x": step * w_s @ self.c,  # 28
            "theta_s": step * w_s @ self.phi,  # 29
        }


class Trace(NamedTuple):
    """What a pass leaves for the way back."""

    x: Array  # (K, d_x)
    s: Array  # (K + 1, d_s), the initial state first
    r: Array  # (K + 1, d_s)


def forward(w: Weights, x: Array, s0: Array | None = None) -> Trace:
    """The states and readouts of one sequence (K, d_x); from s[-1] = `s0` (d_s), or 0."""
    kind, d_s = np.result_type(x, *w.values(), *([] if s0 is None else [s0])), len(w["theta_s"])
    s = np.zeros((len(x) + 1, d_s), kind)
    if s0 is not None:
        s[0] = s0
    r = data(s)
    for n in range(len(x)):
        s[n + 1] = w["W_r"] @ r[n] + w["W_x"] @ x[n] + w["theta_s"]  # 32, 33
        if "W_s" in w:
            s[n + 1] += w["W_s"] @ s[n]  # 30, 31
        r[n + 1] = data(s[n + 1])
    return Trace(x, s, r)


def backward(w: Weights, trace: Trace, d_r: Array, printed: bool = False) -> Weights:
    """The gradients of E by every weight, by `x` and by `s0`, for dE/dr[n] in `d_r` (K, d_s).

    `printed` takes equations 82 and 84 as they stand in the paper, for the test that they fail.
    """
    x, s, r = trace
    found = {name: np.zeros_like(value, d_r.dtype) for name, value in w.items()}
    found["x"] = np.zeros_like(x, d_r.dtype)
    w_r = w["W_r"] if printed else w["W_r"].T
    psi = np.zeros(s.shape[1], d_r.dtype)  # 85
    from_next = psi
    for n in reversed(range(len(x))):
        chi = d_r[n] + w_r @ psi  # 82*
        psi = chi * data_slope(r[n + 1]) + from_next  # 83, 84*; W_s adds its path
        found["W_r"] += np.outer(psi, r[n])  # 86 to 90
        found["W_x"] += np.outer(psi, x[n])
        found["theta_s"] += psi
        found["x"][n] = w["W_x"].T @ psi
        if "W_s" in w:
            found["W_s"] += np.outer(psi, s[n])
            from_next = w["W_s"].T @ psi
    found["s0"] = (w_r @ psi) * data_slope(r[0]) + from_next
    return found
