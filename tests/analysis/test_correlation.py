"""Spearman's correlations, by hand and against the report's Figure 8."""

from __future__ import annotations

import math

import pytest

from loraland.analysis.correlation import (
    QUALITIES,
    checkable,
    correlate,
    discoveries,
    figure8,
    least_significant,
    matrix,
    printed_discoveries,
    qualities,
)
from loraland.analysis.heuristics import NAMES
from loraland.analysis.outlook import counted_heuristics
from loraland.analysis.study import load_study


def test_rho_of_five_tasks_worked_by_hand() -> None:
    # Ranks 1 2 3 4 5 and 2 1 4 3 5: sum of squared differences 4, rho = 1 - 6 * 4 / (5 * 24) = 0.8.
    values = {
        task: {"x": x, "y": y}
        for task, x, y in [
            ("a", 1, 20),
            ("b", 2, 10),
            ("c", 30, 40),
            ("d", 400, 30),
            ("e", 500, 99),
        ]
    }
    found = correlate(values, "x", "y")
    assert (found.tasks, found.rho) == (5, pytest.approx(0.8))
    # Bonett and Wright: tanh(atanh(0.8) -+ 1.96 * sqrt((1 + 0.32) / 2))
    assert found.low == pytest.approx(math.tanh(1.0986 - 1.95996 * 0.8124), abs=1e-3)
    assert found.high == pytest.approx(math.tanh(1.0986 + 1.95996 * 0.8124), abs=1e-3)
    assert found.printed is None
    assert found.meets_printed is None


def test_tasks_without_a_value_are_left_out_and_too_few_are_refused() -> None:
    values = {str(n): {"x": float(n), "y": float(-n)} for n in range(4)} | {"other": {"x": 1.0}}
    assert correlate(values, "x", "y").tasks == 4
    assert correlate(values, "x", "y").rho == pytest.approx(-1)
    del values["0"]
    with pytest.raises(ValueError, match="4 are needed"):
        correlate(values, "x", "y")


def test_a_constant_has_no_correlation() -> None:
    values = {str(n): {"x": 1.0, "y": float(n)} for n in range(6)}
    found = correlate(values, "x", "y")
    assert math.isnan(found.rho)
    assert discoveries([found]) == []


def test_figure_8_is_symmetric_and_complete() -> None:
    printed = figure8()
    names = {first for first, _ in printed}
    assert names == {*QUALITIES, *NAMES}
    assert len(printed) == 21 * 21
    assert all(printed[first, second] == printed[second, first] for first, second in printed)
    assert all(printed[name, name] == 1 for name in names)


def test_figure_8_is_spearman_s() -> None:
    checks = checkable(load_study())
    assert len(checks) == 36
    assert all(check.agrees for check in checks)
    assert sum(abs(check.printed - check.recomputed) <= 0.005 for check in checks) >= 35


def test_of_the_report_s_correlations_none_with_lift_survives_the_number_of_looks() -> None:
    found = printed_discoveries()
    assert len(found) == 22  # of 98
    assert not {quality for quality, *_ in found} & {"mean_lift", "max_over_gpt4"}
    assert all(abs(rho) >= 0.45 for *_, rho in found)


def test_what_31_tasks_can_show() -> None:
    assert least_significant(31) == pytest.approx(0.355, abs=5e-4)
    assert least_significant(15) == pytest.approx(0.514, abs=5e-4)


def test_counted_heuristics_meet_figure_8_in_nearly_every_pair() -> None:
    counted = counted_heuristics()
    assert len(counted) == 15
    values = {name: row | counted.get(name, {}) for name, row in qualities(load_study()).items()}
    found = matrix(values, QUALITIES, NAMES)
    assert len(found) == 98
    assert all(one.tasks == 15 for one in found)
    assert sum(bool(one.meets_printed) for one in found) >= 88
    strongest = next(
        one for one in found if (one.first, one.second) == ("mean_base", "output_length_std")
    )
    assert strongest.rho < -0.5  # the report: -0.76
