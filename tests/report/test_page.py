from __future__ import annotations

import base64
import hashlib
import json
from html.parser import HTMLParser
from typing import Any

import pytest

from loraland.matrix.space import Space
from loraland.report.answers import as_json
from loraland.report.content import Content, gather
from loraland.report.page import render_html
from loraland.storage import Storage
from tests.report.fabricated import HOSTILE

VOID = {"meta", "link", "input", "br"}
SHAPES = {"line", "rect", "circle", "polyline"}


class Page(HTMLParser):
    """Tags with their attributes, the text outside scripts and styles, and what is left open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.scripts.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        assert tag in SHAPES, tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            self.scripts[-1] += data
        else:
            self.text += data

    def all(self, tag: str) -> list[dict[str, Any]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(content: Content) -> Page:
    return Page(render_html(content))


def test_every_element_is_closed_and_every_name_is_given_once(page: Page) -> None:
    assert page.open == []
    names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(names) == len(set(names))


def test_every_link_leads_to_a_place_on_the_page_and_nowhere_else(page: Page) -> None:
    names = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    links = [attrs["href"] for attrs in page.all("a")]
    assert len(links) > 30 and all(link[0] == "#" and link[1:] in names for link in links)
    assert not [attrs for _, attrs in page.tags if "src" in attrs or "style" in attrs]
    assert [attrs["href"] for attrs in page.all("link")] == ["data:,"]


def test_the_policy_lets_a_browser_use_our_style_and_script_alone(page: Page) -> None:
    [policy] = [one["content"] for one in page.all("meta") if "http-equiv" in one]
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy
    for kind, text in (("style", page.scripts[0]), ("script", page.scripts[-1])):
        found = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{found}'" in policy
    plain = [one for one in page.all("script") if "type" not in one]
    assert len(plain) == 1


def test_claims_scores_and_reasons_stand_in_the_text(page: Page, content: Content) -> None:
    assert str(content.board.claims[0]) in page.text
    assert "10 of 12" in page.text
    for cell in content.cells:
        assert f"{cell.row.score.mean:.3f}" in page.text
    for words in ("the loss became NaN at update 7", "not run yet", "collapsed", "0.875"):
        assert words in page.text
    assert "Of each cell at most 12 pairs of answers" in page.text
    assert "python 3.11.9, torch 2.13.0" in page.text and "0123456789ab" in page.text


def test_tables_have_captions_and_heads_with_a_scope(page: Page) -> None:
    assert len(page.all("table")) == len(page.all("caption")) > 5
    assert all("scope" in one for one in page.all("th"))


def test_the_browser_s_data_reads_back_as_what_was_answered(page: Page, content: Content) -> None:
    scripts = dict(
        zip((a["id"] for a in page.all("script") if a.get("id", "").startswith("answers-")),
            (text for text in page.scripts if text.startswith('[{"item"')), strict=True)
    )  # fmt: skip
    holders = [text for text in page.scripts if text.startswith('[{"prompt"')]
    items = dict(zip(content.tasks, map(json.loads, holders), strict=True))
    for cell in content.cells:
        assert cell.excerpt is not None
        told = json.loads(scripts[f"answers-{cell.id}"])
        for one, pair in zip(told, cell.excerpt.shown, strict=True):
            assert items[cell.row.task][one["item"]]["prompt"] == pair.ours.prompt
            assert one["adapter"]["output"] == pair.ours.output
            assert one["base"].get("parsed", one["base"]["output"]) == pair.theirs.parsed
            assert one["outcome"] == pair.outcome


def test_items_that_cells_share_are_in_the_file_once(content: Content) -> None:
    html = render_html(content)
    prompts = {p.ours.prompt for c in content.cells if c.excerpt for p in c.excerpt.shown}
    assert len(prompts) > 20
    for prompt in prompts:
        assert html.count(json.dumps(prompt)) == 1


def test_hostile_text_stays_text(hostile: Content) -> None:
    html = render_html(hostile)
    page = Page(html)
    assert page.open == []
    assert "<img" not in html and "</textarea" not in html and "<!-- " not in html
    assert len([one for one in page.all("script") if "type" not in one]) == 1
    assert HOSTILE in page.text  # the description, and the message of the failure
    data = [text for text in page.scripts if text.startswith("[{")]
    assert any(
        HOSTILE in one["prompt"] for text in data for one in json.loads(text) if "prompt" in one
    )


def test_json_on_a_page_reads_back_whatever_it_holds() -> None:
    held = as_json({"a": HOSTILE})
    assert "<" not in held and json.loads(held) == {"a": HOSTILE}


def test_an_unfinished_space_has_a_page_too(tmp_path: Any, space: Space) -> None:
    page = Page(render_html(gather(space, Storage.open(str(tmp_path)))))
    assert "0 of 12" in page.text and "nothing to claim" in page.text
    assert page.text.count("not run yet") == 12


def test_an_endpoint_has_its_columns_and_its_claim(studied: Storage, space: Space) -> None:
    from loraland.evaluation.samples import read_samples, write_samples

    found, _ = read_samples(studied, "samples/phi-2/boolq/base-x.parquet")
    write_samples(studied, "samples/gpt-x/boolq/all.parquet", found, {})
    page = Page(render_html(gather(space, studied, endpoints=["gpt-x"])))
    assert "lift over gpt-x" in page.text and "adapters beat gpt-x" in page.text
    assert "no samples and count for nothing" in page.text  # of the tasks it was not asked
