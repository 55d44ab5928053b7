from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraland.errors import EndpointGarbled, UnknownModel
from loraland.loadtest.server import listed, slots_of

OLD, NEW, OTHER = (f"tiny/dates@{digit * 12}" for digit in "123")


def model(name, created=0, aliases=()):
    return {"id": name, "created": created, "aliases": list(aliases)}


def test_of_each_adapter_the_version_latest_is_taken_else_the_newest():
    with_latest = {"data": [model("tiny"), model(OLD, 1, ["latest"]), model(NEW, 2, ["prod"])]}
    assert listed(with_latest).of("tiny") == (OLD,)
    without = {"data": [model("tiny"), model(OLD, 1), model(NEW, 2), model("big/x@" + "a" * 12)]}
    assert listed(without).of("tiny") == (NEW,)
    assert listed(without).bases == ("tiny",)


def test_models_of_another_kind_of_server_are_bases():
    found = listed({"data": [{"id": "meta-llama/Llama-3-8B"}]})
    assert found.base(None) == "meta-llama/Llama-3-8B"


def test_the_base_must_be_named_among_several_and_exist():
    found = listed({"data": [model("tiny"), model("small")]})
    assert found.base("small") == "small"
    with pytest.raises(UnknownModel, match="--base"):
        found.base(None)
    with pytest.raises(UnknownModel, match="did you mean 'tiny'"):
        found.base("tini")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "id", "bases", "base", "replicas", "stats", "slots", "aliases"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_whatever_a_server_says_is_a_list_of_models_or_garbled(body):
    try:
        found = listed(body)
    except EndpointGarbled:
        return
    assert all(isinstance(name, str) for name in found.bases)


@given(JSON)
def test_whatever_a_fleet_says_its_slots_are_a_number_or_unknown(body):
    found = slots_of(body, "tiny")
    assert found is None or type(found) is int


def test_slots_are_those_of_all_replicas_of_the_base():
    replicas = [{"stats": {"slots": 4}}, {"stats": {"slots": 8}}, {"stats": None}]
    fleet = {"bases": [{"base": "tiny", "replicas": replicas}, {"base": "x", "replicas": []}]}
    assert slots_of(fleet, "tiny") == 12
    assert slots_of(fleet, "x") is None
    assert slots_of(None, "tiny") is None
