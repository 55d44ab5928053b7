from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from loraland.report.content import Content
from loraland.report.markdown import code, escaped, fenced, render_markdown
from tests.report.fabricated import HOSTILE


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of each table, by the heading above it."""
    found: dict[str, list[list[str]]] = {}
    heading = ""
    for line in outside_code(text).splitlines():
        heading = line.lstrip("# ") if line.startswith("#") else heading
        if line.startswith("| "):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found.setdefault(heading, []).append([cell.strip() for cell in cells])
    return found


def outside_code(text: str) -> str:
    return re.sub(r"^(`{3,})text\n.*?^\1$", "", text, flags=re.DOTALL | re.MULTILINE)


def test_it_tells_the_figures_of_the_page_as_tables(content: Content) -> None:
    text = render_markdown(content)
    found = tables(text)
    assert all(len({len(row) for row in rows}) == 1 for rows in found.values())
    head, _, *rows = found["Matrix"]
    assert head == ["task", *content.bases] and [row[0] for row in rows] == list(content.tasks)
    assert rows[2][3] == "failed" and rows[3][3] == "missing"
    assert len(found["Leaderboard"]) == 2 + 10 and len(found["Unfinished"]) == 2 + 2
    assert len(found["Means"]) == 2 + len(content.board.marginals)
    lift = content.board.rows[0].against_base.lift.mean
    assert f"{lift:+.3f}".replace("-", "\N{MINUS SIGN}") in rows[0][1]
    assert str(content.board.claims[0]) in text
    assert "0.875" in text and "collapsed" in text


def test_each_cell_shows_what_was_broken_first_and_says_of_how_many(content: Content) -> None:
    text = render_markdown(content)
    for cell, part in zip(content.cells, text.split("\n### ")[1:], strict=True):
        assert cell.excerpt is not None
        first = cell.excerpt.shown[0].ours
        assert f"3 of {cell.excerpt.total} shown" in part
        assert f", item {first.item}\n" in part and first.prompt in part


def test_hostile_text_stays_text(hostile: Content) -> None:
    text = outside_code(render_markdown(hostile))
    assert "<" not in text.replace("&lt;", "")
    assert "```" not in text and r"\`\`\`" in text
    assert all(len({len(row) for row in rows}) == 1 for rows in tables(text).values())


@given(st.text())
def test_no_text_ends_the_code_that_it_stands_in(text: str) -> None:
    opening, *_, closing = fenced(text).split("\n")
    assert closing not in text and opening == closing + "text"
    ticks = code(text).split(" ")[0]
    assert ticks not in text


def test_marks_of_markdown_are_escaped_and_words_stay_readable() -> None:
    assert escaped("a | b\n*c* <d> `e` [f](g) snake_case _h_") == (
        r"a \| b \*c\* &lt;d&gt; \`e\` \[f\](g) snake_case \_h\_"
    )
    assert "|" not in re.sub(r"\\\|", "", escaped(HOSTILE))
