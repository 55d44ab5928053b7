"""Working sets over slots, the curves of hits and misses, and their picture."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import InvalidConfiguration
from loraland.loadtest.cliff import Line, Point, lines_of, shares_of, working_sets
from loraland.loadtest.cliff_svg import HEIGHT, LEFT, TOP, WIDTH, Panel, draw
from loraland.loadtest.outcome import Outcome, Run
from loraland.loadtest.summary import figures

SVG = "{http://www.w3.org/2000/svg}"


def point(share, hit_ms=(), miss_ms=(), other_ms=()):
    kinds = (("device", hit_ms), ("host", miss_ms), (None, other_ms))
    each = [(tier, ms) for tier, many in kinds for ms in many]
    outcomes = [
        Outcome(n, "tiny/a", 0, 0, 1, first_s=ms / 1000, tier=tier)
        for n, (tier, ms) in enumerate(each)
    ]
    return Point(share, round(share * 8), figures(Run(outcomes)))


def test_shares_are_read_sorted_and_once():
    assert shares_of("4,0.5,1,1") == (0.5, 1, 4)


@pytest.mark.parametrize("text", ["", "a", "0", "-1,2", "1,,2", "nan", "1000", "inf"])
def test_shares_without_sense_are_refused(text):
    with pytest.raises(InvalidConfiguration, match="such as"):
        shares_of(text)


@given(st.lists(st.floats(0.01, 8), min_size=1, max_size=6), st.integers(1, 64))
def test_a_working_set_has_its_share_of_the_slots_and_at_least_one_adapter(shares, slots):
    for share, count in working_sets(shares, slots, adapters=10_000):
        assert count >= 1
        assert count == 1 or abs(count - share * slots) <= 0.5


def test_a_working_set_beyond_the_adapters_says_how_many_to_make():
    with pytest.raises(InvalidConfiguration, match="--synthetic 32"):
        working_sets((0.5, 4), slots=8, adapters=25)


def test_hits_and_misses_have_curves_of_median_and_tail_where_they_occurred():
    points = [point(0.5, [10, 20, 30]), point(2, [15], [100, 300, 500])]
    lines = {line.name: line.points for line in lines_of(points)}
    assert lines["hit, p50"] == ((0.5, pytest.approx(20)), (2, pytest.approx(15)))
    assert lines["miss, p50"] == ((2, pytest.approx(300)),)
    assert lines["miss, p95"] == ((2, pytest.approx(500)),)


def test_a_server_that_tells_no_hits_has_one_curve_for_all():
    assert [line.name for line in lines_of([point(1, other_ms=[5, 6])])] == ["all, p50", "all, p95"]


LINES = st.lists(
    st.builds(
        Line,
        st.text(max_size=12).map(lambda text: "".join(c for c in text if c.isprintable())),
        st.sampled_from(["hit", "miss", "all"]),
        st.booleans(),
        st.lists(
            st.tuples(st.sampled_from([0.25, 0.5, 1.0, 4.0]), st.floats(0, 1e6)), min_size=1
        ).map(tuple),
    ),
    min_size=1,
    max_size=4,
)


@given(LINES)
def test_every_point_is_drawn_within_its_panel(lines):
    picture = ElementTree.fromstring(draw([Panel("uniform", lines), Panel("zipf", [])]))
    circles = list(picture.iter(f"{SVG}circle"))
    assert len(circles) == sum(len(line.points) for line in lines)
    for circle in circles:
        assert LEFT <= float(circle.get("cx")) <= WIDTH
        assert TOP - 1 <= float(circle.get("cy")) <= HEIGHT


def test_a_picture_stands_alone_and_takes_names_as_text_only():
    line = Line("<script>&", "hit", False, ((1.0, 5.0),))
    text = draw([Panel("<b>", [line])])
    assert "<script" not in text
    assert "<b>" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "prefers-color-scheme" in text


def test_higher_latencies_are_drawn_higher():
    [picture] = [draw([Panel("x", [Line("hit", "hit", False, ((1.0, 10.0), (2.0, 90.0)))])])]
    first, second = ElementTree.fromstring(picture).iter(f"{SVG}circle")
    assert float(second.get("cy")) < float(first.get("cy"))
    assert float(second.get("cx")) > float(first.get("cx"))


def test_nothing_to_draw_is_an_error():
    with pytest.raises(ValueError, match="nothing to draw"):
        draw([Panel("x", [])])
