"""Prediction on planted data: what is there is found, what is not is not."""

from __future__ import annotations

import numpy as np
import pytest

from loraland.analysis import prediction
from loraland.analysis.prediction import Design, Fit, interval, judge, leave_one_task_out

BASES = ("one", "two", "three")


def planted(strength: float, tasks: int = 31, seed: int = 0, features: int = 4) -> Design:
    """Cells whose target is a base's offset, `strength` x the first feature, and task noise."""
    draw = np.random.default_rng(seed)
    known = draw.normal(size=(tasks, features))
    noise = draw.normal(scale=0.1, size=tasks)
    rows = [(task, base) for task in range(tasks) for base in range(len(BASES))]
    target = [
        0.5 + 0.2 * base + strength * known[task, 0] + noise[task] + draw.normal(scale=0.02)
        for task, base in rows
    ]
    return Design(
        names=tuple("abcd"[:features]),
        features=np.array([known[task] for task, _ in rows]),
        targets=np.array(target)[:, None],
        tasks=tuple(f"task{task}" for task, _ in rows),
        bases=tuple(BASES[base] for _, base in rows),
    )


def test_a_planted_signal_is_recovered() -> None:
    design = planted(0.3)
    found = judge(design, leave_one_task_out(design), 0)
    assert (found.tasks, found.cells) == (31, 93)
    assert found.r2 > 0.7
    assert found.r2_low > 0.4
    assert found.rmse < 0.15  # the noise that no feature knows is 0.1
    assert found.rmse_low < found.rmse < found.rmse_high


def test_without_a_signal_nothing_is_foretold() -> None:
    """On average; a single study of so few tasks can be above 0 by chance, not its interval."""
    found = []
    for seed in range(8):
        design = planted(0.0, seed=seed)
        found.append(judge(design, leave_one_task_out(design), 0))
    assert np.mean([one.r2 for one in found]) <= 0
    assert all(one.r2_low < 0 for one in found)
    assert all(one.rmse == pytest.approx(one.mean_rmse, rel=0.1) for one in found)


def test_a_task_s_own_cells_do_not_help_to_foretell_it() -> None:
    """A feature that only names the task would give a perfect fit if one cell were left out."""
    design = planted(0.0, tasks=12, features=1)
    marks = np.eye(12)[[int(task[4:]) for task in design.tasks]]
    marked = Design(tuple(map(str, range(12))), marks, design.targets, design.tasks, design.bases)
    assert judge(marked, leave_one_task_out(marked), 0).r2 <= 0.01


def test_the_mean_predictor_has_not_seen_the_task_but_knows_the_base() -> None:
    design = planted(0.3, tasks=9)
    left_out = leave_one_task_out(design)
    others = [
        design.targets[row, 0]
        for row in range(len(design.tasks))
        if design.tasks[row] != design.tasks[0] and design.bases[row] == design.bases[0]
    ]
    assert len(others) == 8
    assert left_out.means[0, 0] == pytest.approx(np.mean(others))


def test_an_infinite_penalty_leaves_the_mean_of_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "PENALTIES", (1e12,))
    design = planted(0.3, tasks=9)
    left_out = leave_one_task_out(design)
    np.testing.assert_allclose(left_out.predicted, left_out.means, atol=1e-6)
    assert judge(design, left_out, 0).r2 == pytest.approx(0, abs=1e-6)


def test_a_ridge_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """One base, one standardised feature -1, 1, ...: slope = sum(x y) / (n + penalty)."""
    monkeypatch.setattr(prediction, "PENALTIES", (8.0,))
    x = np.array([-1.0, 1.0] * 4)
    design = Design(
        names=("x",),
        features=x[:, None],
        targets=(5 + 3 * x)[:, None],
        tasks=tuple("abcdefgh"),
        bases=("one",) * 8,
    )
    found = Fit(design).predict(np.array([[2.0]]), ["one"])
    assert found[0, 0] == pytest.approx(5 + 2 * 24 / (8 + 8))


def test_intervals_cover_new_tasks() -> None:
    inside = []
    for seed in range(4):
        whole = planted(0.2, tasks=41, seed=seed, features=1)
        known = np.array([int(task[4:]) < 20 for task in whole.tasks])
        design = whole.rows(known)
        left_out = leave_one_task_out(design)
        for row in np.flatnonzero(~known & (np.array(whole.bases) == "two")):
            low, high = interval(design, left_out, whole.features[[row]], "two", 0, 0.8)
            inside.append(low <= whole.targets[row, 0] <= high)
    assert 0.7 <= np.mean(inside) <= 0.92


def test_too_few_tasks_for_so_sure_an_interval_give_an_endless_one() -> None:
    design = planted(0.2, tasks=9)
    left_out = leave_one_task_out(design)
    low, high = interval(design, left_out, design.features[:1], "one", 0, 0.95)
    assert (low, high) == (-np.inf, np.inf)


def test_what_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        Fit(planted(0.1, tasks=7))
    fit = Fit(planted(0.1, tasks=8))
    with pytest.raises(ValueError, match=r"\['four'\]"):
        fit.predict(np.zeros((1, 4)), ["four"])
    good = planted(0.1, tasks=8)
    with pytest.raises(ValueError, match="not finite"):
        Design(good.names, good.features * np.nan, good.targets, good.tasks, good.bases)
    with pytest.raises(ValueError, match="different sizes"):
        Design(good.names, good.features, good.targets[1:], good.tasks, good.bases)
