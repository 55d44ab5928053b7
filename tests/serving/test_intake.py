"""Adapters brought in at run time: from where they may come, and what is checked before they do."""

from __future__ import annotations

import asyncio
import shutil
import uuid

import pytest
from safetensors.torch import load_file, save_file

from loraland.adapters.admission import Limits
from loraland.adapters.folder import canonical_config, read_card, read_config, write_card
from loraland.adapters.registry import Registry
from loraland.engine.batched import BatchedEngine
from loraland.errors import AdapterRejected, SourceRefused, SourceUnavailable
from loraland.serving import intake as intake_page
from loraland.serving.examination import Examiner
from loraland.serving.intake import Intake
from loraland.serving.sources import Sources
from loraland.storage import Storage

FILES = ("adapter_config.json", "adapter_model.safetensors", "card.json")


@pytest.fixture(scope="module")
def shop(new_shop):
    """The shop that others give away what they have trained."""
    shop = new_shop()
    shop.dates = shop.publish("dates", 1)
    return shop


@pytest.fixture
def offered(shop, tmp_path):
    """A folder as another team would offer it."""
    root = tmp_path / "offers"
    folder = shop.registry.fetch(shop.dates, tmp_path / "fetched")
    shutil.copytree(folder, root / "dates")
    return root / "dates"


class Replicas:
    """One replica, whose engine lives as long as a test's loop."""

    def __init__(self, shop):
        self._base, self.examined = shop.base(), 0

    async def examine(self, base, files):
        assert base == "tiny-llama"
        self.examined += 1
        engine = BatchedEngine.of(self._base)
        try:
            await Examiner(self._base, engine, Limits(max_rank=8)).examine(files)
        finally:
            assert engine.residency() == []
            await engine.close()


def bring(shop, address, allowed, tmp_path, aliases=()):
    registry = Registry(Storage.open(str(tmp_path / "ours")))
    intake = Intake(Sources(allowed), registry, ["tiny-llama"], Replicas(shop))
    return registry, asyncio.run(intake.bring_in(address, aliases))


def refused(shop, offered, tmp_path, error, match):
    with pytest.raises(error, match=match):
        bring(shop, str(offered), [str(offered.parent)], tmp_path)
    assert Registry(Storage.open(str(tmp_path / "ours"))).list() == []


def test_a_folder_becomes_a_version_that_is_the_same_and_aliases_only_if_asked(
    shop, offered, tmp_path
):
    registry, name = bring(shop, str(offered), [str(offered.parent)], tmp_path)
    assert name == shop.dates
    assert registry.card(name).canary == read_card(offered).canary
    assert registry.aliases("tiny-llama", "dates") == {}
    registry, _ = bring(shop, str(offered), [str(offered.parent)], tmp_path, ["prod"])
    assert registry.aliases("tiny-llama", "dates") == {"prod": name.version}


def test_an_object_store_is_read_below_its_prefix(shop, offered, tmp_path, s3_endpoint):
    prefix = uuid.uuid4().hex
    options = f"?endpoint_override={s3_endpoint}&scheme=http&region=us-east-1"
    store = Storage.open(f"s3://shelf/{prefix}{options}")
    for file in FILES:
        store.write(f"dates/v1/{file}", (offered / file).read_bytes())
    allowed = [f"s3://shelf/{prefix}{options}"]
    _, name = bring(shop, f"s3://shelf/{prefix}/dates/v1", allowed, tmp_path)
    assert name == shop.dates
    with pytest.raises(AdapterRejected, match=r"no adapter_config\.json at"):
        bring(shop, f"s3://shelf/{prefix}/dates", allowed, tmp_path)
    with pytest.raises(SourceRefused):
        bring(shop, "s3://other/dates/v1", allowed, tmp_path)


def test_the_hub_is_read_through_its_cache_when_it_is_offline(shop, offered, tmp_path, monkeypatch):
    """In the layout of the hub's own cache, in which files are links to their content."""
    repo, commit = tmp_path / "hub" / "models--acme--dates", "a" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "blobs").mkdir()
    (repo / "snapshots" / commit).mkdir(parents=True)
    for file in FILES:
        shutil.copy(offered / file, repo / "blobs" / f"blob-{file}")
        (repo / "snapshots" / commit / file).symlink_to(f"../../blobs/blob-{file}")
    monkeypatch.setattr(intake_page, "HUB_CACHE", str(tmp_path / "hub"))
    _, name = bring(shop, "hf://acme/dates", ["hf://acme"], tmp_path)
    assert name == shop.dates
    with pytest.raises(SourceUnavailable, match="hf://acme/topics"):
        bring(shop, "hf://acme/topics", ["hf://acme"], tmp_path)
    blob = repo / "blobs" / "blob-card.json"
    blob.unlink()
    blob.symlink_to("/etc/passwd")
    with pytest.raises(AdapterRejected, match="link to outside"):
        bring(shop, "hf://acme/dates", ["hf://acme"], tmp_path)


def test_a_file_that_is_a_link_to_elsewhere_is_refused(shop, offered, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (offered / "card.json").unlink()
    (offered / "card.json").symlink_to(secret)
    refused(shop, offered, tmp_path, AdapterRejected, "link to outside")


def test_a_foreign_folder_without_a_card_is_told_what_it_lacks(shop, offered, tmp_path):
    (offered / "card.json").unlink()
    refused(shop, offered, tmp_path, AdapterRejected, "has no card.json.*base_fingerprint.*canary")


def test_weights_that_are_not_those_of_the_card_are_refused(shop, offered, tmp_path):
    file = offered / "adapter_model.safetensors"
    save_file({name: tensor * 2 for name, tensor in load_file(file).items()}, file)
    refused(shop, offered, tmp_path, AdapterRejected, "its card says")


def test_an_adapter_that_does_not_compute_what_its_card_says_is_refused(shop, offered, tmp_path):
    """Consistent in itself: only the canary on the model shows it."""
    card = read_card(offered)
    canary = card.canary.model_copy(update={"logits": [one + 9 for one in card.canary.logits]})
    write_card(offered, card.model_copy(update={"canary": canary}))
    refused(shop, offered, tmp_path, AdapterRejected, "canary prompt")


def test_a_base_that_is_not_served_and_a_file_that_is_too_large_are_refused(
    shop, offered, tmp_path, monkeypatch
):
    card = read_card(offered)
    write_card(offered, card.model_copy(update={"base": "other"}))
    refused(shop, offered, tmp_path, AdapterRejected, "base 'other', which is not served here")
    write_card(offered, card)
    monkeypatch.setitem(intake_page.FILES, "adapter_model.safetensors", 100)
    refused(shop, offered, tmp_path, AdapterRejected, "more than 100 bytes")


def test_code_and_pickles_beside_the_files_never_enter(shop, offered, tmp_path):
    (offered / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    config = read_config(offered)
    (offered / "adapter_config.json").write_bytes(canonical_config(config, "/etc/passwd"))
    registry, name = bring(shop, str(offered), [str(offered.parent)], tmp_path)
    fetched = registry.fetch(name, tmp_path / "again")
    assert sorted(file.name for file in fetched.iterdir()) == sorted(FILES)
    assert read_config(fetched)["base_model_name_or_path"] == "tiny-llama"


def test_an_absent_folder_says_so(shop, offered, tmp_path):
    with pytest.raises(SourceUnavailable, match="no folder"):
        bring(shop, str(offered / "none"), [str(offered)], tmp_path)
