"""What a listing of the registry means."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loraland.adapters import layout
from loraland.adapters.names import ModelName

VERSION = "3f9a1c0b77de"


def test_paths_of_a_version_and_an_alias():
    name = ModelName("b", "t", version=VERSION)
    assert layout.version_file(name, "card.json") == f"adapters/b/t/versions/{VERSION}/card.json"
    assert layout.alias_file(name, "prod") == "adapters/b/t/aliases/prod.json"


def test_version_without_a_card_does_not_exist():
    weights = f"b/t/versions/{VERSION}/adapter_model.safetensors"
    card = f"b/t/versions/{VERSION}/card.json"
    assert layout.index([weights]) == {}
    assert layout.index([weights, card]) == {ModelName("b", "t"): ([VERSION], [])}


def test_aliases_are_found_beside_versions():
    paths = ["b/t/aliases/latest.json", "b/u/aliases/prod.json"]
    assert layout.index(paths) == {
        ModelName("b", "t"): ([], ["latest"]),
        ModelName("b", "u"): ([], ["prod"]),
    }


@given(st.lists(st.lists(st.sampled_from(
    ["b", "B", "..", "", "versions", "aliases", VERSION, "card.json", "x.json", ".json"]
), max_size=6).map("/".join)))  # fmt: skip
def test_any_listing_is_understood(paths):
    for name, found in layout.index(paths).items():
        assert name.adapter in {"/".join(path.split("/")[:2]) for path in paths}
        assert found.versions or found.aliases
