"""What docs/recurrent.md says of the code is there: every equation at its line, every figure."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = (DOCS / "recurrent.md").read_text(encoding="utf-8")
POINTER = re.compile(r"\[`(?P<code>[^\n]+?)`\]\((?P<file>\.\./[\w/]+\.py)#L(?P<line>\d+)\)")


def test_every_pointer_names_the_line_that_holds_its_code() -> None:
    pointers = list(POINTER.finditer(PAGE))
    assert len(pointers) > 50 and len(pointers) == PAGE.count(".py#L")
    wrong = []
    for found in pointers:
        lines = (DOCS / found["file"]).resolve().read_text(encoding="utf-8").splitlines()
        number, code = int(found["line"]), found["code"]
        if number > len(lines) or code not in lines[number - 1]:
            right = [n for n, line in enumerate(lines, start=1) if code in line]
            wrong.append(f"{found['file']}#L{number}: `{code}` is at {right or 'no line'}")
    assert not wrong, "\n".join(wrong)


def test_every_equation_of_the_way_back_has_a_pointer() -> None:
    for equation in (25, 27, 28, 29, 42, 144, 150, 151, 152, 153, 154, 155, 222):
        assert re.search(rf"\([\d, ]*\b{equation}\b[\d, ]*\)[^\n]*\.py#L", PAGE), equation


def test_every_figure_is_there() -> None:
    figures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", PAGE)
    assert figures and all((DOCS / one).is_file() for one in figures)
