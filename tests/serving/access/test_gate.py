"""The whole HTTP side behind keys and limits, over a service that plays a script."""

from __future__ import annotations

import asyncio
import json
import logging

import httpx2
import pytest
from starlette.routing import Match
from starlette.testclient import TestClient

from loraland.errors import EngineFailed
from loraland.serving.access.gate import ID_HEADER, Access
from loraland.serving.access.keys import read_key
from loraland.serving.access.policy import Need, need_of
from loraland.serving.config import Limits
from loraland.serving.routes import create_app


def error_of(answer):
    return answer.json()["error"]


# Every route is closed.


def routes_of(app):
    """(method, path) of every route, with something in place of each parameter."""
    for route in app.routes:
        for method in sorted(getattr(route, "methods", None) or {"GET"}):
            yield method, route.path.replace("{name:path}", "tiny/dates").replace("{name}", "tiny")


def test_without_a_key_every_route_but_the_open_ones_is_401(new_shop):
    shop = new_shop()
    app = shop.apps[0]

    @app.api_route("/v1/brand-new", methods=["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
    async def brand_new():
        return "reached"

    client, seen = shop.client(), set()
    for method, path in routes_of(app):
        answer = client.request(method, path)
        is_open = need_of(method, path) is Need.NOTHING
        assert (answer.status_code == 401) is not is_open, (method, path)
        assert "reached" not in answer.text
        seen.add((method, path, is_open))
    assert ("POST", "/v1/completions", False) in seen
    assert ("DELETE", "/v1/brand-new", False) in seen
    assert ("GET", "/health", True) in seen
    assert {path for method, path, is_open in seen if is_open} <= {
        "/health",
        "/",
        "/web/tiny/dates",
    }


def test_a_new_route_is_reached_by_reading_with_a_wide_key_and_by_all_else_with_an_admin_key(
    new_shop,
):
    shop = new_shop()

    @shop.apps[0].api_route("/v1/brand-new", methods=["GET", "POST"])
    async def brand_new():
        return "reached"

    some, wide = shop.keys.create("some", models=["tiny/*"]), shop.keys.create("wide")
    admin = shop.keys.create("admin", admin=True)
    for key, reading, changing in [(some, 403, 403), (wide, 200, 403), (admin, 200, 200)]:
        assert shop.client(key).get("/v1/brand-new").status_code == reading
        assert shop.client(key).post("/v1/brand-new").status_code == changing


def test_addresses_without_a_route_and_websockets_are_closed_too(new_shop):
    shop = new_shop()
    assert shop.client().get("/nothing").status_code == 401
    assert shop.client().get("/web/../v1/models").status_code == 401
    assert shop.client(shop.keys.create("a")).get("/nothing").status_code == 404
    with pytest.raises(Exception) as caught, shop.client().websocket_connect("/v1/completions"):
        pass
    assert getattr(caught.value, "code", None) == 1008


def test_a_path_that_only_looks_open_is_matched_by_no_closed_route(new_shop):
    """The gate goes by the path, the router by its own rules: they must not disagree."""
    app = new_shop().apps[0]
    for path in ("/health/", "/web/", "/web/v1/models", "/web/../v1/completions"):
        scope = {"type": "http", "method": "GET", "path": path, "headers": []}
        if need_of("GET", path) is Need.NOTHING:
            matched = [r.path for r in app.routes if r.matches(scope)[0] is Match.FULL]
            assert all(one.startswith("/web/") for one in matched), path


# Who asks.


@pytest.mark.parametrize(
    "header",
    [
        None,
        "KEY",
        "Basic KEY",
        "Bearer",
        "Bearer none",
        "Bearer KEYx",
        "Bearer  , KEY",
    ],
)
def test_a_key_that_is_not_one_is_401_in_openai_s_shape(new_shop, header):
    shop = new_shop()
    key = shop.keys.create("a")
    headers = {} if header is None else {"authorization": header.replace("KEY", key.text)}
    answer = shop.client().get("/v1/models", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert error_of(answer)["code"] == "invalid_api_key"
    assert "loraland keys create" in error_of(answer)["message"]
    assert key.text not in answer.text


def test_two_keys_in_one_request_are_none(new_shop):
    shop = new_shop()
    bearer = f"Bearer {shop.keys.create('a').text}"
    twice = [("authorization", bearer), ("authorization", bearer)]
    assert shop.client().get("/v1/models", headers=twice).status_code == 401


def test_a_key_opens_and_a_revoked_one_does_not(new_shop):
    shop = new_shop()
    key, gone = shop.keys.create("a"), shop.keys.create("b")
    shop.keys.revoke(gone.record.id)
    assert shop.ask(key).json()["choices"][0]["text"] == "ab"
    assert (
        shop.client().get("/v1/models", headers={"authorization": f"bearer {key.text}"}).is_success
    )
    assert shop.ask(gone).status_code == 401


# Which models.


def test_a_key_for_one_adapter_gets_403_for_others_whether_they_exist_or_not(new_shop):
    shop = new_shop()
    key = shop.keys.create("a", models=["tiny/dates"])
    assert shop.ask(key).status_code == 200
    told = set()
    for name in ("tiny/secret", "tiny/secret@ba9876543210", "tiny/nobody", "tiny", "other/dates"):
        answer = shop.ask(key, model=name)
        assert (answer.status_code, error_of(answer)["code"]) == (403, "model_not_allowed")
        told.add(error_of(answer)["message"].replace(f"'{name}'", "NAME"))
        assert shop.client(key).get(f"/v1/models/{name}").status_code == 403
    assert len(told) == 1
    assert len(shop.service.orders) == 1


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "s3://bucket/adapter", "a\\..\\b"]
)
def test_a_path_or_a_bucket_is_no_model(new_shop, name):
    shop = new_shop()
    for models in (["*"], ["tiny/dates"]):
        answer = shop.ask(shop.keys.create("a", models=models), model=name)
        assert (answer.status_code, error_of(answer)["code"]) == (400, "invalid_model_name")
    assert shop.service.orders == []


def test_models_lists_only_what_the_key_may_use(new_shop):
    shop = new_shop()

    def listed(*models):
        client = shop.client(shop.keys.create("a", models=list(models)))
        return [model["id"] for model in client.get("/v1/models").json()["data"]]

    dates, secret = "tiny/dates@0123456789ab", "tiny/secret@ba9876543210"
    assert listed("*") == ["tiny", dates, secret]
    assert listed("tiny/dates") == listed("tiny/dates:latest") == [dates]
    assert listed("tiny") == ["tiny"]
    assert listed("tiny/dates:prod") == []


def test_a_key_for_an_adapter_finds_it_by_its_task_alone_as_lorax_names_it(new_shop):
    shop = new_shop()
    client = shop.client(shop.keys.create("a", models=["tiny/dates"]))

    def generate(adapter):
        wishes = {"adapter_id": adapter, "max_new_tokens": 4}
        return client.post("/generate", json={"inputs": "hello", "parameters": wishes})

    assert generate("secret").status_code == 403
    assert generate(None).status_code == 403
    generate("dates")
    assert [str(order.model) for order in shop.service.orders] == ["tiny/dates@0123456789ab"]


def test_no_message_names_an_adapter_of_others(new_shop):
    shop = new_shop()
    wide, narrow = shop.keys.create("w"), shop.keys.create("n", models=["tiny/secre*", "tiny/d*"])
    hint = error_of(shop.ask(wide, model="tiny/secre"))["message"]
    assert "'tiny/secret'" in hint
    shop = new_shop()
    narrow = shop.keys.create("n", models=["tiny/secre"])
    answer = shop.ask(narrow, model="tiny/secre")
    assert answer.status_code == 404
    assert "tiny/secret" not in answer.text


# How much.


def test_two_gateways_let_sixty_a_minute_and_one_bucket_of_ten_through(new_shop):
    shop = new_shop(gateways=2)
    key = shop.keys.create("a", requests_per_minute=60)
    statuses = []
    for second in range(60):
        for gateway in (0, 1, second % 2):
            statuses.append(shop.ask(key, gateway).status_code)
        shop.clock.now += 1
    assert statuses.count(200) <= 60 + 10
    assert statuses.count(200) >= 60
    assert set(statuses) == {200, 429}


def test_a_refusal_says_when_to_come_again_and_every_answer_what_is_left(new_shop):
    shop = new_shop()
    key = shop.keys.create("a", requests_per_minute=6)
    first, second = shop.ask(key), shop.ask(key)
    assert first.status_code == 200
    assert first.headers["x-ratelimit-limit-requests"] == "6"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert first.headers["x-ratelimit-reset-requests"] == "10s"
    assert (second.status_code, second.headers["retry-after"]) == (429, "10")
    assert error_of(second)["code"] == "rate_limit_exceeded"
    assert error_of(second)["type"] == "rate_limit_error"
    assert "6 requests a minute" in error_of(second)["message"]
    shop.clock.now += 10
    assert shop.ask(key).status_code == 200


def test_refused_requests_and_reading_count_too(new_shop):
    shop = new_shop()
    key = shop.keys.create("a", requests_per_minute=12)
    assert shop.ask(key, temperature=9).status_code == 400
    assert shop.client(key).get("/v1/models").status_code == 200
    assert shop.ask(key).status_code == 429


def test_tokens_are_held_while_an_answer_is_made_and_then_counted_as_they_were(new_shop):
    shop = new_shop()
    key = shop.keys.create("a", tokens_per_minute=20)
    first = shop.ask(key)  # 10 and 3 are held, 3 + 2 are used
    assert first.headers["x-ratelimit-limit-tokens"] == "20"
    assert int(first.headers["x-ratelimit-remaining-tokens"]) == 20 - 13
    assert shop.ask(key).headers["x-ratelimit-remaining-tokens"] == str(15 - 13)
    again = shop.ask(key)
    assert (again.status_code, error_of(again)["code"]) == (429, "rate_limit_exceeded")
    assert "20 tokens a minute" in error_of(again)["message"]
    assert len(shop.service.orders) == 2


def test_a_request_larger_than_the_key_ever_has_is_a_mistake_to_mend(new_shop):
    shop = new_shop()
    answer = shop.ask(shop.keys.create("a", tokens_per_minute=20), max_tokens=30)
    assert (answer.status_code, error_of(answer)["param"]) == (400, "max_tokens")
    assert "lower max_tokens" in error_of(answer)["message"]


def test_a_day_s_quota_ends_with_openai_s_code(new_shop):
    shop = new_shop()
    key = shop.keys.create("a", tokens_per_day=14)
    assert shop.ask(key).status_code == 200
    answer = shop.ask(key)
    assert (answer.status_code, error_of(answer)["code"]) == (429, "insufficient_quota")


def test_open_routes_need_no_key_and_no_limit(new_shop):
    shop = new_shop()
    assert shop.client().get("/health").json()["status"] == "ok"


# Bounds.


def test_headers_beyond_the_limit_are_431(new_shop):
    shop = new_shop(limits=Limits(header_bytes=1000))
    key = shop.keys.create("a")
    assert shop.client(key).get("/v1/models?" + "x" * 1000).status_code == 431
    answer = shop.client(key).get("/health", headers={"x-long": "x" * 1000})
    assert error_of(answer)["code"] == "headers_too_large"


def test_prompts_beyond_the_limit_are_refused_before_any_work(new_shop):
    shop = new_shop(limits=Limits(prompt_characters=10))
    key = shop.keys.create("a")
    assert shop.ask(key, prompt="x" * 10).status_code == 200
    answer = shop.ask(key, prompt=["x" * 6, "x" * 5])
    assert (answer.status_code, error_of(answer)["param"]) == (400, "prompt")
    assert len(shop.service.orders) == 1


def test_a_first_token_that_does_not_come_is_504_and_its_work_ends(new_shop):
    shop = new_shop(pause_s=60, limits=Limits(first_token_seconds=0.05))
    for stream in (False, True):
        answer = shop.ask(shop.keys.create("a"), stream=stream)
        assert (answer.status_code, error_of(answer)["code"]) == (504, "request_timed_out")
        assert "limits.first_token_seconds" in error_of(answer)["message"]
    assert shop.service.closed == 2


def test_an_answer_that_does_not_end_is_cut_and_a_stream_says_so(new_shop, read_events, answer_of):
    parts = [answer_of()[0]] * 10_000
    shop = new_shop(parts=parts, pause_s=0.01, limits=Limits(request_seconds=0.3))
    whole = shop.ask(shop.keys.create("a"))
    assert (whole.status_code, error_of(whole)["code"]) == (504, "request_timed_out")
    streamed = shop.ask(shop.keys.create("a"), stream=True)
    assert streamed.status_code == 200
    *_, last = read_events(streamed.text)
    assert last["error"]["code"] == "request_timed_out"
    assert shop.service.closed == 2


def call(app, receive, *headers, path="/v1/completions"):
    """The status and the body of one request over bare ASGI."""
    sent = []
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "POST",
        "path": path, "raw_path": path.encode(), "query_string": b"", "headers": list(headers),
        "scheme": "http", "http_version": "1.1", "server": ("test", 80),
    }  # fmt: skip

    async def send(message):
        sent.append(message)

    asyncio.run(asyncio.wait_for(app(scope, receive, send), 30))
    body = b"".join(m.get("body", b"") for m in sent)
    return (sent[0]["status"] if sent else None), body


def test_a_body_that_does_not_come_whole_is_408(new_shop):
    shop = new_shop(limits=Limits(body_seconds=0.05))
    pieces = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive():
        if pieces:
            return pieces.pop()
        await asyncio.sleep(60)

    bearer = (b"authorization", f"Bearer {shop.keys.create('a').text}".encode())
    status, body = call(shop.apps[0], receive, bearer)
    assert (status, json.loads(body)["error"]["code"]) == (408, "body_timed_out")


def test_more_requests_than_a_gateway_holds_are_429(new_shop):
    shop = new_shop(limits=Limits(requests=1, first_token_seconds=0.5), pause_s=60)
    bearer = {"authorization": f"Bearer {shop.keys.create('a').text}"}

    async def two():
        transport = httpx2.ASGITransport(shop.apps[0])
        async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
            body = {"model": "tiny/dates", "prompt": "hello"}
            asked = [client.post("/v1/completions", json=body, headers=bearer) for _ in range(2)]
            return [answer.status_code for answer in await asyncio.gather(*asked)]

    assert sorted(asyncio.run(two())) == [429, 504]


# Without keys.


def test_a_server_on_loopback_needs_no_key_but_refuses_pages_of_other_sites(new_shop):
    shop = new_shop()
    app = create_app(shop.service, Access(shop.service.limits, loopback=True))
    client = TestClient(app, base_url="http://127.0.0.1:8000")
    body = {"model": "tiny/dates", "prompt": "x"}
    assert client.post("/v1/completions", json=body).status_code == 200
    foreign = client.post("/v1/completions", json=body, headers={"origin": "http://evil.example"})
    assert (foreign.status_code, error_of(foreign)["code"]) == (403, "foreign_origin")
    rebound = TestClient(app, base_url="http://evil.example").post("/v1/completions", json=body)
    assert rebound.status_code == 403
    assert len(shop.service.orders) == 1


# What is written down.

FIELDS = {
    "time", "request", "trace", "key", "method", "route", "asked", "answered", "status", "error",
    "prompt_tokens", "generated_tokens", "ttft_ms", "total_ms", "client_left",
}  # fmt: skip


def test_each_request_leaves_one_line_without_a_word_of_it(new_shop, audited):
    shop = new_shop()
    key = shop.keys.create("a")
    answer = shop.ask(key, prompt="prompt-words")
    (line,) = audited()
    assert line.keys() == FIELDS
    assert (line["key"], line["status"], line["error"]) == (key.record.id, 200, None)
    assert (line["method"], line["route"]) == ("POST", "/v1/completions")
    assert (line["asked"], line["answered"]) == (["tiny/dates"], ["tiny/dates@0123456789ab"])
    assert (line["prompt_tokens"], line["generated_tokens"]) == (3, 2)
    assert 0 <= line["ttft_ms"] <= line["total_ms"]
    assert line["client_left"] is False
    assert line["request"] == answer.headers[ID_HEADER]
    assert "prompt-words" not in json.dumps(line)


@pytest.mark.parametrize(
    ("do", "status", "code"),
    [
        (lambda s, k: s.client().get("/v1/models"), 401, "invalid_api_key"),
        (lambda s, k: s.ask(k, model="other/x"), 404, "model_not_found"),
        (lambda s, k: s.ask(k, temperature=9), 400, "invalid_request"),
        (lambda s, k: s.client(k).put("/v1/words/in/a/path"), 403, "admin_key_required"),
    ],
)
def test_refusals_are_written_down_with_their_code(new_shop, audited, do, status, code):
    shop = new_shop()
    do(shop, shop.keys.create("a"))
    (line,) = audited()
    assert (line["status"], line["error"]) == (status, code)
    assert line["route"] in ("/v1/models", "/v1/completions", None)


def test_an_error_inside_a_stream_is_written_down(new_shop, audited, answer_of):
    shop = new_shop(parts=answer_of()[:1], error=EngineFailed("broken"))
    assert shop.ask(shop.keys.create("a"), stream=True).status_code == 200
    (line,) = audited()
    assert (line["status"], line["error"], line["generated_tokens"]) == (200, "engine_failed", 1)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_left_is_written_down_and_pays_for_what_it_got(
    new_shop, audited, answer_of, stream
):
    shop = new_shop(parts=[answer_of()[0]] * 1000)
    key = shop.keys.create("a", tokens_per_minute=100)
    body = {"model": "tiny/dates", "prompt": "hello", "max_tokens": 90, "stream": stream}
    incoming = [{"type": "http.request", "body": json.dumps(body).encode()}]

    async def receive():
        if incoming:
            return incoming.pop()
        while not shop.service.orders:
            await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    call(shop.apps[0], receive, (b"authorization", f"Bearer {key.text}".encode()))
    (line,) = audited()
    assert line["client_left"] is True
    assert shop.service.closed == 1
    left = int(shop.ask(key, max_tokens=1).headers["x-ratelimit-remaining-tokens"])
    assert left >= 90 - line["generated_tokens"] - line["prompt_tokens"]


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("headers", "request_id", "trace"),
    [
        ({"x-request-id": "abc-1:2.3"}, "abc-1:2.3", None),
        ({"x-request-id": "bad id"}, None, None),
        ({"x-request-id": "x" * 129}, None, None),
        ({"traceparent": TRACE}, None, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": TRACE.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32)}, None, None),
        ({"traceparent": "ff" + TRACE[2:]}, None, None),
        ({"traceparent": TRACE + "-x"}, None, None),
    ],
)
def test_a_request_is_named_by_its_client_where_that_is_well_formed(
    new_shop, audited, headers, request_id, trace
):
    shop = new_shop()
    answer = shop.client().get("/health", headers=headers)
    (line,) = audited()
    assert line["trace"] == trace
    assert line["request"] == answer.headers[ID_HEADER]
    assert (line["request"] == request_id) is (request_id is not None)


def test_a_log_line_about_a_failure_names_the_request(new_shop, caplog):
    shop = new_shop(parts=[], error=EngineFailed("broken"))
    with caplog.at_level(logging.ERROR):
        answer = shop.ask(shop.keys.create("a"))
    assert answer.headers[ID_HEADER] in caplog.text


def test_no_key_is_in_any_log_line_or_answer(new_shop, caplog):
    shop = new_shop(error=RuntimeError("inside"))
    key = shop.keys.create("a")
    presented = read_key(key.text)
    assert presented is not None
    secret = presented.secret
    with caplog.at_level(logging.DEBUG):
        answers = [shop.ask(key), shop.ask(key.text + "x"), shop.ask(key, model="no/one")]
    assert [answer.status_code for answer in answers] == [500, 401, 404]
    assert secret not in caplog.text
    assert all(secret not in answer.text for answer in answers)
