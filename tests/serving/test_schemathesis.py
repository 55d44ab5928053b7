"""Thousands of made-up requests against real engines: no server error, answers as documented."""

from __future__ import annotations

from collections import Counter

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from loraland.serving.config import Limits
from tests.serving.live import Live, live

pytestmark = pytest.mark.slow

CASES = 2_000  # at least, over all routes
EACH = 120  # of an address, and as many again that break its rules; one where nothing can vary
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
MODELS = ["tiny-llama", "tiny-llama/dates", "tiny-llama/dates:prod", "tiny-mistral"]


@pytest.fixture(scope="module")
def schema(new_shop, tiny_folders, tmp_path_factory):
    """The application's own description of itself, read over HTTP."""
    from loraland.bases.tiny import load_tiny

    shop = new_shop()
    shop.publish("dates", 1, "latest", "prod")
    bases = {
        "tiny-llama": shop.base(),
        "tiny-mistral": load_tiny("mistral", tiny_folders["mistral"]),
    }
    cache = tmp_path_factory.mktemp("cache")
    service = Live(bases, shop.uri, cache, Limits(new_tokens=12, choices=3))
    with live(service) as address:
        yield schemathesis.openapi.from_url(f"{address}/openapi.json")


def sensible(case, draw):
    """Names that exist in half of the cases, so that requests get past the first check."""
    body = case.body
    if isinstance(body, dict) and draw(st.booleans()):
        if "model" in body:
            body["model"] = draw(st.sampled_from(MODELS))
        if "models" in body:
            body["models"] = draw(st.lists(st.sampled_from(MODELS), min_size=2, max_size=4))
        if isinstance(body.get("parameters"), dict):
            body["parameters"]["adapter_id"] = draw(st.sampled_from(MODELS))
        for name in ("max_tokens", "max_completion_tokens"):
            if name in body:
                body[name] = draw(st.integers(1, 12))
    return case


def test_no_request_that_can_be_made_up_is_a_server_error_or_answered_other_than_documented(schema):
    operations = [found.ok() for found in schema.get_all_operations()]
    asked = [(o, mode) for o in operations for mode in GenerationMode if o.body or mode.is_positive]
    statuses, seen = Counter(), Counter()

    for operation, mode in asked:

        @settings(
            max_examples=EACH,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode), st.data())
        def ask(case, data):
            case = sensible(case, data.draw)
            answer = case.call(timeout=60)
            statuses[answer.status_code] += 1
            seen[case.operation.label] += 1
            case.validate_response(answer, checks=CHECKS)

        ask()

    assert sum(seen.values()) >= CASES
    assert len(seen) == len(operations)
    assert statuses[200] >= CASES // 10, statuses  # answers were made, not only refusals
