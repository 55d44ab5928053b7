"""Storage, over a local folder and over a real S3 server."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import fs

from loraland.errors import InvalidConfiguration, InvalidName
from loraland.storage import Storage

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture
def storage(storage_uri: str) -> Storage:
    return Storage.open(storage_uri)


def test_what_is_written_is_read_back(storage):
    for content in (b"", b"x", bytes(range(256)) * 5000):
        storage.write("a/b/c.bin", content)
        assert storage.read("a/b/c.bin") == content
        assert storage.size_bytes("a/b/c.bin") == len(content)
    assert storage.exists("a/b/c.bin") and storage.exists("a/b")
    assert storage.names("a/b") == ["c.bin"]


def test_json_round_trips_and_refuses_nan(storage):
    value = {"b": [1, 2.5, None], "a": "ü"}
    storage.write_json("x.json", value)
    assert storage.read_json("x.json") == value
    assert storage.read("x.json").startswith('{\n  "a": "ü"'.encode())
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_json("x.json", {"a": float("nan")})
    assert storage.read_json("x.json") == value


def test_absent_files_and_folders_are_told_apart_from_empty_ones(storage):
    assert not storage.exists("nothing")
    assert storage.names("nothing") == [] and storage.walk("nothing") == []
    for attempt in (storage.read, storage.size_bytes, storage.delete):
        with pytest.raises(FileNotFoundError):
            attempt("nothing")
    storage.delete_folder("nothing")


def test_walk_gives_all_files_below_a_folder(storage):
    for path in ("a/z", "a/b/c/d", "a/b/e", "other/f"):
        storage.write(path, b"1")
    assert storage.walk("a") == ["b/c/d", "b/e", "z"]
    assert storage.names("a") == ["b", "z"]


def test_deleted_things_are_gone(storage):
    storage.write("a/b", b"1")
    storage.write("a/c/d", b"1")
    storage.delete("a/b")
    assert storage.walk("a") == ["c/d"]
    storage.delete_folder("a")
    assert storage.walk("a") == [] and not storage.exists("a/c/d")


def test_storage_survives_pickling(storage):
    storage.write("a", b"1")
    assert pickle.loads(pickle.dumps(storage)).read("a") == b"1"


def test_reader_never_sees_a_mixture_while_a_file_is_replaced(storage):
    contents = [b"a" * 10, b"b" * 700_000, b"c" * 300_000]
    storage.write("card", contents[0])
    done = threading.Event()

    def replace() -> None:
        for turn in range(1, 25):
            storage.write("card", contents[turn % 3])
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    reads = 0
    while not done.is_set() or reads == 0:
        assert storage.read("card") in contents
        reads += 1
    writer.join()


@pytest.mark.parametrize("tag", [b'"0f343b0931126a20f133d67c2b018a3b-2"', b'"no digest"', None])
def test_bytes_of_a_later_object_are_read_again(tag):
    """A store whose tag is no digest: the state after reading must be the state before."""

    class Object:
        def __init__(self, date, content):
            self.date = date
            self.content = content

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def metadata(self):
            return {b"Last-Modified": self.date} | ({b"ETag": tag} if tag else {})

        def size(self):
            return 3

        def read(self, length):
            return self.content[:length]

    requests = [
        Object(b"Monday", b"new content"),  # replaced after its length was asked
        Object(b"Tuesday", b"new content"),
        Object(b"Tuesday", b"new"),
        Object(b"Tuesday", b"new"),
    ]

    class Filesystem:
        def open_input_file(self, path):
            return requests.pop(0)

    assert Storage(Filesystem(), "bucket", "s3://bucket").read("card") == b"new"
    assert requests == []


def test_object_that_goes_between_two_requests_counts_as_absent():
    class Vanishing:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def metadata(self):
            return {}

        def size(self):
            return 3

        def read(self, _):
            raise OSError("AWS Error NO_SUCH_KEY during GetObject operation")

    class Filesystem:
        def open_input_file(self, path):
            return Vanishing()

        def get_file_info(self, path):
            return fs.FileInfo(path, fs.FileType.NotFound)

    with pytest.raises(FileNotFoundError, match="no file"):
        Storage(Filesystem(), "bucket", "s3://bucket").read("gone")


@pytest.mark.parametrize(
    "path", ["..", "../x", "a/../../x", "/etc/passwd", "", ".", "a\\b", "a\0b", "a/.."]
)
def test_path_that_would_leave_the_root_is_refused(storage, path):
    for attempt in (storage.read, storage.exists, storage.names, storage.walk, storage.delete):
        with pytest.raises(InvalidName, match="would leave the storage root"):
            attempt(path)
    with pytest.raises(InvalidName):
        storage.write(path, b"")


@given(st.text(alphabet="ab./\\\0 ", max_size=12))
def test_every_accepted_path_lies_below_the_root(path):
    storage = Storage(fs.LocalFileSystem(), "/the/root", "/the/root")
    try:
        located = storage.locate(path)
    except InvalidName:
        return
    assert os.path.normpath(located).startswith("/the/root/")


def test_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    storage = Storage.open(str(tmp_path))
    storage.write("a", b"old")

    def fail(source, target):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space left"):
        storage.write("a", b"new")
    assert storage.read("a") == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_killed_write_leaves_the_old_file_and_an_ignored_rest(tmp_path):
    storage = Storage.open(str(tmp_path))
    storage.write("folder/a", b"old")
    script = (
        "import os, signal, sys\n"
        "from loraland.storage import Storage\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Storage.open(sys.argv[1]).write('folder/a', b'new' * 1000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "platform")}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "folder").iterdir())) == 2
    assert storage.read("folder/a") == b"old"
    assert storage.names("folder") == ["a"] and storage.walk("folder") == ["a"]


def test_name_that_only_looks_temporary_is_shown(storage):
    storage.write("folder.tmp/a.tmp", b"1")
    assert storage.walk("folder.tmp") == ["a.tmp"]
    assert storage.names("folder.tmp") == ["a.tmp"]


def test_local_folder_is_made_and_home_is_understood(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    storage = Storage.open("~/deep/er")
    assert (tmp_path / "deep" / "er").is_dir() and storage.is_local
    assert storage.describe("x") == str(tmp_path / "deep" / "er" / "x")


def test_file_uri_is_a_local_folder(tmp_path):
    storage = Storage.open(f"file://{tmp_path}/made")
    storage.write("a/b", b"1")
    assert storage.is_local and (tmp_path / "made" / "a" / "b").read_bytes() == b"1"


@pytest.mark.parametrize(
    "uri",
    [
        "s3://KEY:SECRET@bucket/prefix?region=us-east-1&endpoint_override=localhost:9",
        "s3://SECRET@bucket",
        "s3://KEY:SEC/SECRET@bucket/prefix",
        "s3://KEY:12/SECRET@bucket/prefix",
        "s3://KEY:SEC?SECRET@bucket",
        "s3://KEY:SEC#SECRET@bucket",
        "s3://KEY:SECRET@[bucket",
        "gs://KEY:SECRET@bucket",
        "gs://KEY:12/SECRET@bucket",
        "nowhere://KEY:SECRET@x/y",
        "nowhere://KEY:SEC/SECRET@x/y",
    ],
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri):
    with pytest.raises(InvalidConfiguration, match="come from the environment") as caught:
        Storage.open(uri)
    told = "".join(traceback.format_exception(caught.value))
    assert "SEC" not in told.replace("AWS_SECRET_ACCESS_KEY", "") and "KEY:" not in told


def test_a_uri_is_shown_without_its_options():
    options = "region=us-east-1&endpoint_override=localhost:9"
    storage = Storage.open(f"s3://bucket/pre@fix:1?{options}")
    assert storage.describe("a") == "s3://bucket/pre@fix:1/a"
    for wrong in ("s3://bucket/x?nonsense=1", "nowhere://host:9/y?nonsense=1"):
        with pytest.raises(InvalidConfiguration, match="give a local folder") as caught:
            Storage.open(wrong)
        assert "nonsense" not in str(caught.value) and caught.value.__suppress_context__
