"""The pages' files: types, caching, policy, and names that try to leave their folder."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from loraland.report.excerpt import OUTCOMES
from loraland.report.wording import SIGNS, VERDICTS
from loraland.serving.page_files import TYPES
from loraland.serving.site import FRONT, LOST, PAGES, add_pages, files


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    add_pages(app)
    return TestClient(app)


def test_pages_are_at_the_root_and_below_web(client: TestClient) -> None:
    for path in ("/", *(f"/web/{name}" for name in PAGES)):
        answer = client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, TYPES[".html"])
        assert answer.text.startswith("<!doctype html>") and "{root}" not in answer.text


def test_every_file_has_its_type_and_lets_nothing_in_from_elsewhere(client: TestClient) -> None:
    parts = [name for name in files() if not name.endswith(".html")]
    assert {Path(name).suffix for name in parts} == {".css", ".js", ".svg"}
    for name in parts:
        answer = client.get(f"/web/{name}")
        assert answer.status_code == 200 and answer.content
        assert answer.headers["content-type"] == TYPES[Path(name).suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = dict(
            one.strip().partition(" ")[::2]
            for one in answer.headers["content-security-policy"].split(";")
        )
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["script-src"] == policy["connect-src"] == "'self'"
        assert "unsafe" not in str(policy) and "http" not in str(policy)


def test_everything_that_a_page_names_is_there(client: TestClient) -> None:
    for page in (FRONT, LOST, *PAGES.values()):
        text = files()[page].content.decode()
        assert "http:" not in text and "https:" not in text and "style=" not in text
        for name in re.findall(r'\{root\}web/([^"]+)"', text):
            assert name in files() or name in PAGES, f"{page} names {name}"
    for name, file in files().items():
        if name.endswith(".js"):
            for other in re.findall(r'from "\./([^"]+)"', file.content.decode()):
                assert other in files(), f"{name} imports {other}"


def test_a_file_that_the_browser_holds_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/web/site.css")
    assert first.headers["cache-control"] == "no-cache"
    for held in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = client.get("/web/site.css", headers={"if-none-match": held})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    stale = client.get("/web/site.css", headers={"if-none-match": '"another"'})
    assert stale.status_code == 200


def test_head_tells_the_length_and_sends_nothing(client: TestClient) -> None:
    for path in ("/", "/web/site.css", "/web/nothing"):
        got, told = client.get(path), client.head(path)
        assert (told.status_code, told.content) == (got.status_code, b"")
        assert told.headers["content-length"] == str(len(got.content))
        assert told.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2f..%2f..%2fetc/passwd", "%2e%2e/site.py", "..%5csite.py", "//etc/passwd",
        "site.css/", "site.css%00.js", "site.py", "__init__.py", FRONT, LOST, "a/b/c",
    ],
)  # fmt: skip
def test_a_name_that_is_no_file_of_the_pages_is_a_page_that_says_so(
    client: TestClient, name: str
) -> None:
    answer = client.get(f"/web/{name}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == TYPES[".html"]
    assert "There is no such page" in answer.text and "root:" not in answer.text


def test_links_of_the_lost_page_lead_home_from_any_depth(client: TestClient) -> None:
    for path in ("/web/a", "/web/a/b", "/web/a/b/"):
        [link] = re.findall('href="([^"]+site.css)"', client.get(path).text)
        assert urljoin(f"http://here{path}", link) == "http://here/web/site.css"
    assert client.post("/web/site.css").status_code == 405


def test_words_and_colours_are_those_of_the_report() -> None:
    ours = files()["format.js"].content.decode()
    theirs = (resources.files("loraland.report") / "templates" / "report.html").read_text("utf-8")
    for key, words in OUTCOMES.items():
        assert f'{key}: "{words}"' in ours
    for verdict, words in VERDICTS.items():
        assert f'{verdict or "null"}: "{words}"' in ours
    for verdict, sign in SIGNS.items():
        assert not sign or f'{verdict}: "{sign}"' in ours
    legend = re.findall(r'\("(d-?\d)", "([^"]+)"\)', theirs)
    assert len(legend) == 9
    for step, words in legend:
        assert f'["{step}", "{words}"]' in ours
        assert f"--{step}:" in files()["tokens.css"].content.decode()
