"""Local copies: whole or absent, made once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from loraland.local_copy import local_copy

REPOSITORY = Path(__file__).resolve().parents[1]

# Begins a copy, says so, and never ends.
STUCK = """
import signal, sys
from pathlib import Path
from loraland.local_copy import local_copy

def fill(folder):
    (folder / "file").write_text("half")
    print("filling", flush=True)
    signal.pause()

local_copy(Path(sys.argv[1]), is_good=lambda place: place.exists(), fill=fill)
"""


def has_file(place: Path) -> bool:
    return (place / "file").is_file()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_failed_copy_leaves_nothing_and_the_next_succeeds(tmp_path):
    def fail(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise OSError("connection lost")

    place = tmp_path / "a" / "copy"
    with pytest.raises(OSError, match="connection lost"):
        local_copy(place, is_good=has_file, fill=fail)
    assert names(place.parent) == []
    local_copy(place, is_good=has_file, fill=lambda folder: (folder / "file").touch())
    assert names(place.parent) == ["copy"]


def test_failed_replacement_keeps_what_was_there(tmp_path):
    place = tmp_path / "copy"
    place.mkdir()
    (place / "other").touch()

    def fail(folder: Path) -> None:
        raise OSError("connection lost")

    with pytest.raises(OSError):
        local_copy(place, is_good=has_file, fill=fail)
    assert (place / "other").exists()


def test_rest_of_a_killed_copy_is_not_taken_for_one(tmp_path):
    rest = tmp_path / ".copy.tmp"
    rest.mkdir()
    (rest / "stale").touch()
    place = local_copy(
        tmp_path / "copy", is_good=has_file, fill=lambda folder: (folder / "file").touch()
    )
    assert names(place) == ["file"] and names(tmp_path) == ["copy"]


def test_many_who_want_one_copy_wait_for_one_of_them(tmp_path):
    everyone = threading.Barrier(8)
    fills = []

    def fill(folder: Path) -> None:
        fills.append(folder)
        (folder / "file").touch()

    def want(_: int) -> Path:
        everyone.wait()
        return local_copy(tmp_path / "copy", is_good=has_file, fill=fill)

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(want, range(8))) == {tmp_path / "copy"}
    assert len(fills) == 1


def test_process_killed_while_copying_gives_way_to_the_one_that_waits(tmp_path):
    place = tmp_path / "copy"
    stuck = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(place)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")},
        stdout=subprocess.PIPE,
        text=True,
    )
    with stuck, ThreadPoolExecutor(1) as pool:
        assert stuck.stdout is not None and stuck.stdout.readline() == "filling\n"
        waiting = pool.submit(
            local_copy,
            place,
            is_good=has_file,
            fill=lambda folder: (folder / "file").write_text("whole"),
        )
        assert not place.exists()
        stuck.kill()
        assert waiting.result() == place
    assert (place / "file").read_text() == "whole"
    assert names(tmp_path) == ["copy"]
