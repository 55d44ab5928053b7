"""An answer that is given whole and began anew has nothing of its first beginning."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from loraland.adapters.names import ModelName
from loraland.serving.access.gate import Access
from loraland.serving.access.guard import _Usage
from loraland.serving.config import Limits
from loraland.serving.orders import AGAIN
from loraland.serving.routes import create_app

END = {
    "choice": 0, "finish_reason": "stop", "prompt_tokens": 3, "generated_tokens": 2,
    "stop_string": False, "queue_ms": 0.0, "total_ms": 0.0,
}  # fmt: skip
PARTS = [{"choice": 0, "text": "void"}, AGAIN, {"choice": 0, "text": "good"}, END]


class Names:
    bases = ("tiny",)

    async def resolve(self, name):
        return ModelName.parse(name)


class Dying:
    """A service whose replica ends half-way through what is given whole."""

    def __init__(self):
        self.directory, self.limits, self.orders = Names(), Limits(), []

    async def complete(self, order):
        self.orders.append(order)
        for part in PARTS if order.whole else PARTS[2:]:
            yield part


@pytest.fixture
def service():
    return Dying()


@pytest.fixture
def client(service):
    return TestClient(create_app(service, Access(service.limits)))


def texts_of(path, answer):
    if path == "/generate":
        return [answer["generated_text"]]
    if path == "/v1/compare":
        return [one["text"] for one in answer["answers"]]
    [choice] = answer["choices"]
    assert answer["usage"]["completion_tokens"] == 2
    return [choice["message"]["content"] if "message" in choice else choice["text"]]


CHAT = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": "hi"}),
        ("/v1/chat/completions", {"model": "tiny", "messages": CHAT}),
        ("/generate", {"inputs": "hi"}),
        ("/v1/compare", {"models": ["tiny", "tiny/dates"], "prompt": "hi"}),
    ],
)
def test_of_every_api(client, service, path, body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert set(texts_of(path, answer.json())) == {"good"}
    assert all(order.whole for order in service.orders)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"model": "tiny", "prompt": "hi", "stream": True}),
        ("/generate_stream", {"inputs": "hi"}),
        ("/v1/compare", {"models": ["tiny", "tiny/dates"], "prompt": "hi", "stream": True}),
    ],
)
def test_a_stream_is_never_asked_to_begin_anew(client, service, path, body):
    assert client.post(path, json=body).status_code == 200
    assert service.orders
    assert not any(order.whole for order in service.orders)


def test_what_a_replica_that_died_had_made_is_not_counted(client, service):
    client.post("/v1/completions", json={"model": "tiny", "prompt": "hi"})
    usage = _Usage(service.orders[0])
    for part in PARTS:
        usage.add(part)
    assert (usage.prompt_tokens, usage.generated_tokens) == (3, 2)
