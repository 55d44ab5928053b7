from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loraland.errors import InvalidName, StorageCorrupt, UnknownModel
from loraland.palate import artifact
from loraland.palate.model import PalateModel
from loraland.palate.preference import Tastes
from loraland.palate.recommend import recommend
from loraland.storage import Storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage.open(str(tmp_path))


def test_a_kept_model_recommends_the_same(model: PalateModel, storage_uri: str) -> None:
    storage = Storage.open(storage_uri)
    version = artifact.save(model, storage, "wine")
    loaded = artifact.load(storage, "wine")
    assert loaded.version == version
    assert loaded.palates == model.palates
    assert loaded.facts == json.loads(json.dumps(model.facts))
    tastes = Tastes(liked=model.catalogue.keys[:5], text="cherry and oak")
    before, after = recommend(model, tastes).picks, recommend(loaded, tastes).picks
    assert before == after
    assert artifact.names(storage) == ["wine"]


def test_the_same_content_has_the_same_version_and_other_content_another(
    model: PalateModel, storage: Storage
) -> None:
    from dataclasses import replace

    first = artifact.save(model, storage, "wine")
    assert artifact.save(artifact.load(storage, "wine"), storage, "wine") == first
    warmer = replace(model, mixture=replace(model.mixture, temperature=9.0))
    second = artifact.save(warmer, storage, "wine")
    assert second != first
    assert artifact.load(storage, "wine").version == second
    assert artifact.load(storage, "wine", first).mixture.temperature != 9.0


@pytest.mark.parametrize("file", [artifact.ITEMS, artifact.ARRAYS, artifact.WORDS])
def test_a_changed_file_is_not_read(model: PalateModel, storage: Storage, file: str) -> None:
    version = artifact.save(model, storage, "wine")
    path = f"palates/wine/versions/{version}/{file}"
    storage.write(path, storage.read(path)[:-1] + b"!")
    with pytest.raises(StorageCorrupt, match="not what its manifest says"):
        artifact.load(storage, "wine")


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"files": {}}', b'{"files": {"items.parquet": "0"}, "facts": {}}']
)
def test_a_manifest_that_is_none_is_told(model: PalateModel, storage: Storage, text: bytes) -> None:
    version = artifact.save(model, storage, "wine")
    storage.write(f"palates/wine/versions/{version}/{artifact.MANIFEST}", text)
    with pytest.raises(StorageCorrupt):
        artifact.load(storage, "wine")


def test_arrays_of_other_shapes_are_not_used(model: PalateModel, storage: Storage) -> None:
    from dataclasses import replace

    shorter = replace(model, mixture=replace(model.mixture, means=model.mixture.means[:, :3]))
    artifact.save(shorter, storage, "wine")
    with pytest.raises(StorageCorrupt, match="means has shape"):
        artifact.load(storage, "wine")


def test_a_version_without_manifest_does_not_exist(model: PalateModel, storage: Storage) -> None:
    version = artifact.save(model, storage, "wine")
    storage.delete(f"palates/wine/versions/{version}/{artifact.MANIFEST}")
    with pytest.raises(UnknownModel, match=f"no version {version}"):
        artifact.load(storage, "wine")


def test_unknown_names_are_told_with_what_is_near(model: PalateModel, storage: Storage) -> None:
    artifact.save(model, storage, "wine")
    with pytest.raises(UnknownModel, match=r"no palates 'wines' in .*did you mean 'wine'"):
        artifact.load(storage, "wines")


@pytest.mark.parametrize("name", ["../wine", "", "a/b", "UPPER"])
def test_no_name_leaves_its_folder(model: PalateModel, storage: Storage, name: str) -> None:
    with pytest.raises(InvalidName):
        artifact.save(model, storage, name)
    with pytest.raises(InvalidName):
        artifact.load(storage, name)


def test_no_version_leaves_its_folder(storage: Storage) -> None:
    with pytest.raises(InvalidName, match="12 hex digits"):
        artifact.load(storage, "wine", "../../secret")


def test_a_kill_before_the_manifest_leaves_the_old_model(
    model: PalateModel, storage: Storage, tmp_path: Path
) -> None:
    old = artifact.save(model, storage, "wine")
    code = f"""
import os, signal
from dataclasses import replace
from loraland.palate import artifact
from loraland.storage import Storage
storage = Storage.open({str(tmp_path)!r})
model = artifact.load(storage, "wine")
changed = replace(model, mixture=replace(model.mixture, temperature=7.0))
written = Storage.write
def write(self, path, content):
    if path.endswith("manifest.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    written(self, path, content)
Storage.write = write
artifact.save(changed, storage, "wine")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(artifact.__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    loaded = artifact.load(storage, "wine")
    assert loaded.version == old
    assert np.array_equal(loaded.membership, model.membership)
    assert len(storage.names("palates/wine/versions")) == 2  # the unfinished one can be seen
