"""The page in a real browser, over a real HTTP server with a made-up model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import Engine
from starlette.testclient import TestClient

from loraland.cellar.database import open_database, url_of
from loraland.cellar.following import Follower
from loraland.cellar.host import Host
from loraland.cellar.pages import FRONT, LOST, add_page, files
from loraland.cellar.routes import create_app
from loraland.cellar.store import Store
from loraland.storage import Storage
from tests.serving.web_stage import listening

CHOSEN = "[...document.querySelectorAll('#picks h3')].map((one) => one.textContent)"


def test_files_are_sent_with_a_policy_that_allows_nothing_else() -> None:
    app = FastAPI()
    add_page(app)
    client = TestClient(app)
    for path, status in (("/", 200), ("/web/palate.js", 200), ("/web/x", 404), ("/web/a/b", 404)):
        answer = client.get(path)
        assert answer.status_code == status
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "unsafe" not in policy and "trusted-types 'none'" in policy
        assert "{root}" not in answer.text
    assert client.get("/web/palate.html").status_code == 404


def test_everything_that_the_page_names_is_there_and_comes_from_here() -> None:
    for page in (FRONT, LOST):
        text = files()[page].content.decode()
        assert "http:" not in text and "https:" not in text and "style=" not in text
        for name in re.findall(r'\{root\}web/([^"]+)"', text):
            assert name in files()
    for name, file in files().items():
        if name.endswith(".js"):
            for other in re.findall(r'from "\./([^"]+)"', file.content.decode()):
                assert other in files(), f"{name} imports {other}"
    assert "a reconstruction" in files()[FRONT].content.decode()
    assert "playground.js" not in files()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    place = tmp_path_factory.mktemp("people")
    opened = open_database(url_of(str(place / "people.db"), Storage.open(str(place))))
    yield opened
    opened.dispose()


@pytest.fixture(scope="module")
def url(engine: Engine, shelf_uri: str) -> Iterator[str]:
    host = Host(Store(engine), Follower(Storage.open(shelf_uri), "wine"))
    with listening(create_app(host)) as url:
        yield url


class Tab:
    """The page, and everything that it asked for or complained about."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        self.page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def wait(self, script: str, value: Any = None) -> None:
        """Until a function of the page is true. By turns, since the policy allows no eval."""
        for _ in range(600):
            if self.page.evaluate(script, value):
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"after a minute still not: {script}")

    def ready(self) -> None:
        self.wait(
            "() => document.querySelectorAll('.pick').length === 10"
            " && document.querySelectorAll('.card').length === 6"
            " && !document.querySelector('[aria-busy]')"
        )

    def judge(self, number: int, word: str) -> None:
        """Press a button of a card, and wait for what it changes."""
        with self.page.expect_response(lambda answer: "/v1/recommendations" in answer.url):
            self.page.locator(".card").nth(number).get_by_role("button", name=word).click()
        self.ready()


@pytest.fixture
def open_tab(browser: Any, url: str) -> Iterator[Any]:
    """Opens pages; nobody else was asked anything, and nothing complained."""
    tabs: list[Tab] = []

    def open_one(**options: Any) -> Tab:
        tabs.append(Tab(browser, url, **options))
        tabs[-1].ready()
        return tabs[-1]

    yield open_one
    for tab in tabs:
        assert tab.said == []
        assert [asked for asked in tab.asked if not asked.startswith(url)] == []


@pytest.mark.browser
def test_what_one_likes_becomes_palates_and_a_list_with_reasons(
    open_tab: Any, engine: Engine
) -> None:
    tab = open_tab()
    assert "Nothing said yet" in tab.locator("#basis").inner_text()
    liked = tab.locator(".card h3").first.inner_text()
    tab.judge(0, "I like it")
    tab.judge(1, "Not for me")
    assert "2 opinions" in tab.locator("#basis").inner_text()
    pressed = tab.locator(".card").first.get_by_role("button", name="I like it")
    assert pressed.get_attribute("aria-pressed") == "true"
    assert tab.locator(".palates li.preferred").count() >= 1
    assert tab.locator(".palates rect.theta").count() == 6
    for text in tab.locator(".pick .why").all_inner_texts():
        assert text.startswith("From the palate") and "such points usually cost" in text
    assert tab.locator(".pick .words li.shared").count() > 0
    assert tab.locator(".chart .dot").count() == 10 and tab.locator(".chart .usual").count() == 1
    assert "made up" in tab.locator("footer").inner_text()
    # The same person, in the same browser, later.
    tab.reload()
    tab.ready()
    assert "2 opinions" in tab.locator("#basis").inner_text()
    tab.locator("summary", has_text="What you said").click()
    assert liked in tab.locator("#said").inner_text()
    tab.locator(".pick summary").first.click()
    tab.locator(".pick .more", has_text="palates: ").first.wait_for()
    token = tab.evaluate("localStorage.getItem('grapevine-token')")
    for _ in range(100):
        kinds = [row["kind"] for row in Store(engine).events(token.partition(".")[0])]
        if "price_seen" in kinds:
            break
        tab.wait_for_timeout(100)
    assert kinds.count("clicked") == kinds.count("price_seen") == 1
    tab.locator(".pick").first.get_by_role("button", name="Tasted it").click()
    tab.locator("#basis", has_text="3 opinions").wait_for()


@pytest.mark.browser
def test_the_budget_cuts_and_the_keyboard_moves_it(open_tab: Any) -> None:
    tab = open_tab()
    slider = tab.get_by_label("Budget")
    slider.focus()
    for _ in range(55):
        tab.keyboard.press("ArrowLeft")
    told = slider.get_attribute("aria-valuetext")
    most = int(told.removeprefix("up to "))
    figures = "[...document.querySelectorAll('.pick .figures')].map((one) => one.textContent)"
    tab.wait(f"(most) => {figures}.every((text) => Number(text.split('costs ')[1]) <= most)", most)
    tab.ready()
    assert tab.locator(".chart .budget").count() == 1
    assert 4 < most < 200 and told in tab.locator("#budget-told").inner_text()
    before = tab.evaluate(f"{CHOSEN}.join('|')")
    tab.get_by_label("Value for money").select_option("ratio")
    tab.wait(f"(before) => {CHOSEN}.join('|') !== before", before)
    for _ in range(60):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.closest('.pick .verdict') !== null"):
            break
    tab.keyboard.press("Enter")
    tab.locator("#basis", has_text="1 opinion").wait_for()


@pytest.mark.browser
def test_a_wine_that_one_knows_is_found_and_liked(open_tab: Any) -> None:
    tab = open_tab()
    title = tab.locator(".pick h3").nth(3).inner_text()
    tab.get_by_text("Find a wine that you know").click()
    tab.get_by_label("Words of its title").fill(title)
    tab.keyboard.press("Enter")
    tab.locator("#found li", has_text=title).get_by_role("button", name="I like it").click()
    tab.locator("#basis", has_text="1 opinion").wait_for()
    tab.get_by_label("Words of its title").fill("nothing is called that")
    tab.get_by_role("button", name="Find", exact=True).click()
    tab.get_by_text("No title holds all of these words").wait_for()


@pytest.mark.browser
def test_other_cards_come_and_who_wishes_is_forgotten(open_tab: Any, engine: Engine) -> None:
    tab = open_tab()
    first = tab.locator(".card h3").all_inner_texts()
    tab.get_by_role("button", name="Other wines").click()
    tab.wait("(first) => !first.includes(document.querySelector('.card h3').textContent)", first)
    tab.judge(0, "I like it")
    token = tab.evaluate("localStorage.getItem('grapevine-token')")
    assert Store(engine).person_of(token)
    tab.on("dialog", lambda dialog: dialog.accept())
    tab.get_by_role("button", name="Forget me").click()
    tab.locator("#basis", has_text="Nothing said yet").wait_for()
    assert tab.evaluate("localStorage.getItem('grapevine-token')") != token
    assert Store(engine).events(token.partition(".")[0]) == []


@pytest.mark.browser
def test_somebody_whom_the_server_does_not_know_becomes_somebody_new(
    open_tab: Any, engine: Engine
) -> None:
    tab = open_tab()
    old = tab.evaluate("localStorage.getItem('grapevine-token')")
    Store(engine).forget(old.partition(".")[0])
    tab.reload()
    tab.ready()
    assert tab.evaluate("localStorage.getItem('grapevine-token')") != old
    assert tab.said and all("401" in text for text in tab.said)  # the browser's own note
    tab.said.clear()


@pytest.mark.browser
def test_trouble_is_told_on_the_page(browser: Any, engine: Engine, shelf_uri: str) -> None:
    host = Host(Store(engine), Follower(Storage.open(shelf_uri), "wine"))
    with listening(create_app(host)) as url:
        tab = Tab(browser, url)
        tab.ready()
    tab.get_by_label("Value for money").select_option("ratio")
    tab.locator(".trouble", has_text="The server cannot be reached").wait_for()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1440])
def test_the_page_fits_and_keeps_the_rules_of_accessible_pages(
    open_tab: Any, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    tab = open_tab(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.judge(0, "I like it")
    for name in ("Find a wine that you know", "What you said"):
        tab.locator("summary", has_text=name).click()
    tab.locator(".pick summary").first.click()
    tab.locator(".pick .more", has_text="palates: ").first.wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    found = Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in paper[4:-1].split(",")) < 3 * 128
    assert dark == (scheme == "dark")
