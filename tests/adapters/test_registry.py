"""The registry, over a local folder and over a real S3 server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loraland.adapters.folder import content_hash, version_of, write_card
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import (
    AdapterProtected,
    AdapterRejected,
    InvalidName,
    StorageCorrupt,
    UnknownModel,
)
from loraland.storage import Storage

REPOSITORY = Path(__file__).resolve().parents[2]

# Publishes a folder and kills itself: before write number `fatal` ("before"), or, on a local disk,
# when that write has its bytes on the disk under the temporary name ("within").
PUBLISHER = """
import os, signal, sys
from pathlib import Path
from loraland.adapters.folder import read_card
from loraland.adapters.registry import Registry
from loraland.storage import Storage

uri, folder, fatal, moment = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
writes = 0
write, replace = Storage.write, os.replace

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def counted(self, path, content):
    global writes
    if moment == "before" and writes == fatal:
        die()
    writes += 1
    write(self, path, content)

def watched(source, target):
    if moment == "within" and writes == fatal + 1:
        die()
    replace(source, target)

Storage.write, os.replace = counted, watched
print(Registry(Storage.open(uri)).publish(folder, read_card(folder)))
"""


def publisher(uri: str, folder: Path, fatal: int = 99, moment: str = "before") -> list[str]:
    return [sys.executable, "-c", PUBLISHER, uri, str(folder), str(fatal), moment]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")}


def path_of(name: ModelName, file: str) -> str:
    return f"adapters/{name.base}/{name.task}/versions/{name.version}/{file}"


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


def files_of(registry: Registry) -> list[str]:
    return [f"adapters/{path}" for path in registry.storage.walk("adapters")]


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


def test_delete_that_is_killed_leaves_no_half_version(
    registry, make_folder, make_card, monkeypatch
):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder), aliases=())

    def die(self, path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "delete_folder", die)
        with pytest.raises(KeyboardInterrupt):
            registry.delete(name)
    assert registry.list() == []
    with pytest.raises(UnknownModel):
        registry.resolve(name)
    assert registry.publish(folder, make_card(folder)) == name


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


@pytest.mark.parametrize("fatal", [0, 1, 2, 3])
def test_publish_killed_between_files_shows_nothing_half(
    storage_uri, registry, make_folder, make_card, fatal
):
    folder = make_folder()
    card = make_card(folder)
    write_card(folder, card)
    killed = subprocess.run(publisher(storage_uri, folder, fatal), env=environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert_whole_or_nothing(registry, manifest_written=fatal > 2, version=card.name)
    assert registry.publish(folder, card) == registry.resolve("tiny-llama/topics")


@pytest.mark.parametrize("fatal", [0, 2, 3])
def test_publish_killed_within_a_write_leaves_no_half_file(tmp_path, make_folder, make_card, fatal):
    uri = str(tmp_path / "storage")
    folder = make_folder()
    card = make_card(folder)
    write_card(folder, card)
    killed = subprocess.run(publisher(uri, folder, fatal, "within"), env=environment(), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "storage").rglob("*.tmp"))) == 1
    registry = Registry(Storage.open(uri))
    assert_whole_or_nothing(registry, manifest_written=fatal > 2, version=card.name)
    assert registry.publish(folder, card) == registry.resolve("tiny-llama/topics")


def assert_whole_or_nothing(registry, manifest_written: bool, version: ModelName) -> None:
    assert [entry.name for entry in registry.list()] == ([version] if manifest_written else [])
    assert registry.aliases("tiny-llama", "topics") == {}
    with pytest.raises(UnknownModel):
        registry.resolve("tiny-llama/topics")


def test_two_processes_publish_and_fetch_the_same_version(
    storage_uri, registry, make_folder, make_card, tmp_path
):
    folder = make_folder()
    card = make_card(folder)
    write_card(folder, card)
    running = [
        subprocess.Popen(
            publisher(storage_uri, folder), env=environment(), stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    printed = [process.communicate()[0].strip() for process in running]
    assert printed == [str(card.name)] * 2
    assert [process.returncode for process in running] == [0, 0]
    assert registry.list() == [(card.name, card, ("latest",))]
    with ThreadPoolExecutor(8) as pool:
        copies = list(pool.map(lambda _: registry.fetch(card.name, tmp_path / "cache"), range(8)))
    assert len(set(copies)) == 1 and content_hash(copies[0]) == content_hash(folder)


def test_listing_while_others_publish_and_delete_never_fails(registry, make_folder, make_card):
    folders = [make_folder(seed=seed) for seed in range(3)]

    def come_and_go(folder: Path) -> None:
        for _ in range(3):
            registry.delete(registry.publish(folder, make_card(folder), aliases=()))

    with ThreadPoolExecutor(len(folders)) as pool:
        busy = [pool.submit(come_and_go, folder) for folder in folders]
        while not all(future.done() for future in busy):
            names = {entry.name for entry in registry.list()}
            assert names <= {make_card(folder).name for folder in folders}
        for future in busy:
            future.result()
    assert registry.list() == []


def test_card_file_is_json_that_a_person_can_read(registry, make_folder, make_card):
    folder = make_folder()
    name = registry.publish(folder, make_card(folder))
    text = registry.storage.read(path_of(name, "card.json")).decode()
    assert json.loads(text)["version"] == name.version
    assert text.startswith("{\n  ") and text.endswith("}\n")
