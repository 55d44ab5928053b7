"""The registry, over a local folder and over a real S3 server."""

from __future__ import annotations

import json

import pytest

from loraland.adapters.folder import content_hash, version_of
from loraland.adapters.names import ModelName
from loraland.errors import AdapterProtected, AdapterRejected, InvalidName, UnknownModel
from loraland.storage import Storage
from tests.adapters.stored import files_of, path_of


def test_published_adapter_is_found_by_every_form_of_its_name(registry, make_folder, make_card):
    folder = make_folder()
    card = make_card(folder)
    name = registry.publish(folder, card, aliases=("latest", "prod"))
    assert name == ModelName("tiny-llama", "topics", version=version_of(content_hash(folder)))
    for form in ("tiny-llama/topics", "tiny-llama/topics:prod", str(name)):
        assert registry.resolve(form) == name
        assert registry.card(form) == card
    assert registry.aliases("tiny-llama", "topics") == {
        "latest": name.version,
        "prod": name.version,
    }
    assert registry.list() == [(name, card, ("latest", "prod"))]


def test_empty_registry_lists_nothing_and_knows_nothing(registry):
    assert registry.list() == []
    assert registry.aliases("tiny-llama", "topics") == {}
    with pytest.raises(UnknownModel, match="there are none yet"):
        registry.resolve("tiny-llama/topics")


def test_publishing_the_same_content_again_changes_nothing(registry, make_folder, make_card):
    first, second = make_folder(), make_folder(config={"base_model_name_or_path": "/elsewhere"})
    name = registry.publish(first, make_card(first))
    before = {path: registry.storage.read(path) for path in files_of(registry)}
    later = make_card(second, created="2026-02-01T00:00:00+00:00", hardware="another machine")
    assert registry.publish(second, later) == name
    assert {path: registry.storage.read(path) for path in files_of(registry)} == before


def test_publishing_again_keeps_scores_and_adds_new_ones(
    registry, make_folder, make_card, make_score
):
    folder = make_folder()
    card = make_card(folder)
    name = registry.publish(folder, card)
    kept, replaced = make_score(0.8, data_source="hub"), make_score(0.7)
    registry.put_card(name, registry.card(name).with_score(kept).with_score(replaced))
    registry.publish(folder, card)
    assert registry.card(name).scores == [kept, replaced]
    better = make_score(0.95)
    registry.publish(folder, card.with_score(better))
    assert registry.card(name).scores == [kept, better]


def test_publishing_new_content_moves_latest_and_keeps_the_old_version(
    registry, make_folder, make_card
):
    old, new = make_folder(seed=1), make_folder(seed=2)
    first = registry.publish(old, make_card(old), aliases=("latest", "prod"))
    second = registry.publish(new, make_card(new, created="2026-02-01T00:00:00+00:00"))
    assert first != second
    assert registry.resolve("tiny-llama/topics") == second
    assert registry.resolve("tiny-llama/topics:prod") == first
    assert [(entry.name, entry.aliases) for entry in registry.list()] == [
        (first, ("prod",)),
        (second, ("latest",)),
    ]


def test_stored_configuration_names_the_hub_and_no_path(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    config = registry.storage.read_json(path_of(name, "adapter_config.json"))
    assert config["base_model_name_or_path"] == "someone/tiny-llama"
    assert (
        "/home/someone" in (folder / "adapter_config.json").read_text()
    )  # the folder is not touched


def test_card_of_another_version_is_refused_and_nothing_is_written(
    registry, make_folder, make_card
):
    folder = make_folder()
    with pytest.raises(AdapterRejected, match=version_of(content_hash(folder))):
        registry.publish(folder, make_card(folder, version="f" * 12))
    assert files_of(registry) == []


def test_bad_folder_is_refused_and_nothing_is_written(registry, make_folder, make_card):
    folder = make_folder(config={"use_dora": True})
    with pytest.raises(AdapterRejected, match="DoRA"):
        registry.publish(folder, make_card(folder))
    assert files_of(registry) == []


def test_illegal_alias_is_refused_before_anything_is_written(registry, make_folder, make_card):
    folder = make_folder()
    illegal = ["../../x", "UPPER", "", "a/b", "a..b", ".hidden", "x" * 65]
    for alias in illegal:
        with pytest.raises(InvalidName, match="cannot be an alias"):
            registry.publish(folder, make_card(folder), aliases=("latest", alias))
    assert files_of(registry) == []
    name = registry.publish(folder, make_card(folder))
    for alias in illegal:
        with pytest.raises(InvalidName, match="cannot be an alias"):
            registry.alias(name, alias)


def test_unknown_names_are_answered_with_the_nearest(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder), aliases=("latest", "prod"))
    with pytest.raises(UnknownModel, match="did you mean 'tiny-llama/topics'"):
        registry.resolve("tiny-llama/topcis")
    with pytest.raises(UnknownModel, match="'tiny-llama/topics:prod'"):
        registry.resolve("tiny-llama/topics:prd")
    with pytest.raises(UnknownModel, match=str(name)):
        registry.resolve("tiny-llama/topics@" + "0" * 12)
    with pytest.raises(UnknownModel, match="is a base, not an adapter"):
        registry.resolve("tiny-llama")
    with pytest.raises(InvalidName):
        registry.resolve("../../etc/passwd")


def test_finding_needs_no_listing_and_gives_none_for_what_is_not_there(
    registry, make_folder, make_card, monkeypatch
):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder), aliases=("latest", "prod"))

    def no_listing(*_):
        raise AssertionError("the storage was listed")

    monkeypatch.setattr(Storage, "walk", no_listing)
    monkeypatch.setattr(Storage, "names", no_listing)
    for form in ("tiny-llama/topics", "tiny-llama/topics:prod", str(name), name):
        assert registry.find(form) == registry.resolve(form) == name
    for form in ("tiny-llama", "tiny-llama/x", "tiny-llama/topics:x", f"{name.adapter}@{'0' * 12}"):
        assert registry.find(form) is None
    with pytest.raises(InvalidName):
        registry.find("../../etc/passwd")


def test_alias_moves_and_goes(registry, make_folder, make_card):
    one, two = make_folder(seed=1), make_folder(seed=2)
    first = registry.publish(one, make_card(one))
    second = registry.publish(two, make_card(two))
    assert registry.alias(first, "prod") == first
    assert registry.alias("tiny-llama/topics", "prod") == second
    assert registry.resolve("tiny-llama/topics:prod") == second
    registry.unalias("tiny-llama/topics:prod")
    with pytest.raises(UnknownModel):
        registry.resolve("tiny-llama/topics:prod")
    with pytest.raises(UnknownModel, match="no alias"):
        registry.unalias("tiny-llama/topics:prod")
    with pytest.raises(InvalidName, match="names no alias"):
        registry.unalias(second)
    with pytest.raises(UnknownModel):
        registry.alias("tiny-llama/topics@" + "0" * 12, "prod")


def test_version_that_an_alias_needs_cannot_be_deleted(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder), aliases=("latest", "prod"))
    with pytest.raises(AdapterProtected, match=":latest, :prod"):
        registry.delete(name)
    assert registry.resolve("tiny-llama/topics") == name
    registry.unalias("tiny-llama/topics")
    registry.unalias("tiny-llama/topics:prod")
    registry.delete(name)
    assert registry.list() == [] and files_of(registry) == []
    with pytest.raises(UnknownModel):
        registry.delete(name)
    assert registry.publish(folder, make_card(folder)) == name


def test_delete_wants_a_version(registry, make_folder, make_card):
    folder = make_folder()
    registry.publish(folder, make_card(folder))
    for name in ("tiny-llama", "tiny-llama/topics", "tiny-llama/topics:latest"):
        with pytest.raises(InvalidName, match="names no version"):
            registry.delete(name)


def test_card_of_another_adapter_cannot_replace_one(registry, make_folder, make_card):
    folder = make_folder()
    card = make_card(folder)
    name = registry.publish(folder, card)
    for changes in ({"version": "f" * 12}, {"task": "dates"}, {"base_fingerprint": "b" * 64}):
        with pytest.raises(AdapterRejected, match="only a card of the same adapter"):
            registry.put_card(name, card.model_copy(update=changes))
    assert registry.card(name) == card


def test_same_content_on_another_base_of_that_name_is_refused(registry, make_folder, make_card):
    folder = make_folder()
    registry.publish(folder, make_card(folder))
    with pytest.raises(AdapterRejected, match="bbbb"):
        registry.publish(folder, make_card(folder, base_fingerprint="b" * 64))


def test_card_file_is_json_that_a_person_can_read(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    text = registry.storage.read(path_of(name, "card.json")).decode()
    assert json.loads(text)["version"] == name.version
    assert text.startswith("{\n  ") and text.endswith("}\n")
