from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import EndpointGarbled
from loraland.loadtest.events import MOST_LINE_BYTES, EventReader, Told, code_of, told

PIECE = {"choices": [{"text": "a", "finish_reason": None}], "model": "tiny"}
END = {"choices": [{"text": "", "finish_reason": "stop"}], "model": "tiny"}
USAGE = {"choices": [], "model": "tiny", "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
STREAM = b"".join(b"data: %s\n\n" % json.dumps(e).encode() for e in (PIECE, END, USAGE))
STREAM += b": a comment\r\n\r\ndata: [DONE]\r\n\r\n"
EXPECTED = [
    Told(True, None, "tiny"),
    Told(False, "stop", "tiny"),
    Told(False, None, "tiny", (3, 2)),
    Told(done=True),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_events_are_the_same_however_the_bytes_are_cut(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    reader = EventReader()
    found = [e for a, b in pairwise(edges) for e in reader.push(STREAM[a:b])]
    assert found == EXPECTED


@given(st.binary(max_size=300))
def test_any_bytes_give_events_or_are_garbled(content):
    try:
        events = list(EventReader().push(b"data: " + content + b"\n"))
    except EndpointGarbled:
        return
    assert all(isinstance(event, Told) for event in events)


@pytest.mark.parametrize(
    "event",
    [
        "nonsense", "[]", "3", "{}", '{"choices": 3}', '{"choices": [1]}', "[" * 100_000,
        '{"choices": [], "usage": {"prompt_tokens": -1, "completion_tokens": 1}}',
        '{"choices": [], "usage": {"prompt_tokens": true, "completion_tokens": 1}}',
        '{"choices": [], "usage": "many"}',
    ],
)  # fmt: skip
def test_what_is_no_piece_of_a_completion_is_garbled(event):
    with pytest.raises(EndpointGarbled):
        told(event.encode())


def test_an_event_without_end_is_garbled_before_memory_is_gone():
    reader = EventReader()
    with pytest.raises(EndpointGarbled):
        for _ in range(3):
            list(reader.push(b"x" * MOST_LINE_BYTES))


def test_an_error_in_a_stream_is_told_by_its_code_and_never_by_its_words():
    error = {"error": {"message": "secret", "type": "server_error", "code": "engine_stopped"}}
    assert told(json.dumps(error).encode()) == Told(error="engine_stopped")
    assert code_of({"error": {"code": 7, "type": "server_error"}}) == "server_error"
    assert code_of({"error": {"code": "[red]\nx", "type": "y" * 500}}) == "error"
    assert code_of("x") == code_of(None) == code_of({"error": "boom"}) == "error"
