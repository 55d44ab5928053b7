from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loraland.bases.catalogue import TINY_PARAMETERS, all_bases, get_base
from loraland.bases.fingerprint import fingerprint
from loraland.bases.loading import find_base, find_folder, load_base, load_tokenizer
from loraland.errors import UnknownBase


def digest(folder: Path) -> str:
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        whole.update(file.name.encode() + file.read_bytes())
    return whole.hexdigest()


@pytest.mark.parametrize("base", all_bases(), ids=lambda base: base.name)
def test_every_base_has_a_tiny_one_of_its_architecture_that_is_not_listed(base: object) -> None:
    name = base.name  # type: ignore[attr-defined]
    tiny = find_base(f"tiny-{name}")
    assert tiny.name == tiny.hub_id == f"tiny-{name}"
    assert (tiny.architecture, tiny.chat) == (base.architecture, base.chat)  # type: ignore[attr-defined]
    assert tiny.tiny
    assert tiny not in all_bases()
    assert not tiny.gated
    assert not tiny.embedded


@pytest.mark.parametrize(
    ("name", "near"),
    [("tiny-mistral-7", "tiny-mistral-7b"), ("mistral-7", "mistral-7b"), ("tiny-", "")],
)
def test_unknown_names_are_told_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownBase, match=f"no base is called '{name}'.*{near}"):
        get_base(name)


def test_a_tiny_base_is_written_once_and_follows_from_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = find_base("tiny-zephyr-7b-beta")
    folder = find_folder(base)
    stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert find_folder(base) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    monkeypatch.setenv("LORALAND_CACHE", str(tmp_path))
    assert digest(find_folder(base)) == digest(folder)
    other = find_folder(find_base("tiny-mistral-7b"))
    assert fingerprint(other) != fingerprint(folder)


@pytest.mark.parametrize("name", ["llama-2-7b", "mistral-7b", "phi-2", "gemma-2b"])
def test_tiny_bases_load_with_a_long_context_and_speak_bytes(name: str) -> None:
    base = load_base(f"tiny-{name}", "fp32", "cpu")
    config = base.model.config
    assert config.model_type == get_base(name).architecture
    assert config.max_position_embeddings == base.entry.context_tokens == 2048
    assert TINY_PARAMETERS / 2 < base.model.num_parameters() < TINY_PARAMETERS * 2
    assert len(base.tokenizer("naïve").input_ids) == len("naïve".encode())


def test_only_chat_bases_get_a_template() -> None:
    assert load_tokenizer(find_base("tiny-mistral-7b")).chat_template is None
    assert load_tokenizer(find_base("tiny-mistral-7b-instruct")).chat_template is not None


@pytest.mark.slow
def test_processes_that_want_it_at_once_share_one_copy(tmp_path: Path) -> None:
    code = (
        "from loraland.bases.loading import find_base, find_folder\n"
        "from loraland.bases.fingerprint import fingerprint\n"
        "print(fingerprint(find_folder(find_base('tiny-phi-2'))))"
    )
    environment = os.environ | {"LORALAND_CACHE": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    # The last line: optional packages may greet on standard output when they are imported.
    said = {process.communicate(timeout=500)[0].split()[-1] for process in processes}
    assert len(said) == 1
    assert len(said.pop()) == 64
    assert [folder.name for folder in (tmp_path / "tiny").iterdir() if folder.is_dir()] == [
        "tiny-phi-2-1"
    ]
