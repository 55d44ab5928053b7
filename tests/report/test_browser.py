"""The page in a real browser, opened from a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loraland.report.content import Content
from loraland.report.page import render_html

pytestmark = pytest.mark.browser


class Tab:
    """A page and everything that it asked for or complained about."""

    def __init__(self, browser: Any, path: Path, fragment: str = "", **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_context(**options).new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.address = path.as_uri() + fragment
        self.page.goto(self.address)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.page.locator(selector).all_inner_texts()
        return found

    @property
    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.fixture
def tab(browser: Any, page_file: Path) -> Iterator[Tab]:
    """The page; whatever a test did with it, no network was asked and nothing complained."""
    opened = Tab(browser, page_file)
    yield opened
    assert opened.said == []
    assert {url.split("#")[0] for url in opened.asked if url != "data:,"} == {page_file.as_uri()}


def test_a_click_on_a_head_sorts_and_a_second_one_turns_the_order(
    tab: Tab, content: Content
) -> None:
    scores = sorted(cell.row.score.mean for cell in content.cells)
    shown = "#board tbody td:nth-child(5)"
    button = tab.page.locator("#board thead").get_by_role("button", name="score", exact=True)
    for order, expected in (("descending", scores[::-1]), ("ascending", scores)):
        button.click()
        assert [float(text.split()[0]) for text in tab.texts(shown)] == [
            pytest.approx(score, abs=5e-4) for score in expected
        ]
        assert tab.page.locator("#board th[aria-sort]").get_attribute("aria-sort") == order
    # What is not known stays last, in both orders.
    for _ in range(2):
        tab.page.locator("#board").get_by_role("button", name="report tuned").click()
        assert tab.texts("#board tbody tr:first-child td:nth-child(10)") == ["0.875"]


def test_the_filter_leaves_the_rows_that_have_all_its_words(tab: Tab) -> None:
    tab.page.get_by_label("Filter").fill("BOOLQ gemma")
    assert tab.texts("#board tbody tr:visible th") == ["boolq"]
    assert tab.texts("#filtered") == ["1 of 10 adapters"]
    tab.page.get_by_label("Filter").fill("")
    assert len(tab.texts("#board tbody tr:visible th")) == 10


def test_a_field_of_the_matrix_opens_its_cell_with_broken_answers_first(
    tab: Tab, content: Content
) -> None:
    cell = content.cells[4]
    assert cell.excerpt is not None and cell.excerpt.counts["broken"] > 0
    tab.page.locator(f'.heat a[href="#cell-{cell.id}"]').click()
    body = tab.page.locator(f"#cell-{cell.id}")
    body.locator(".sample").first.wait_for()
    assert body.locator(".sample").count() == 10
    first = body.locator(".sample").first.inner_text()
    assert first.startswith("base right, adapter wrong")
    assert cell.excerpt.shown[0].ours.prompt.split("\n")[0] in first
    assert body.locator("output").inner_text() == "10 of 12 shown; this file holds 12 of 40 pairs"
    body.get_by_role("button", name="Show more").click()
    assert body.locator(".sample").count() == 12


def test_samples_are_chosen_by_outcome_and_searched(tab: Tab, content: Content) -> None:
    cell = content.cells[0]
    assert cell.excerpt is not None
    tab.page.locator("details.cell > summary").first.click()
    body = tab.page.locator(f"#cell-{cell.id}")
    wrong = [pair for pair in cell.excerpt.shown if pair.outcome == "both_wrong"]
    body.get_by_role("button", name="both wrong").click()
    assert body.locator(".sample").count() == len(wrong) > 0
    one = wrong[-1].ours
    body.get_by_label("Search in the samples").fill(f"QUESTION {one.item} of")
    assert [text.split("item ")[1].split()[0] for text in body.locator("h4").all_inner_texts()] == [
        str(one.item)
    ]


def test_an_address_with_a_cell_opens_it(browser: Any, page_file: Path, content: Content) -> None:
    tab = Tab(browser, page_file, f"#cell-{content.cells[-1].id}")
    tab.page.locator("details.cell[open] .sample").first.wait_for()
    assert tab.page.evaluate("document.activeElement.id") == f"cell-{content.cells[-1].id}"


def test_hostile_answers_stay_text(browser: Any, hostile: Content, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(render_html(hostile), encoding="utf-8")
    tab = Tab(browser, path)
    title = tab.page.title()
    for summary in tab.page.locator("details.cell > summary").all():
        summary.click()
    tab.page.locator(".sample").first.wait_for()
    assert '<script>document.title = "taken"</script>' in tab.texts(".sample pre")[0]
    assert tab.page.locator("main img, .samples script, textarea").count() == 0
    assert tab.page.title() == title
    assert tab.said == [] and {url.split("#")[0] for url in tab.asked} <= {path.as_uri(), "data:,"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_fits_its_window_and_keeps_the_rules_of_accessible_pages(
    browser: Any, page_file: Path, scheme: str, width: int
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    size = {"width": width, "height": 900}
    tab = Tab(browser, page_file, viewport=size, color_scheme=scheme)
    tab.page.locator("details.cell > summary").nth(1).click()
    tab.page.locator(".sample").first.wait_for()
    assert tab.overflow == 0
    found = Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()
    paper = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in paper[4:-1].split(",")) < 3 * 128
    assert dark == (scheme == "dark")


def test_a_keyboard_alone_sorts_and_opens(tab: Tab) -> None:
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.className") == "skip"
    tab.page.locator("#board thead button").first.focus()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#board th").first.get_attribute("aria-sort") == "ascending"
    assert tab.page.evaluate(outline) == "solid"
    tab.page.locator(".heat a").first.focus()
    tab.page.keyboard.press("Enter")
    tab.page.locator("details.cell[open] .sample").first.wait_for()


def test_without_scripts_figures_tables_and_cells_can_be_read(
    browser: Any, page_file: Path, content: Content
) -> None:
    tab = Tab(browser, page_file, java_script_enabled=False)
    assert tab.page.locator(".heat a").first.is_visible()
    assert tab.page.locator("#board tbody tr").count() == 10
    assert not tab.page.get_by_label("Filter").is_visible()
    assert "The answers are shown by a script" in tab.page.locator("noscript").inner_text()
    tab.page.locator("details.cell > summary").first.click()
    assert tab.page.locator(f"#cell-{content.cells[0].id} .curve").is_visible()
