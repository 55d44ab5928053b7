"""Copies fetched from the registry, and what is damaged or foreign in its storage."""

from __future__ import annotations

import re

import pytest

from loraland.adapters.folder import content_hash
from loraland.errors import StorageCorrupt
from loraland.storage import Storage
from tests.adapters.stored import path_of


def test_fetched_copy_is_the_adapter_and_is_used_again(
    registry, make_folder, make_card, tmp_path, monkeypatch
):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    copy = registry.fetch("tiny-llama/topics", tmp_path / "cache")
    assert copy == tmp_path / "cache" / "tiny-llama" / "topics" / name.version
    assert content_hash(copy) == content_hash(folder)
    assert sorted(file.name for file in copy.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "card.json",
    ]

    def refuse(self, path):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(Storage, "read", refuse)
    assert registry.fetch(name, tmp_path / "cache") == copy


def test_damaged_local_copy_is_made_anew(registry, make_folder, make_card, tmp_path):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    copy = registry.fetch(name, tmp_path / "cache")
    (copy / "adapter_model.safetensors").write_bytes(b"damaged")
    assert content_hash(registry.fetch(name, tmp_path / "cache")) == content_hash(folder)
    (copy / "card.json").unlink()
    assert (registry.fetch(name, tmp_path / "cache") / "card.json").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("adapter_model.safetensors", b"not the weights"),
        ("adapter_config.json", b'{"r": 3}'),
        ("adapter_config.json", b"{"),
        ("card.json", b'{"format": 1}'),
        ("card.json", b"\xff\xfe"),
    ],
)
def test_damage_in_storage_is_found_by_fetch_and_repaired_by_publishing(
    registry, make_folder, make_card, tmp_path, file, content
):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    registry.storage.write(path_of(name, file), content)
    with pytest.raises(StorageCorrupt, match=f"{name.version}.*damaged.*publish it again"):
        registry.fetch(name, tmp_path / "cache")
    assert not (tmp_path / "cache" / "tiny-llama" / "topics" / name.version).exists()
    assert registry.publish(folder, make_card(folder)) == name
    assert content_hash(registry.fetch(name, tmp_path / "cache")) == content_hash(folder)


@pytest.mark.parametrize("file", ["adapter_model.safetensors", "adapter_config.json"])
def test_missing_file_is_found_by_fetch(registry, make_folder, make_card, tmp_path, file):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    registry.storage.delete(path_of(name, file))
    with pytest.raises(StorageCorrupt, match=re.escape(f"{file} is missing")):
        registry.fetch(name, tmp_path / "cache")


def test_one_damaged_card_does_not_hide_the_others(registry, make_folder, make_card):
    good, bad = make_folder(seed=1), make_folder(seed=2)
    kept = registry.publish(good, make_card(good))
    broken = registry.publish(bad, make_card(bad), aliases=("odd",))
    registry.storage.write(path_of(broken, "card.json"), b"{}")
    with pytest.raises(StorageCorrupt, match=str(broken)):
        registry.list()
    seen: list[StorageCorrupt] = []
    assert [entry.name for entry in registry.list(on_corrupt=seen.append)] == [kept]
    assert len(seen) == 1 and str(broken) in seen[0].message
    registry.unalias("tiny-llama/topics:odd")
    registry.delete(broken)
    assert [entry.name for entry in registry.list()] == [kept]


def test_damaged_alias_is_named_and_can_be_pointed_anew(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    for content in (b"{", b"[]", b'{"version": "../../x"}', b'{"version": 3}', b"\xff"):
        registry.storage.write("adapters/tiny-llama/topics/aliases/latest.json", content)
        with pytest.raises(StorageCorrupt, match=r"latest\.json names no version"):
            registry.resolve("tiny-llama/topics")
        assert registry.alias(name, "latest") == registry.resolve("tiny-llama/topics")


def test_card_under_another_version_is_damage(registry, make_folder, make_card):
    folder = make_folder()
    card = make_card(folder)
    name = registry.publish(folder, card)
    moved = name.at("0" * 12)
    registry.storage.write(path_of(moved, "card.json"), card.to_json())
    with pytest.raises(StorageCorrupt, match="is the card of"):
        registry.card(moved)


def test_foreign_files_are_passed_over(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    for path in (
        "adapters/README",
        "adapters/tiny-llama/topics/versions/nonsense/card.json",
        "adapters/UPPER/topics/versions/000000000000/card.json",
        "adapters/tiny-llama/topics/aliases/NO.json",
    ):
        registry.storage.write(path, b"{}")
    assert [entry.name for entry in registry.list()] == [name]
