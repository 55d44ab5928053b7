"""Where audit lines go."""

from __future__ import annotations

import json
import logging

import pytest

from loraland.serving.access import audit
from loraland.serving.access.permission import Caller
from loraland.serving.access.visit import Visit


@pytest.fixture
def bare_logger():
    """The audit logger as it is in a fresh process; what a test hangs on it is closed after it."""
    before = audit.logger.handlers[:], audit.logger.propagate, audit.logger.level
    audit.logger.handlers[:] = []
    yield audit.logger
    for handler in audit.logger.handlers:
        handler.close()
    audit.logger.handlers[:], audit.logger.propagate, audit.logger.level = before


def visit(**fields):
    return Visit.of("POST", {}) if not fields else Visit("id-1", None, "POST", **fields)


def test_lines_go_to_a_file_of_their_own_one_document_each(bare_logger, tmp_path, caplog):
    audit.write_to(tmp_path / "new", "gateway")
    hostile = visit(caller=Caller("k"), asked=['a"\nb'], status=200)
    audit.record(hostile, "/v1/x")
    audit.record(visit(), None)
    lines = (tmp_path / "new" / "gateway.jsonl").read_text().splitlines()
    first, second = (json.loads(line) for line in lines)
    assert (first["key"], first["asked"], first["route"]) == ("k", ['a"\nb'], "/v1/x")
    assert (second["key"], second["status"]) == (None, None)
    assert caplog.records == []


def test_a_place_that_was_given_before_is_kept(bare_logger, tmp_path):
    own = logging.NullHandler()
    bare_logger.addHandler(own)
    audit.write_to(tmp_path, "gateway")
    assert bare_logger.handlers == [own]
    assert list(tmp_path.iterdir()) == []
