"""A registry whose writers are killed, or many at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loraland.adapters.folder import content_hash, write_card
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.errors import UnknownModel
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
