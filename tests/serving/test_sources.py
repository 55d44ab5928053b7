"""The allow-list of places that adapters may be brought in from."""

from __future__ import annotations

import pytest

from loraland.errors import SourceRefused
from loraland.serving.sources import Place, Sources

BUCKETS = ("s3://shelf/team-a?region=eu-west-1", "gs://open")


def test_nothing_is_allowed_by_default(tmp_path):
    for address in (str(tmp_path), "s3://shelf/a", "gs://b00/a", "hf://acme/dates"):
        with pytest.raises(SourceRefused, match=r"no \w+ is allowed; add the place to `sources`"):
            Sources(()).place(address)


def test_a_folder_below_an_allowed_root_is_a_place(tmp_path):
    (tmp_path / "team" / "dates").mkdir(parents=True)
    place = Sources([str(tmp_path)]).place(str(tmp_path / "team" / "dates"))
    assert place == Place("folder", str(tmp_path.resolve()), "team/dates")


@pytest.mark.parametrize("address", ["../../etc", "etc", "", "x" * 1001, "/a\nb", "file:///etc"])
def test_what_is_no_whole_path_is_refused(tmp_path, address):
    with pytest.raises(SourceRefused):
        Sources([str(tmp_path)]).place(address)


def test_neither_dots_nor_links_lead_out_of_a_root(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "root-of-others"
    root.mkdir()
    outside.mkdir()
    (root / "way-out").symlink_to(outside)
    (root / "circle").symlink_to(root / "circle")
    sources = Sources([str(root)])
    for address in (
        f"{root}/../root-of-others", f"{root}/way-out", str(outside), f"{root}/circle/x", "/etc",
    ):  # fmt: skip
        with pytest.raises(SourceRefused):
            sources.place(address)


def test_a_prefix_covers_whole_parts_and_brings_its_own_options():
    place = Sources(BUCKETS).place("s3://shelf/team-a/dates/v1/")
    assert place == Place("bucket", "s3://shelf/team-a?region=eu-west-1", "dates/v1")
    assert Sources(BUCKETS).place("gs://open/x").root == "gs://open"


@pytest.mark.parametrize(
    "address",
    [
        "s3://shelf/team-ab/dates", "s3://shelf", "s3://other/team-a/dates", "gs://shelf/team-a/x",
        "s3://shelf/team-a/../team-b", "s3://shelf/team-a/x?endpoint_override=evil:80",
        "s3://key:secret@shelf/team-a/x", "s3://shelf/team-a//x", "https://shelf/team-a/x",
        "ftp://shelf/team-a", "s3://shelf/team-a/x#y", "s3://open/x",
    ],
)  # fmt: skip
def test_other_buckets_prefixes_and_options_from_outside_are_refused(address):
    with pytest.raises(SourceRefused) as caught:
        Sources(BUCKETS).place(address)
    assert "secret" not in str(caught.value)


def test_an_owner_or_one_adapter_on_the_hub():
    sources = Sources(["hf://acme", "hf://other/dates"])
    assert sources.place("hf://acme/x@abc123") == Place("hub", "acme/x", revision="abc123")
    assert sources.place("hf://other/dates").root == "other/dates"
    for address in (
        "hf://other/topics",
        "hf://acme-2/x",
        "hf://acme",
        "hf://acme/../x",
        "hf://a/b/c",
    ):
        with pytest.raises(SourceRefused):
            sources.place(address)


@pytest.mark.parametrize(
    "entry", ["", "relative", "/", "s3://", "hf://", "s3://a:b@bucket/x", "x://y"]
)
def test_an_entry_that_is_no_place_is_a_mistake_of_the_configuration(entry):
    with pytest.raises(ValueError, match="source"):
        Sources([entry])
