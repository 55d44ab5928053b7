from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.adapters.card import CurvePoint
from loraland.evaluation.statistics import Interval
from loraland.report.content import Content
from loraland.report.heat_map import HeatCell, heat_map
from loraland.report.intervals import axis_track, interval_track
from loraland.report.loss_curve import MOST_POINTS, loss_curve, thinned
from loraland.report.scale import MOST_TICKS, axis_over, step
from loraland.report.wording import p_value, plain, share, signed

LIFTS = st.floats(-1, 1)


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter("text")]


def test_the_colour_of_a_lift_steps_evenly_to_both_sides() -> None:
    lifts = [-0.9, -0.3, -0.1, -0.05, -0.01, 0.0, 0.01, 0.05, 0.1, 0.3, 0.9]
    assert [step(lift) for lift in lifts] == [
        "d-4", "d-3", "d-2", "d-1", "d0", "d0", "d0", "d1", "d2", "d3", "d4",
    ]  # fmt: skip


@given(st.lists(LIFTS, max_size=5))
def test_an_axis_holds_all_values_and_zero_between_few_round_ticks(values: list[float]) -> None:
    axis = axis_over(values)
    assert all(axis.low - 1e-6 <= value <= axis.high + 1e-6 for value in [*values, 0.0])
    assert 0 in axis.ticks and 2 <= len(axis.ticks) <= MOST_TICKS
    assert (axis.at(axis.low), axis.at(axis.high), axis.at(9)) == (0, 100, 100)


def test_an_interval_is_drawn_where_its_numbers_are() -> None:
    axis = axis_over([-0.5, 0.5])
    svg = ElementTree.fromstring(interval_track(Interval(0.1, -0.25, 0.25), "undecided", axis))
    [span] = [one for one in svg.iter("line") if one.get("class") == "span"]
    [zero] = [one for one in svg.iter("line") if one.get("class") == "zero"]
    [mean] = list(svg.iter("circle"))
    assert (span.get("x1"), zero.get("x1"), mean.get("cx"), span.get("x2")) == (
        "25.0%", "50.0%", "60.0%", "75.0%",
    )  # fmt: skip
    assert svg.get("class") == "track undecided"
    assert not list(ElementTree.fromstring(interval_track(None, None, axis)).iter("circle"))
    assert texts(axis_track(axis)) == ["\N{MINUS SIGN}0.5", "0", "+0.5"]


def heat(content: Content, bases: list[str], tasks: list[str]) -> str:
    rows = {(cell.row.base, cell.row.task): cell.row for cell in content.cells}
    means = {(one.kind, one.name): one for one in content.board.marginals}

    def cell(base: str, task: str) -> HeatCell:
        return HeatCell(rows.get((base, task)), "failed", "there")

    return heat_map(
        tasks, bases, cell, lambda name: means.get(("task", name)), lambda n: means.get(("base", n))
    )


def test_the_heat_map_has_a_field_per_cell_and_means_at_its_edges(content: Content) -> None:
    svg = ElementTree.fromstring(heat(content, list(content.bases), list(content.tasks)))
    assert len(list(svg.iter("a"))) == 12
    assert len(list(svg.iter("rect"))) == 12 + 4 + 3
    told = [str(one.get("aria-label")) for one in svg.iter("a")]
    assert (
        told[0].startswith("phi-2 on boolq: lift ")
        and told[-1] == "mistral-7b-instruct on mmlu: failed"
    )
    lift = content.board.rows[0].against_base.lift.mean
    assert f"{lift:+.3f}".replace("-", "\N{MINUS SIGN}") in told[0]
    width = float(str(svg.get("width")))
    assert all(float(r.get("x", 0)) + float(r.get("width", 0)) <= width for r in svg.iter("rect"))


def test_a_long_name_is_broken_and_none_of_it_is_lost(content: Content) -> None:
    name = "mistral-7b-instruct-and-a-name-that-nobody-reads" + "x" * 30
    assert name in texts(heat(content, [name], ["boolq"]))


def test_names_in_figures_stay_text(content: Content) -> None:
    evil = '"><script>alert(1)</script>'
    assert "<script" not in heat(content, [evil], [evil])


def curve(losses: list[tuple[float, float | None]]) -> list[CurvePoint]:
    return [
        CurvePoint(step=n, tokens=n, train_loss=a, validation_loss=b, learning_rate=0.1, seconds=n)
        for n, (a, b) in enumerate(losses, 1)
    ]


def points(svg: str, kind: str) -> list[tuple[float, float]]:
    [line] = [
        one for one in ElementTree.fromstring(svg).iter("polyline") if one.get("class") == kind
    ]
    return [tuple(map(float, pair.split(","))) for pair in str(line.get("points")).split()]  # type: ignore[misc]


def test_a_falling_loss_falls_and_the_best_update_is_marked() -> None:
    svg = loss_curve(curve([(4.0, None), (2.0, 3.0), (1.0, 1.5)]), best_step=2)
    train = points(svg, "train")
    assert [x for x, _ in train] == sorted(x for x, _ in train)
    assert [y for _, y in train] == sorted(y for _, y in train)  # SVG counts downwards
    assert len(points(svg, "validation")) == 2
    assert texts(svg) == ["1.00", "4.00", "1", "3", "best"]
    assert "training from 4.000 to 1.000, validation from 3.000 to 1.500" in svg


@pytest.mark.parametrize("losses", [[(2.0, None)], [(2.0, 2.0), (2.0, 2.0)]])
def test_a_curve_without_any_extent_is_drawn_all_the_same(losses: list[Any]) -> None:
    assert points(loss_curve(curve(losses), 1), "train")


@given(st.integers(1, 1_000))
def test_a_long_curve_is_averaged_into_few_points_without_losing_any(length: int) -> None:
    found = thinned([(n, float(n)) for n in range(length)])
    assert len(found) == min(length, MOST_POINTS)
    assert found[0][0] >= 0 and found[-1][0] <= length - 1
    assert [x for x, _ in found] == sorted({x for x, _ in found})
    assert all(x == y for x, y in found)


def test_a_number_next_to_nothing_has_no_minus() -> None:
    assert (signed(-0.001, 2), plain(-0.0004), signed(-0.25, 2)) == (
        "+0.00", "0.000", "\N{MINUS SIGN}0.25",
    )  # fmt: skip
    assert (share(1, 300), share(0, 300), share(150, 300)) == ("0.3 %", "0 %", "50 %")
    assert (p_value(0.0004), p_value(0.0213), p_value(None)) == ("< 0.001", "0.021", "\N{EN DASH}")
