"""The pages in a real browser, over a real HTTP server whose models play a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loraland.matrix.space import load_space
from loraland.storage import Storage
from loraland.strata.shelf import digest
from tests.report.fabricated import HOSTILE, version_of
from tests.serving.web_stage import (
    BASE,
    BROKEN,
    EVIL,
    KEY,
    SLOW,
    Player,
    furnish,
    listening,
    stage,
)
from tests.strata.fabricated import GROUPS, fabricate_audit
from tests.strata.fabricated import HOSTILE as HOSTILE_EXAMPLE

pytestmark = pytest.mark.browser

DATES = f"{BASE}/dates@{version_of(load_space('embedded').cells[0])}"
AUDIT, PICTURES = (digest({"made": kind}) for kind in ("language", "images"))
ALL = ("playground", "leaderboard", "cell", "strata", "pictures", "fleet")


class Tab:
    """A page, and everything that it asked for or complained about."""

    def __init__(self, browser: Any, url: str, path: str = "/", **options: Any) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.url = url
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url + path)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def texts(self, selector: str) -> list[str]:
        return list(self.page.locator(selector).all_inner_texts())

    def wait(self, script: str, value: Any = None) -> None:
        """Until a function of the page is true. By turns, since the policy allows no eval."""
        for _ in range(600):
            if self.page.evaluate(script, value):
                return
            self.page.wait_for_timeout(100)
        pytest.fail(f"after a minute still not: {script}")

    def run(self, text: str | None = None) -> None:
        """Ask, once the form is filled."""
        self.page.locator("#columns textarea").first.wait_for()
        if text is not None:
            self.page.locator("#columns textarea").first.fill(text)
        self.wait("() => document.querySelector('#prompt b')?.textContent")
        self.page.get_by_role("button", name="Run", exact=True).click()

    def done(self) -> None:
        self.page.locator("#run:visible").wait_for()
        self.page.locator(".answer.done").first.wait_for()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    storage = Storage.open(str(tmp_path_factory.mktemp("stage")))
    furnish(storage)
    fabricate_audit(storage)
    fabricate_audit(storage, images=True)
    return storage


@pytest.fixture(scope="module")
def player(storage: Storage) -> Player:
    return Player(storage, pause_s=0.005)


@pytest.fixture(scope="module")
def url(storage: Storage, player: Player) -> Iterator[str]:
    with listening(stage(storage, player)) as url:
        yield url


@pytest.fixture
def open_tab(browser: Any, url: str) -> Iterator[Callable[..., Tab]]:
    """Opens pages; nobody else was asked anything, and nothing complained."""
    tabs: list[Tab] = []

    def open_one(path: str = "/", **options: Any) -> Tab:
        tabs.append(Tab(browser, url, path, **options))
        return tabs[-1]

    yield open_one
    for tab in tabs:
        assert tab.said == []
        assert [asked for asked in tab.asked if not asked.startswith(url)] == []


def test_adapter_and_base_answer_side_by_side(open_tab: Any, player: Player) -> None:
    tab = open_tab()
    tab.run()
    tab.done()
    columns = tab.texts(".answer")
    expected = tab.locator("#expected pre").inner_text()
    assert len(columns) == 2 and len(expected) == 10
    assert columns[0].split("\n")[0].startswith("dates") and f"@{DATES[-12:]}" in columns[0]
    assert expected in columns[0] and "the expected answer" in columns[0]
    assert columns[1].startswith(BASE) and "not the expected text" in columns[1]
    for column in columns:
        assert "first token" in column and "tokens/s" in column and "ended by itself" in column
    # What follows the task's stop is there, in grey, and does not count.
    assert tab.texts(".answer.ours pre span.after") == ["\nText: and so on"]
    asked = player.orders[-2:]
    assert {str(order.model) for order in asked} == {DATES, BASE}
    assert {order.temperature for order in asked} == {0.0}
    assert tab.texts("#prompt") == [asked[0].prompts[0]] == [asked[1].prompts[0]]
    tokens = f"{len(str(asked[0].prompts[0]).split())} tokens"
    tab.locator("#tokens", has_text=tokens).wait_for()


def test_the_card_tells_score_lift_recipe_data_and_version(open_tab: Any) -> None:
    tab = open_tab()
    card = tab.locator(".card")
    card.wait_for()
    text = card.inner_text()
    for told in ("+0.50", "0.80", "0.30", "20 held-out items", "rank 8", "192 rows", "latest"):
        assert told in text
    assert DATES[-12:] in text
    tab.get_by_text("All of the card").click()
    assert "python 3.11.9" in card.inner_text()


def test_an_address_leads_to_the_same_question_and_no_server_sees_it(open_tab: Any) -> None:
    tab = open_tab()
    tab.locator("#prompt b").first.wait_for()
    tab.get_by_role("button", name="Example 3").click()
    tab.locator("#columns textarea").fill("the 2nd of May 1999")
    tab.locator("#temperature").fill("0.5")
    tab.locator("#seed").fill("7")
    tab.locator("#add").select_option(label=tab.locator("#add option").nth(1).inner_text())
    tab.get_by_role("button", name="Copy link").click()
    tab.locator("#status", has_text="copied").wait_for()
    link = tab.evaluate("navigator.clipboard.readText()")
    assert "May" in link.partition("#")[2] and "May" not in link.partition("#")[0]
    other = open_tab(link.removeprefix(tab.url))
    other.locator("#prompt b", has_text="the 2nd of May 1999").wait_for()
    assert other.locator("#temperature").input_value() == "0.5"
    assert other.locator("#seed").input_value() == "7"
    assert other.locator("#models li").count() == tab.locator("#models li").count() == 3
    assert not [asked for asked in other.asked if "May" in asked.partition("#")[0]]


def test_a_run_can_be_stopped_and_ends_at_the_server(open_tab: Any, player: Player) -> None:
    tab = open_tab()
    before = len(player.ended)
    tab.run(SLOW)
    tab.wait("() => document.querySelector('.answer pre')?.textContent.includes(' 3')")
    assert tab.evaluate("document.activeElement.id") == "stop"
    tab.keyboard.press("Enter")
    tab.done()
    assert tab.texts(".answer .numbers") == ["stopped", "stopped"]
    assert tab.locator("#status").inner_text() == "Stopped."
    for _ in range(600):
        if len(player.ended) - before == 2:
            break
        tab.wait_for_timeout(100)
    assert set(player.ended[before:]) == {DATES, BASE}


def test_a_column_that_fails_leaves_the_others_alone(open_tab: Any) -> None:
    tab = open_tab()
    tab.run(BROKEN)
    tab.done()
    tab.locator(".answer:not(.ours) .numbers", has_text="tokens/s").wait_for()
    assert "the logits of this row were not numbers" in tab.locator(".answer.ours").inner_text()
    assert tab.locator("#status").inner_text() == "Done: 1 of 2 answered."


def test_an_answer_that_is_markup_stays_text(open_tab: Any) -> None:
    tab = open_tab()
    title = tab.title()
    tab.run(EVIL)
    tab.done()
    shown = "".join(tab.texts(".answer.ours pre"))
    assert shown.replace("\u2028", "\n") == HOSTILE.replace("\u2028", "\n")
    assert tab.locator(".answers img, .answers script").count() == 0 and tab.title() == title


def test_a_base_alone_answers_any_prompt(open_tab: Any, player: Player) -> None:
    tab = open_tab()
    tab.locator("#prompt b").first.wait_for()
    tab.locator("#category").select_option("Any prompt")
    tab.locator("#columns textarea[name=prompt]").wait_for()
    tab.run("Once upon a time")
    tab.done()
    assert str(player.orders[-1].model) == BASE
    assert player.orders[-1].prompts == ("Once upon a time",)
    assert "7 tokens" in tab.texts(".answer")[0]


def test_an_empty_registry_says_what_to_type(browser: Any, tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    with listening(stage(storage, Player(storage), fleet=False)) as url:
        tab = Tab(browser, url)
        tab.get_by_text("No adapter yet").wait_for()
        assert f"loraland train {BASE} dates" in tab.locator("#intro").inner_text()
        tab.locator("#columns textarea").fill("hello")
        tab.run()
        tab.done()
        assert tab.said == []
        tab.goto(f"{url}/web/leaderboard")
        tab.get_by_text("Nothing is finished yet").wait_for()
        tab.goto(f"{url}/web/strata")
        tab.get_by_text("No audit yet").wait_for()
        assert "loraland strata audit BASE/TASK" in tab.locator("#content").inner_text()
        tab.goto(f"{url}/web/fleet")
        tab.get_by_text("This gateway does not tell").wait_for()


def test_the_filter_leaves_rows_and_columns_that_have_its_words(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=paper")
    tab.locator("table.heat").wait_for()
    assert tab.locator("table.heat tbody tr").count() == 31
    tab.get_by_label("Filter").fill("GEMMA-2B done")
    tab.wait("() => document.querySelectorAll('table.heat tbody tr').length === 3")
    heads = [text.replace("\n", "") for text in tab.texts(".field-head")]
    assert heads == ["gemma-2b", "gemma-2b-instruct", "bases shown"]
    assert tab.locator("#shown").inner_text() == "3 of 31 tasks, 2 of 10 bases"
    tab.get_by_label("Filter").fill("no such thing")
    tab.get_by_role("button", name="Show all").click()
    assert tab.locator("table.heat tbody tr").count() == 31
    tab.get_by_label("Category").select_option("Classic NLP")
    assert 0 < tab.locator("table.heat tbody tr").count() < 31


def test_a_head_sorts_its_column_and_keeps_the_focus(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=paper")
    tab.locator("table.heat").wait_for()
    given = tab.texts("table.heat tbody th")
    for order in ("descending", "ascending"):
        tab.get_by_role("button", name="phi-2", exact=True).click()
        assert tab.locator("th[aria-sort]").get_attribute("aria-sort") == order
        lines = [text.split("\n")[0] for text in tab.texts("table.heat tbody th")]
        assert set(lines[:3]) == {"boolq", "viggo", "drop"}  # what is not known stays last
        assert tab.evaluate("document.activeElement.textContent") == "phi-2"
    tab.get_by_role("button", name="phi-2", exact=True).click()
    assert tab.texts("table.heat tbody th") == given


def test_the_report_s_figures_are_a_second_line(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=paper")
    tab.locator("table.heat").wait_for()
    assert tab.locator(".report").count() == 0
    tab.get_by_label("The report's figures").check()
    told = tab.texts(".report")
    assert len(told) == 6 and all(text.startswith("report +") for text in told)
    assert "nothing here is tested against it" in tab.locator("#published-note").inner_text()


def test_a_cell_opens_its_answers_with_the_broken_ones_first(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=embedded")
    tab.locator("button.field").first.click()
    tab.locator(".sample").first.wait_for()
    assert tab.locator(".sample").count() == 10
    assert tab.texts(".sample h4 b")[:3] == [
        "base right, adapter wrong", "base right, adapter wrong", "base wrong, adapter right",
    ]  # fmt: skip
    tab.get_by_role("button", name="Show more").click()
    tab.locator(".sample").nth(19).wait_for()
    tab.get_by_role("button", name="both wrong").click()
    tab.wait("() => document.querySelectorAll('.sample').length === 2")
    prompt = tab.texts(".sample .asked")[1]
    tab.get_by_label("Search in the answers").fill(prompt.split("\n")[1].upper())
    tab.wait("() => document.querySelectorAll('.sample').length === 1")
    assert tab.texts(".sample .asked") == [prompt]
    tab.get_by_role("button", name="Close").click()
    tab.locator("dialog").wait_for(state="detached")
    assert tab.evaluate("document.activeElement.className").startswith("field")


def test_an_item_of_a_cell_is_asked_again_in_the_playground(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=embedded")
    tab.locator("button.field").first.click()
    prompt = tab.locator(".sample .asked").first.inner_text()
    tab.get_by_role("link", name="Ask it again").first.click()
    tab.locator("#prompt b").first.wait_for()
    assert tab.locator("#prompt").inner_text() == prompt


def test_a_failed_cell_says_why_and_marks_are_told(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=embedded")
    tab.locator("button.field.failed").wait_for()
    labels = [one.get_attribute("aria-label") for one in tab.locator("button.field").all()]
    assert f"{BASE} on topics" in labels[1] and labels[1].endswith("better, collapsed run")
    tab.locator("button.field.failed").click()
    tab.locator("dialog", has_text="training_diverged").wait_for()
    told = tab.locator("dialog").inner_text()
    assert "training_diverged: the loss became NaN" in told and "3 attempts" in told
    assert "<script>" in told and tab.locator("dialog script, dialog img").count() == 0
    address = tab.evaluate("location.hash")
    tab.keyboard.press("Escape")
    tab.locator("dialog").wait_for(state="detached")
    assert "cell=" in address and "cell=" not in tab.evaluate("location.hash")
    other = open_tab(f"/web/leaderboard{address}")
    other.locator("dialog", has_text="training_diverged").wait_for()


def test_arrow_keys_move_between_fields(open_tab: Any) -> None:
    tab = open_tab("/web/leaderboard#space=paper")
    tab.locator("button.field").first.focus()
    focused = "document.activeElement.getAttribute('aria-label').split(':')[0]"
    assert tab.locator("button.field[tabindex='0']").count() == 1
    for key, expected in (
        ("ArrowRight", "llama-2-7b-chat on bc5cdr"),
        ("ArrowDown", "llama-2-7b-chat on conllpp"),
        ("ArrowLeft", "llama-2-7b on conllpp"),
        ("ArrowLeft", "llama-2-7b on conllpp"),
    ):
        tab.keyboard.press(key)
        assert tab.evaluate(focused) == expected
    tab.keyboard.press("Enter")
    tab.locator("dialog", has_text="not run yet").wait_for()


def test_the_fleet_is_shown_live(open_tab: Any) -> None:
    tab = open_tab("/web/fleet")
    section = tab.get_by_role("region", name=BASE, exact=True)
    tab.wait("() => document.querySelector('.tile dd')?.textContent.match(/^\\d+$/)")
    text = section.inner_text()
    for told in ("2 replicas", "12 running", "hits", "more than the 4 slots", "misses are due"):
        assert told in text
    rows = tab.texts(f"[aria-label='Adapters of {BASE}'] tbody tr")
    assert len(rows) == 5 and "device" in rows[0] and "host" in rows[-1]
    assert "pinned" in rows[0] and "9.0 MiB" in rows[0] and "3.2 ms" in rows[0]
    points = "document.querySelector('.spark polyline')?.getAttribute('points').split(' ')"
    tab.wait(f"() => {points}?.length >= 3")
    tab.get_by_role("button", name="Pause").click()
    when = tab.locator("#when").inner_text()
    tab.wait_for_timeout(2500)
    assert tab.locator("#when").inner_text() == when
    tab.get_by_role("button", name="Go on").click()
    tab.wait("(when) => document.getElementById('when').textContent !== when", when)


def test_an_audit_shows_whom_a_classifier_fails_and_what_is_inside(open_tab: Any) -> None:
    tab = open_tab(f"/web/strata#audit={AUDIT}")
    tab.locator(".examples li").first.wait_for()
    rows = tab.texts("[aria-label='Strata with their scores'] tbody tr")
    worst = tab.locator("tr.worst").inner_text()
    assert rows[0] == worst and "land/" in worst and "50" in worst
    assert tab.locator("h2", has_text="Inside land/").count() == 1
    assert "lake" in tab.texts(".words li")[0] and tab.locator(".examples li").count() == 8
    assert f"known as {GROUPS[0]}" in tab.texts(".examples li")[0]
    assert tab.locator(".map circle, .map path").count() == 200
    chosen = tab.locator(".map .chosen").count()
    assert chosen == 50
    trained = tab.texts("[aria-label='Retrained classifiers with their scores'] tbody tr")
    assert len(trained) == 2 and "GEORGE" in trained[1] and "0.90" in trained[1]
    other = tab.locator("button.stratum").nth(1)
    name = other.inner_text()
    other.click()
    tab.locator("h2", has_text=f"Inside {name}").wait_for()
    assert tab.evaluate("document.activeElement.textContent") == name
    again = open_tab("/web/strata" + tab.evaluate("location.hash"))
    again.locator("h2", has_text=f"Inside {name}").wait_for()


def test_examples_of_an_audit_that_are_markup_stay_text(open_tab: Any) -> None:
    tab = open_tab(f"/web/strata#audit={AUDIT}")
    title = tab.title()
    for number in range(tab.locator("button.stratum").count() or 1):
        tab.locator("button.stratum").nth(number).click()
        tab.locator(".examples li").first.wait_for()
        if HOSTILE_EXAMPLE in "".join(tab.texts(".examples p")):
            break
    else:
        pytest.fail("no hostile example was shown")
    assert tab.locator("main img, main script").count() == 0 and tab.title() == title


def test_an_audit_of_images_shows_pictures(open_tab: Any) -> None:
    tab = open_tab("/web/strata")
    tab.locator(".examples li").first.wait_for()
    tab.locator("#audit").select_option(PICTURES)
    tab.locator(".pixels").first.wait_for()
    assert tab.locator(".examples .pixels").count() == 8
    assert tab.locator(".pixels").first.get_attribute("aria-label").startswith("mean image")


def test_a_figure_that_is_not_told_is_unknown(browser: Any, storage: Storage) -> None:
    app = stage(storage, Player(storage), fleet=False)

    @app.get("/v1/fleet")
    async def fleet() -> Any:
        replica = {"replica": "r1", "stats": {"running": 3}, "adapters": None}
        return {"at": "2026-11-25T12:00:00+00:00", "bases": [{"base": BASE, "replicas": [replica]}]}

    app.router.routes.insert(0, app.router.routes.pop())
    with listening(app) as url:
        tab = Tab(browser, url, "/web/fleet")
        tab.locator(".tile").first.wait_for()
        text = tab.locator(".base").inner_text()
        assert "3 running" in text and "unknown waiting" in text
        assert tab.locator(".unknown").count() >= 2 and "NaN" not in text
        assert "undefined" not in text and "null" not in text
        assert tab.said == []


def test_a_key_is_asked_for_and_kept_in_the_tab_only(browser: Any, storage: Storage) -> None:
    player = Player(storage)
    with listening(stage(storage, player, keys=True)) as url:
        tab = Tab(browser, url)
        dialog = tab.get_by_role("dialog", name="API key")
        dialog.wait_for()
        tab.get_by_label("Key", exact=True).fill("a wrong one")
        tab.keyboard.press("Enter")
        dialog.get_by_text("not known here").wait_for()
        tab.get_by_label("Key", exact=True).fill(KEY)
        tab.get_by_role("button", name="Use this key").click()
        tab.run()
        tab.done()
        assert "the expected answer" in tab.texts(".answer")[0]
        kept = tab.evaluate(
            "[Object.values(sessionStorage), localStorage.length, document.cookie, location.href]"
        )
        assert kept[:3] == [[KEY], 0, ""] and KEY not in kept[3]
        assert not [asked for asked in tab.asked if KEY in asked]
        tab.goto(f"{url}/web/leaderboard")
        tab.locator("table.heat").wait_for()  # without being asked again
        tab.get_by_role("button", name="API key").click()
        tab.get_by_role("button", name="Forget the key").click()
        assert tab.evaluate("sessionStorage.length") == 0
        # A browser notes each 401 by itself; there is nothing else.
        assert [text for text in tab.said if "401" not in text] == []


def test_without_a_key_the_page_says_so(browser: Any, storage: Storage) -> None:
    with listening(stage(storage, Player(storage), keys=True)) as url:
        tab = Tab(browser, url)
        tab.get_by_role("button", name="Cancel").click()
        tab.locator(".trouble", has_text="A key is needed.").wait_for()


def test_a_server_that_is_gone_is_told(browser: Any, storage: Storage) -> None:
    with listening(stage(storage, Player(storage))) as url:
        tab = Tab(browser, url)
        tab.locator("#prompt b").first.wait_for()
    tab.run()
    tab.locator(".trouble", has_text="The server cannot be reached").wait_for()
    assert tab.locator("#run").is_visible() and tab.locator("#stop").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1440])
@pytest.mark.parametrize("name", ALL)
def test_pages_fit_and_keep_the_rules_of_accessible_pages(
    open_tab: Any, name: str, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    paths = {"playground": "/", "fleet": "/web/fleet"}
    paths |= {"strata": f"/web/strata#audit={AUDIT}", "pictures": f"/web/strata#audit={PICTURES}"}
    path = paths.get(name, "/web/leaderboard#space=embedded")
    tab = open_tab(path, viewport={"width": width, "height": 800}, color_scheme=scheme)
    if name == "playground":
        tab.run()
        tab.done()
        tab.get_by_text("All of the card").click()
    elif name == "fleet":
        tab.locator(".tile").first.wait_for()
    elif name in ("strata", "pictures"):
        tab.locator(".examples li").first.wait_for()
    else:
        tab.locator("table.heat").wait_for()
        tab.locator("#published-note").evaluate("node => { node.hidden = false; }")
    if name == "cell":
        tab.locator("button.field").first.click()
        tab.locator(".sample").first.wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    found = Axe().run(tab.page)
    assert found.violations_count == 0, found.generate_report()
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(int(part) for part in paper[4:-1].split(",")) < 3 * 128
    assert dark == (scheme == "dark")
