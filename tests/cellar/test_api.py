from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from loraland.cellar.config import CellarLimits
from loraland.cellar.host import Host
from loraland.cellar.pace import Pace
from loraland.cellar.routes import create_app
from loraland.cellar.store import Store
from loraland.errors import RateLimited, error_of
from loraland.palate.model import PalateModel
from loraland.palate.words import spellings


class Person:
    """Somebody who asks."""

    def __init__(self, client: TestClient) -> None:
        self._client = client
        answer = client.post("/v1/people")
        assert answer.status_code == 201 and answer.headers["cache-control"] == "no-store"
        self.id, self.token = answer.json()["id"], answer.json()["token"]
        self._events = 0

    def get(self, path: str, status: int = 200, **query: Any) -> Any:
        answer = self._client.get(path, params=query, headers=self.headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = self._client.post(path, content=content, headers=self.headers)
        assert answer.status_code == status, answer.text
        return answer.json()

    def say(self, kind: str, *items: str, status: int = 200, **more: Any) -> Any:
        events = []
        for item in items:
            self._events += 1
            events.append({"id": f"e{self._events}", "kind": kind, "item": item, **more})
        return self.post("/v1/events", {"events": events}, status)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"}


@pytest.fixture
def client(host: Host) -> Iterator[TestClient]:
    with TestClient(create_app(host)) as client:
        yield client


@pytest.fixture
def person(client: TestClient) -> Person:
    return Person(client)


def test_from_cards_to_a_list_with_reasons(
    person: Person, model: PalateModel, store: Store
) -> None:
    cards = person.get("/v1/cards", n=6)["cards"]
    assert len({card["palate_id"] for card in cards}) == 6
    before = person.get("/v1/palates")
    assert before["opinions"] == 0 and not any(one["preferred"] for one in before["palates"])
    person.say("liked", cards[0]["key"])
    person.say("disliked", cards[1]["key"])
    after = person.get("/v1/palates")
    theta = {one["id"]: one["theta"] for one in after["palates"]}
    assert sum(theta.values()) == pytest.approx(1)
    assert max(theta, key=lambda palate: theta[palate]) == cards[0]["palate_id"]
    assert after["palates"][0]["preferred"] and after["opinions"] == 2
    usual = after["palates"][0]["usual"]
    assert [p for p, _ in usual] == sorted(p for p, _ in usual) and usual[0][1] <= usual[-1][1]

    shelf = person.get("/v1/recommendations", n=5, budget=60)
    assert shelf["model"] == {
        "name": "wine", "version": shelf["model"]["version"], "items": len(model.catalogue),
        "made_up": True, "cheapest": before["model"]["cheapest"],
        "dearest": before["model"]["dearest"],
    }  # fmt: skip
    assert len(shelf["picks"]) == 5
    for rank, pick in enumerate(shelf["picks"], start=1):
        assert pick["rank"] == rank and pick["price"] <= 60
        assert pick["key"] not in {cards[0]["key"], cards[1]["key"]}
        text = model.catalogue.texts[model.catalogue.index[pick["key"]]]
        written = set(spellings(text).values())
        assert {*pick["why"]["shared"], *pick["why"]["typical"]} <= written
        assert pick["why"]["sentence"].startswith("from the palate")
    shown = [row for row in store.events(person.id) if row["kind"] == "shown"]
    assert [row["item"] for row in shown] == [pick["key"] for pick in shelf["picks"]]
    for row, pick in zip(shown, shelf["picks"], strict=True):
        for name in ("rank", "propensity", "quota", "price"):
            assert row[name] == pick[name]
        assert (row["list_id"], row["palate"]) == (shelf["list"], pick["palate_id"])
        assert row["model_version"] == shelf["model"]["version"]
    # A palate whose one place went to a guess is not among those of the list.
    quotas = {pick["palate_id"]: pick["quota"] for pick in shelf["picks"]}
    assert 5 - sum(pick["is_guess"] for pick in shelf["picks"]) <= sum(quotas.values()) <= 5


def test_a_list_that_is_asked_again_is_the_same_and_was_shown_once(
    person: Person, store: Store
) -> None:
    card = person.get("/v1/cards")["cards"][0]["key"]
    person.say("liked", card)
    lists = [person.get("/v1/recommendations", list=f"l{n % 8}") for n in range(16)]
    assert lists[:8] == lists[8:]
    shown = [row for row in store.events(person.id) if row["kind"] == "shown"]
    assert len(shown) == 80
    guesses = [one["picks"][-1] for one in lists if one["picks"][-1]["is_guess"]]
    assert all(0 < guess["propensity"] <= 0.15 for guess in guesses)
    assert all(pick["propensity"] == 1 for one in lists for pick in one["picks"][:-1])
    person.say("disliked", card)
    told = person.get("/v1/recommendations", status=409, list="l0")["error"]
    assert told["code"] == "event_conflict" and "each list" in told["message"]


def test_lists_explore_now_and_then_and_say_how_likely_that_was(person: Person) -> None:
    person.say("liked", person.get("/v1/cards")["cards"][0]["key"])
    last = [person.get("/v1/recommendations", list=f"a{n}")["picks"][-1] for n in range(30)]
    assert {pick["is_guess"] for pick in last} == {True, False}
    assert all((pick["propensity"] < 0.5) == pick["is_guess"] for pick in last)


def test_everything_that_can_happen_to_an_item_is_kept(person: Person, store: Store) -> None:
    item = person.get("/v1/cards")["cards"][0]["key"]
    for kind in ("clicked", "tasted", "liked", "disliked"):
        person.say(kind, item, list="a-list", at_ms=1_700_000_000_000)
    person.say("price_seen", item, price=12.5)
    rows = store.events(person.id)
    assert [row["kind"] for row in rows] == [
        "clicked", "tasted", "liked", "disliked", "price_seen",
    ]  # fmt: skip
    assert rows[0]["at_ms"] == 1_700_000_000_000 and rows[0]["list_id"] == "a-list"
    assert rows[4]["price"] == 12.5
    assert all(row["palate"] and row["model_version"] for row in rows)
    wine = person.get(f"/v1/wines/{item}")
    assert wine["verdict"] == "disliked" and wine["words"]
    assert sum(one["share"] for one in wine["palates"]) <= 1 + 1e-6
    assert [one["key"] for one in person.get("/v1/opinions")["items"]] == [item]


def test_the_latest_word_on_a_wine_counts(person: Person) -> None:
    item = person.get("/v1/cards")["cards"][0]["key"]
    person.say("liked", item)
    liked = person.get("/v1/palates")["palates"]
    person.say("disliked", item)
    person.say("tasted", item)  # no word against the last one
    person.say("liked", item, at_ms=1_000)  # sent late: it was before
    assert person.get(f"/v1/wines/{item}")["verdict"] == "disliked"
    disliked = person.get("/v1/palates")["palates"]
    assert disliked[0]["id"] != liked[0]["id"]


def test_events_sent_twice_change_nothing(person: Person) -> None:
    items = [card["key"] for card in person.get("/v1/cards", n=3)["cards"]]
    events = [{"id": f"x{n}", "kind": "liked", "item": item} for n, item in enumerate(items)]
    assert person.post("/v1/events", {"events": events}) == {"new": 3, "known": 0}
    theta = person.get("/v1/palates")
    assert person.post("/v1/events", {"events": events}) == {"new": 0, "known": 3}
    assert [p["id"] for p in person.get("/v1/palates")["palates"]] == [
        p["id"] for p in theta["palates"]
    ]
    events[0]["kind"] = "disliked"
    assert person.post("/v1/events", {"events": events}, 409)["error"]["code"] == "event_conflict"


def test_disliking_everything_still_gives_a_list_and_says_how(person: Person) -> None:
    cards = person.get("/v1/cards", n=24)["cards"]
    for _ in range(6):
        if not cards:
            break
        person.say("disliked", *[card["key"] for card in cards])
        cards = person.get("/v1/cards", n=24)["cards"]
    shelf = person.get("/v1/recommendations")
    assert len(shelf["picks"]) == 10
    assert any("disliked least" in note for note in shelf["notes"])
    assert not any(one["preferred"] for one in person.get("/v1/palates")["palates"])


def test_cards_that_were_answered_do_not_come_again(person: Person) -> None:
    seen: set[str] = set()
    for _ in range(5):
        cards = [card["key"] for card in person.get("/v1/cards", n=4)["cards"]]
        assert len(cards) == 4 and not seen & set(cards)
        person.say("liked", cards[0])
        person.say("disliked", *cards[1:])
        seen |= set(cards)


def test_a_wine_that_somebody_knows_is_found_by_its_title(
    person: Person, model: PalateModel
) -> None:
    title = model.catalogue.titles[7]
    [found] = person.get("/v1/wines", q=title)["items"]
    assert found == {"key": model.catalogue.keys[7], "title": title, "verdict": None}
    assert person.get("/v1/wines", q="no such wine at all")["items"] == []


@pytest.mark.parametrize("budget", [0.01, 3.0])
def test_a_budget_below_everything_names_the_cheapest(person: Person, budget: float) -> None:
    told = person.get("/v1/recommendations", status=400, budget=budget)["error"]
    assert told["code"] == "invalid_request" and "the cheapest costs" in told["message"]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"budget": "-5"}, ["budget"]),
        ({"budget": "nan"}, ["budget"]),
        ({"budget": "inf"}, ["budget"]),
        ({"budget": "1e300"}, ["budget"]),
        ({"n": "0", "objective": "price"}, ["n", "objective"]),
        ({"n": "51", "budget_kind": "none"}, ["n", "budget_kind"]),
        ({"list": "a:b"}, ["list"]),
        ({"list": "x" * 49}, ["list"]),
    ],
)
def test_all_mistakes_of_a_query_are_told(
    person: Person, query: dict[str, str], names: list[str]
) -> None:
    told = person.get("/v1/recommendations", status=400, **query)["error"]
    assert told["type"] == "invalid_request_error" and told["param"] == names[0]
    assert all(f"{name}: " in told["message"] for name in names)


def event(**changed: Any) -> dict[str, Any]:
    return {"events": [{"id": "1", "kind": "liked", "item": "KEY"} | changed]}


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"{", 400, "not JSON"),
        (b"[]", 400, "must be a JSON object"),
        (b'{"events": [{"id": "\\ud800", "kind": "liked", "item": "a"}]}', 400, "surrogate"),
        ({}, 400, "events: field required"),
        ({"events": []}, 400, "events"),
        ({"events": event()["events"] * 101}, 400, "at most 100"),
        (event(more=1), 400, "events.0.more"),
        (event(kind="shown"), 400, "events.0.kind"),
        (event(id="a:b"), 400, "events.0.id"),
        (event(id="x" * 65), 400, "events.0.id"),
        (event(id=""), 400, "events.0.id"),
        (event(item="0" * 16), 404, "no item '0000000000000000'"),
        (event(item="x\u0000y"), 404, "no item"),
        (event(item="x" * 201), 400, "events.0.item"),
        (event(at_ms=-1), 400, "events.0.at_ms"),
        (event(at_ms=4_000_000_000_000), 400, "ahead of this server's clock"),
        (event(at_ms=1.5), 400, "events.0.at_ms"),
        (event(price=3), 400, "goes with kind 'price_seen'"),
        (event(kind="price_seen"), 400, "goes with kind 'price_seen'"),
        (event(kind="price_seen", price=0), 400, "events.0.price"),
        (b"x" * 70_000, 400, "larger than 65536 bytes"),
        (b'{"events": ' + b"[" * 30_000, 400, "not JSON"),
    ],
)
def test_bad_events_are_refused_with_a_reason_and_nothing_is_kept(
    person: Person, model: PalateModel, store: Store, body: Any, status: int, told: str
) -> None:
    if isinstance(body, dict):
        body = json.loads(json.dumps(body).replace("KEY", model.catalogue.keys[0]))
    answer = person.post("/v1/events", body, status)
    assert told in answer["error"]["message"].lower() or told in answer["error"]["message"]
    assert type(error_of(answer["error"]["code"], "")).status == status
    assert store.events(person.id) == []


def test_a_batch_with_one_unknown_wine_keeps_none(
    person: Person, model: PalateModel, store: Store
) -> None:
    person.say("liked", model.catalogue.keys[0], "nothing", status=404)
    assert store.events(person.id) == []


ASKED = [
    ("GET", "/v1/cards"), ("GET", "/v1/recommendations"), ("GET", "/v1/palates"),
    ("GET", "/v1/opinions"), ("GET", "/v1/wines?q=a"), ("GET", "/v1/wines/a"),
    ("POST", "/v1/events"), ("DELETE", "/v1/people/me"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ASKED)
def test_nobody_gets_in_without_the_right_token(
    client: TestClient, person: Person, method: str, path: str
) -> None:
    wrong = ["", "Bearer", "Bearer x", f"Basic {person.token}", f"Bearer {person.token[:-1]}"]
    wrong += [f"Bearer {'0' * 16}.{person.token.partition('.')[2]}", f"Bearer {person.id}"]
    for given in wrong:
        answer = client.request(method, path, headers={"authorization": given} if given else {})
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    twice = [("authorization", f"Bearer {person.token}")] * 2
    assert client.request(method, path, headers=twice).status_code == 401


def test_every_address_but_a_few_is_in_the_list_of_those_that_need_a_token(
    client: TestClient,
) -> None:
    schema = client.get("/openapi.json").json()
    there = {(m.upper(), path) for path, ways in schema["paths"].items() for m in ways}
    asked = {(m, p.partition("?")[0].replace("/a", "/{key}")) for m, p in ASKED}
    assert there - asked == {("GET", "/health"), ("POST", "/v1/people")}


def test_people_do_not_see_each_other_and_may_be_forgotten(client: TestClient) -> None:
    one, other = Person(client), Person(client)
    item = one.get("/v1/cards")["cards"][0]["key"]
    one.say("liked", item)
    other.say("disliked", item)
    assert one.get(f"/v1/wines/{item}")["verdict"] == "liked"
    assert other.get(f"/v1/wines/{item}")["verdict"] == "disliked"
    assert client.delete("/v1/people/me", headers=one.headers).status_code == 204
    assert one.get("/v1/palates", status=401)["error"]["code"] == "invalid_api_key"
    assert other.get("/v1/palates")["opinions"] == 1


def test_who_asks_too_fast_is_told_when_to_come_again(host: Host) -> None:
    limits = CellarLimits(person_per_minute=18, people_per_minute=12)
    with TestClient(create_app(host, limits)) as client:
        one, other = Person(client), Person(client)
        assert client.post("/v1/people").status_code == 429
        for _ in range(3):
            one.get("/v1/palates")
        answer = client.get("/v1/palates", headers=one.headers)
        assert answer.status_code == 429 and 1 <= int(answer.headers["retry-after"]) <= 4
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        other.get("/v1/palates")


def test_a_pace_lets_through_what_it_says_and_forgets_the_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("loraland.cellar.pace.MOST_KNOWN", 2)
    now = [0.0]
    pace = Pace(60, lambda: now[0])
    passed = 0
    for tick in range(1200):  # two minutes, ten a second
        now[0] = tick / 10
        try:
            pace.take("a")
            passed += 1
        except RateLimited:
            pass
    assert 119 <= passed <= 130
    for name in ("b", "c"):
        pace.take(name)
    assert list(pace._buckets) == ["b", "c"]


def test_requests_beyond_what_a_server_holds_are_refused_at_once(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(person: str) -> Any:
        entered.set()
        assert leave.wait(20)
        return original(person)

    original: Callable[[str], Any] = host.palates
    monkeypatch.setattr(host, "palates", slow)
    with TestClient(create_app(host, CellarLimits(requests=1))) as client:
        person = Person(client)
        thread = threading.Thread(target=lambda: person.get("/v1/palates"))
        thread.start()
        assert entered.wait(20)
        answer = client.get("/health")
        leave.set()
        thread.join()
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "gateway_busy")
        assert client.get("/health").status_code == 200


def test_what_fails_unexpectedly_is_an_error_in_our_shape_without_a_trace(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(person: str) -> Any:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(host, "palates", broken)
    with TestClient(create_app(host)) as client:
        person = Person(client)
        told = person.get("/v1/palates", status=500)["error"]
    assert told["code"] == "internal_error" and "secret" not in told["message"]
    assert "a secret detail" in caplog.text and person.token not in caplog.text


def test_a_database_that_is_gone_is_a_503_that_tells_no_statement(
    person: Person, store: Store
) -> None:
    with store._writer.begin() as connection:
        connection.exec_driver_sql("DROP TABLE palate_people")
    told = person.get("/v1/palates", status=503)["error"]
    assert told["code"] == "storage_unavailable" and "palate_people" not in told["message"]


def test_an_answer_that_takes_too_long_is_a_504(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave = threading.Event()
    monkeypatch.setattr(host, "palates", lambda person: leave.wait(20))
    with TestClient(create_app(host, CellarLimits(request_seconds=0.2))) as client:
        assert Person(client).get("/v1/palates", status=504)["error"]["code"] == "request_timed_out"
        leave.set()


def test_other_addresses_and_methods_are_told_in_the_same_shape(client: TestClient) -> None:
    for method, path, status in (("GET", "/v1/nothing", 404), ("PUT", "/v1/events", 405)):
        answer = client.request(method, path)
        assert answer.status_code == status and "see /docs" in answer.json()["error"]["message"]
    health = client.get("/health").json()
    assert health["status"] == "ok" and len(health["model"]["version"]) == 12
    with pytest.raises(Exception), client.websocket_connect("/v1/palates"):  # noqa: B017
        pass
