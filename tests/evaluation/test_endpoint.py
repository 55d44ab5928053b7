from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from loraland.engine.text import cut_at_stop
from loraland.errors import InvalidConfiguration
from loraland.evaluation.endpoint import (
    Endpoint,
    key_from,
    load_endpoint,
    parse_endpoint,
    sendable,
)
from loraland.tasks.catalogue import all_tasks

ROOT = Path(__file__).resolve().parents[2]
LEAST = {"name": "gpt", "url": "https://api.example.com/v1/", "model": "gpt-x"}


def made(**changes: Any) -> Endpoint:
    return parse_endpoint(yaml.safe_dump(LEAST | changes), "gpt.yaml")


def mistakes(**changes: Any) -> str:
    with pytest.raises(InvalidConfiguration) as caught:
        made(**changes)
    return caught.value.message


def test_the_documented_example_is_one() -> None:
    endpoint = load_endpoint(ROOT / "docs" / "endpoint.yaml")
    assert endpoint.api_key_env == "OPENAI_API_KEY"
    assert endpoint.max_usd is not None


def test_all_mistakes_are_told_together() -> None:
    told = mistakes(name="GPT 4", concurrency=0, modell="x", api="responses")
    for place in ("name:", "concurrency:", "modell:", "did you mean 'model'", "api:"):
        assert place in told


def test_a_key_in_the_file_is_refused_and_not_repeated() -> None:
    secret = "sk-abc-123-secret"
    for field in ("api_key", "api_key_env", "concurrency", "api"):
        assert secret not in mistakes(**{field: secret})
    assert "the name of an environment variable" in mistakes(api_key_env=secret)
    with pytest.raises(InvalidConfiguration) as caught:
        parse_endpoint(f"name: gpt\napi_key: '{secret}\n", "gpt.yaml")
    assert secret not in caught.value.message and "line" in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@example.com/v1",
        "https://example.com/v1?api-key=secret",
        "https://example.com/v1#secret",
        "ftp://example.com/secret",
        "https:///secret",
        "http://example.com:secret/v1",
        "https://secret.example.com/v1/chat/completions",
    ],
)
def test_a_url_that_may_hold_a_secret_or_leads_nowhere_is_refused(url: str) -> None:
    told = mistakes(url=url)
    assert "url:" in told and "secret" not in told.replace("may hold secrets", "")


def test_the_name_of_a_base_is_refused() -> None:
    assert "name of a base" in mistakes(name="smollm2-135m")
    assert "name of a base" in mistakes(name="tiny-phi-2")


def test_prices_need_a_cap_and_a_cap_needs_prices() -> None:
    prices = {"usd_per_million_input_tokens": 2.5, "usd_per_million_output_tokens": 10}
    assert "belong together" in mistakes(**prices)
    assert "belong together" in mistakes(max_usd=5)
    assert "both prices" in mistakes(usd_per_million_input_tokens=1, max_usd=5)
    assert made(**prices, max_usd=0.1).max_usd == Decimal("0.1")
    assert made(max_total_tokens=1000).max_usd is None


def test_the_key_comes_from_the_named_variable() -> None:
    endpoint = made(api_key_env="SOME_KEY")
    assert key_from(endpoint, {"SOME_KEY": "sk-12345678\n"}) == "sk-12345678"
    assert key_from(made(), {"OPENAI_API_KEY": "sk-12345678"}) is None
    with pytest.raises(InvalidConfiguration, match="SOME_KEY, which is not set"):
        key_from(endpoint, {"OTHER": "x"})
    for bad in ("short", "sk-12345678\n0", "sk-12345678é"):
        with pytest.raises(InvalidConfiguration) as caught:
            key_from(endpoint, {"SOME_KEY": bad})
        assert bad not in caught.value.message
    assert "sk-" not in repr(endpoint) + json.dumps(endpoint.identity)


def test_a_chat_is_one_message_of_the_user() -> None:
    body = made().body("Q:\nA:", ("\n",), 64)
    assert body == {
        "model": "gpt-x",
        "messages": [{"role": "user", "content": "Q:\nA:"}],
        "max_tokens": 64,
        "temperature": 0,
    }
    body = made(system="Be brief.", length_field="max_completion_tokens").body("Q", (), 8)
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert body["max_completion_tokens"] == 8 and "max_tokens" not in body


def test_a_completion_is_the_prompt_as_it_is() -> None:
    body = made(api="completions", send_temperature=False).body("Q:\nA:", ("END",), 64)
    assert body == {"model": "gpt-x", "prompt": "Q:\nA:", "max_tokens": 64, "stop": ["END"]}


def test_stops_are_sent_unless_one_could_end_an_answer_before_its_first_word() -> None:
    assert sendable(["END", "", "Q:"]) == ["END", "Q:"]
    for stops in (["\n", "END"], ["\nQuestion:"], ["END", " "], ["A", "B", "C", "D", "E"]):
        assert sendable(stops) == []


words = st.text(alphabet="ab \n.", max_size=12)


@given(words, st.lists(st.text(alphabet="ab \n.", min_size=1, max_size=3), max_size=5))
def test_a_server_that_stops_at_what_is_sent_changes_no_answer(text: str, stops: list[str]) -> None:
    """What a server cuts off is what would have been cut off here."""
    given_back = cut_at_stop(text, sendable(stops))
    assert cut_at_stop(given_back, stops, trim=True) == cut_at_stop(text, stops, trim=True)


def test_no_task_of_the_catalogue_has_more_stops_than_may_be_sent() -> None:
    assert all(len(task.stop) <= 4 for task in all_tasks())


def test_the_key_of_an_answer_covers_all_that_decides_it_and_nothing_else() -> None:
    def key(prompt: str = "Q", stops: tuple[str, ...] = (), tokens: int = 8, **changes: Any) -> str:
        endpoint = made(**changes)
        return endpoint.key(endpoint.body(prompt, stops, tokens))

    others = [
        key(prompt="R"),
        key(stops=("END",)),
        key(tokens=9),
        key(url="https://other.example.com/v1"),
        key(model="gpt-y"),
        key(api="completions"),
        key(system="Be brief."),
        key(send_temperature=False),
        key(length_field="max_completion_tokens"),
        key(edition="2026-07"),
    ]
    assert len({key(), *others}) == len(others) + 1
    same = key(name="other", concurrency=2, timeout_s=9, attempts=1, api_key_env="K")
    assert same == key() == key(max_total_tokens=9, url="https://api.example.com/v1")
