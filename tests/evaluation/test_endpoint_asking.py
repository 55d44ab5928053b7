"""Asking a server that misbehaves, over real connections, without waiting for real seconds."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from loraland.errors import (
    BudgetExhausted,
    ContextTooLong,
    EndpointGarbled,
    EndpointRefused,
    EndpointUnavailable,
    StorageCorrupt,
)
from loraland.evaluation.endpoint import Endpoint
from loraland.evaluation.endpoint_answers import Answer, Answers, SpendBook, spent_before
from loraland.evaluation.endpoint_asking import GIVE_UP_AFTER, Asking, Purse, Surroundings
from loraland.evaluation.endpoint_budget import NOTHING, Budget, Spend, cost, most_usage
from loraland.evaluation.endpoint_client import Client
from loraland.evaluation.endpoint_replies import MOST_BYTES, Trouble
from loraland.storage import Storage
from tests.evaluation.crooked import (
    KEY,
    Crooked,
    crooked,
    drips,
    fails,
    half_a_body,
    hangs,
    huge,
    no_http,
    resets,
    says,
    sends,
)

PRICED = {
    "usd_per_million_input_tokens": 1,
    "usd_per_million_output_tokens": 1,
    "max_usd": 1,
}


@pytest.fixture
def server() -> Iterator[Crooked]:
    with crooked() as running:
        yield running


@dataclass
class Outcome:
    """What became of some prompts."""

    found: dict[str, Answer]  # by prompt
    troubles: dict[str, Trouble]  # by prompt
    asking: Asking
    slept: list[float] = field(default_factory=list)

    @property
    def budget(self) -> Budget:
        return self.asking.purse.budget

    @property
    def trouble(self) -> Trouble:
        [one] = self.troubles.values()
        return one


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path / "storage"))


def ask(
    endpoint: Endpoint,
    storage: Storage,
    *prompts: str,
    key: str | None = KEY,
    sleep: Any = None,
) -> Outcome:
    """Ask prompts of 8 tokens; pauses are noted, not slept."""
    slept: list[float] = []

    async def note(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> Outcome:
        before = spent_before(storage, endpoint.name)
        book = SpendBook(storage, endpoint.name, f"run{before.tokens}", before)
        purse = Purse(Budget(endpoint, before), book, endpoint.concurrency)
        client = Client(endpoint, key)
        around = Surroundings(sleep or note, lambda: 0.0)
        asking = Asking(endpoint, client, purse, Answers(storage, endpoint), around)
        bodies = {prompt: endpoint.body(prompt, ("\n",), 8) for prompt in prompts or ("Q",)}
        try:
            found, troubles = await asking.ask_all(bodies, lambda: None)
        finally:
            await client.close()
            book.close(purse.budget)
        return Outcome(found, troubles, asking, slept)

    return asyncio.run(run())


def test_what_is_sent_is_the_prompt_the_key_and_nothing_from_the_environment(
    server: Crooked, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "of-somebody-else")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Team: of-somebody-else")
    ask(server.endpoint(), storage)
    ask(server.endpoint(api="completions"), storage, key=None)
    chat, completion = server.seen
    assert chat.path == "/v1/chat/completions" and completion.path == "/v1/completions"
    assert chat.headers["authorization"] == f"Bearer {KEY}"
    assert "authorization" not in completion.headers
    assert chat.body["messages"] == [{"role": "user", "content": "Q"}]
    assert completion.body == {"model": "gpt-x", "prompt": "Q", "max_tokens": 8, "temperature": 0}
    assert "of-somebody-else" not in repr(server.seen)


def test_an_answer_is_kept_with_who_gave_it_and_what_it_cost(
    server: Crooked, storage: Storage
) -> None:
    server.script = [says("yes", model="gpt-y", system_fingerprint="fp_1", tokens=(10, 3))]
    endpoint = server.endpoint(**PRICED)
    outcome = ask(endpoint, storage)
    [kept] = outcome.found.values()
    assert (kept.text, kept.model, kept.system_fingerprint) == ("yes", "gpt-y", "fp_1")
    assert kept.usd == Decimal("0.000013") == outcome.budget.spent.usd
    again = Answers(storage, endpoint).known([endpoint.key(kept.request)])
    assert list(again.values()) == [kept]


def test_a_wait_that_the_server_asks_for_is_honoured(server: Crooked, storage: Storage) -> None:
    server.script = [fails(429, retry_after="7"), fails(503, retry_after="2")]
    outcome = ask(server.endpoint(), storage)
    assert outcome.slept == [7.0, 2.0] and len(server.seen) == 3
    assert outcome.found["Q"].text == "positive"


def test_a_wait_that_is_too_long_ends_the_attempts(server: Crooked, storage: Storage) -> None:
    server.script = [fails(429, retry_after="86400")]
    outcome = ask(server.endpoint(), storage)
    assert outcome.slept == [] and len(server.seen) == 1
    assert "it asks to wait 86400 s" in outcome.trouble.error.message


def test_errors_of_the_server_are_asked_again_as_often_as_is_said(
    server: Crooked, storage: Storage
) -> None:
    server.otherwise = fails(500, message="overloaded")
    outcome = ask(server.endpoint(attempts=4), storage)
    assert len(server.seen) == 4 and outcome.slept == [0.5, 1.0, 2.0]
    assert isinstance(outcome.trouble.error, EndpointUnavailable)
    assert "overloaded (attempt 4, the last)" in outcome.trouble.error.message
    assert outcome.budget.committed == NOTHING  # a status other than 200 is not charged


@pytest.mark.parametrize("act", [half_a_body, resets, no_http], ids=lambda act: act.__name__)
def test_a_broken_connection_is_tried_again_and_may_have_been_charged(
    server: Crooked, storage: Storage, act: Any
) -> None:
    server.script = [act]
    outcome = ask(endpoint := server.endpoint(), storage)
    assert outcome.found["Q"].text == "positive" and len(server.seen) == 2
    most = cost(endpoint, most_usage(endpoint, endpoint.body("Q", (), 8)))
    assert outcome.budget.committed == Spend(most.usd, most.tokens + 9)


@pytest.mark.parametrize("slow", [hangs, drips], ids=lambda act: act.__name__)
def test_an_attempt_ends_when_its_time_is_over(
    server: Crooked, storage: Storage, slow: Any
) -> None:
    server.script = [slow(server)]
    outcome = ask(server.endpoint(timeout_s=0.3), storage)
    assert outcome.found["Q"].text == "positive" and len(outcome.slept) == 1


def test_nobody_listens(server: Crooked, storage: Storage) -> None:
    outcome = ask(server.endpoint(url="http://127.0.0.1:9/v1", attempts=2), storage)
    assert isinstance(outcome.trouble.error, EndpointUnavailable)
    assert len(outcome.slept) == 1


@pytest.mark.parametrize(
    "act",
    [
        sends(200, b"<html>Bad gateway</html>", content_type="text/html"),
        sends(200, b"{", content_type="application/json"),
        sends(200, b'{"choices": []}', content_type="application/json"),
        sends(200, b"\x1f\x8b\x08", content_encoding="gzip"),
        sends(200, b"x" * (MOST_BYTES + 1)),
        huge,
    ],
    ids=["html", "half json", "no choices", "compressed", "large", "endless"],
)
def test_garbage_is_asked_again_and_never_kept(server: Crooked, storage: Storage, act: Any) -> None:
    server.otherwise = act
    outcome = ask(server.endpoint(attempts=2), storage)
    assert isinstance(outcome.trouble.error, EndpointGarbled)
    assert len(server.seen) == 2 and storage.walk("answers") == []


def test_an_error_without_end_is_not_read(server: Crooked, storage: Storage) -> None:
    server.otherwise = sends(400, b"x" * (MOST_BYTES + 1))
    outcome = ask(server.endpoint(attempts=1), storage)
    assert isinstance(outcome.trouble.error, EndpointGarbled)


@pytest.mark.parametrize(("status", "code"), [(401, None), (404, "model_not_found")])
def test_a_refusal_of_everything_is_not_asked_again_and_ends_the_run(
    server: Crooked, storage: Storage, status: int, code: str | None
) -> None:
    server.otherwise = fails(status, code)
    outcome = ask(server.endpoint(), storage, *"ABCDEF")
    assert len(server.seen) == 1 and outcome.slept == []
    assert isinstance(outcome.asking.ended, EndpointRefused)


def test_a_redirect_takes_the_key_nowhere(server: Crooked, storage: Storage) -> None:
    with crooked() as other:
        server.otherwise = sends(307, b"", location=f"{other.url}/chat/completions")
        outcome = ask(server.endpoint(), storage)
        assert other.seen == [] and isinstance(outcome.asking.ended, EndpointRefused)


def test_a_prompt_that_is_too_long_harms_no_other(server: Crooked, storage: Storage) -> None:
    server.script = [fails(400, "context_length_exceeded")] * 8
    outcome = ask(server.endpoint(), storage, *"ABCDEFGHI")
    assert len(outcome.troubles) == 8 and list(outcome.found) == ["I"]
    assert {type(one.error) for one in outcome.troubles.values()} == {ContextTooLong}
    assert len(storage.walk("answers")) == 1


def test_an_outage_ends_the_run_and_single_failures_do_not(
    server: Crooked, storage: Storage
) -> None:
    server.script = [fails(500), says("yes")] * 10
    outcome = ask(server.endpoint(attempts=1), storage, *"ABCDEFGHIJKLMNOPQRST")
    assert len(outcome.found) == len(outcome.troubles) == 10 and outcome.asking.ended is None
    server.otherwise = fails(500)
    outcome = ask(server.endpoint(attempts=1, edition="2"), storage, *"ABCDEFGHIJKLMNOPQRST")
    assert len(outcome.troubles) == GIVE_UP_AFTER and outcome.asking.ended is not None


def test_no_more_requests_are_open_than_are_allowed_and_that_many_are(
    server: Crooked, storage: Storage
) -> None:
    import threading

    together = threading.Barrier(4, timeout=20)

    def meets(handler: Any, seen: Any) -> None:
        together.wait()  # passes only with four at a time
        says("yes")(handler, seen)

    server.otherwise = meets
    outcome = ask(server.endpoint(concurrency=4, timeout_s=60), storage, *map(str, range(20)))
    assert len(outcome.found) == 20 and server.at_once == 4


def test_a_cap_is_never_exceeded_and_is_used(server: Crooked, storage: Storage) -> None:
    """Each request is reserved at 73 + 1 tokens and costs 9."""
    endpoint = server.endpoint(max_total_tokens=200, concurrency=8)
    outcome = ask(endpoint, storage, *map(str, range(40)))
    assert isinstance(outcome.asking.ended, BudgetExhausted)
    assert outcome.budget.reserved == NOTHING
    assert outcome.budget.spent.tokens == 9 * len(outcome.found) <= 200
    assert 200 - 9 * len(outcome.found) < 73  # what is left was not enough for another one
    more = ask(endpoint, storage, "another")  # a cap is of all runs together
    assert isinstance(more.asking.ended, BudgetExhausted) and more.found == {}


def test_a_server_that_charges_more_than_it_was_allowed_is_asked_no_more(
    server: Crooked, storage: Storage
) -> None:
    server.otherwise = says("yes", tokens=(1000, 1000))
    outcome = ask(server.endpoint(max_total_tokens=500), storage, *"ABCD")
    assert len(server.seen) == 1 and outcome.budget.spent.tokens == 2000
    assert isinstance(outcome.asking.ended, BudgetExhausted)


def test_what_may_be_spent_is_on_disk_before_it_can_be(server: Crooked, storage: Storage) -> None:
    endpoint = server.endpoint(max_total_tokens=100_000, concurrency=2)
    noted: list[tuple[int, int]] = []

    def looks(handler: Any, seen: Any) -> None:
        noted.append((spent_before(storage, endpoint.name).tokens, len(server.seen)))
        says("yes")(handler, seen)

    server.otherwise = looks
    outcome = ask(endpoint, storage, *map(str, range(10)))
    assert all(on_disk >= 73 * min(2, sent) for on_disk, sent in noted)
    assert spent_before(storage, endpoint.name) == outcome.budget.spent == Spend(Decimal(0), 90)


def test_answers_and_what_they_cost_last_on_any_storage(server: Crooked, storage_uri: str) -> None:
    endpoint = server.endpoint()
    first = ask(endpoint, Storage.open(storage_uri), "A", "B")
    storage = Storage.open(storage_uri)
    assert spent_before(storage, endpoint.name) == Spend(Decimal(0), 18)
    keys = {endpoint.key(one.request): one for one in first.found.values()}
    assert Answers(storage, endpoint).known([*keys, "0" * 32]) == keys
    for bad in (b"", b'{"usd": "NaN", "tokens": 1}', b'{"usd": "-1", "tokens": 1}', b"[]"):
        storage.write(f"endpoints/{endpoint.name}/spent/bad.json", bad)
        with pytest.raises(StorageCorrupt, match="true numbers"):
            spent_before(storage, endpoint.name)


def test_a_cancelled_run_counts_what_was_under_way(server: Crooked, storage: Storage) -> None:
    endpoint = server.endpoint(timeout_s=60)
    server.script = [says("yes"), fails(500)]

    async def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask(endpoint, storage, "A", "B", sleep=interrupted)
    assert spent_before(storage, endpoint.name).tokens >= 9
    assert len(storage.walk("answers")) == 1


def test_a_damaged_answer_is_told_and_not_believed(server: Crooked, storage: Storage) -> None:
    endpoint = server.endpoint()
    ask(endpoint, storage, "A", "B")
    first, second = storage.walk("answers")
    keys = [endpoint.key(endpoint.body(prompt, ("\n",), 8)) for prompt in "AB"]
    answers = Answers(storage, endpoint)
    assert set(answers.known(keys)) == set(keys)
    good = storage.read(f"answers/{first}")
    for bad in (b"", b"{}", storage.read(f"answers/{second}"), good[:-20]):
        storage.write(f"answers/{first}", bad)
        with pytest.raises(StorageCorrupt, match="delete the file"):
            answers.known(keys)


def test_no_key_is_logged(
    server: Crooked, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    server.script = [fails(500), fails(429, message=KEY), half_a_body, resets, says(KEY)]
    ask(server.endpoint(attempts=6), storage)
    assert len(server.seen) == 5 and caplog.records
    assert KEY not in caplog.text
    kept = [storage.read(f"answers/{path}") for path in storage.walk("answers")]
    assert len(kept) == 1 and KEY.encode() not in kept[0]
