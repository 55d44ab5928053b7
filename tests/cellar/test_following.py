from __future__ import annotations

from pathlib import Path

import pytest

from loraland.cellar import following
from loraland.cellar.following import Follower, ensure_model
from loraland.cellar.host import Host
from loraland.cellar.opinions import said_of
from loraland.cellar.store import Opinion, Store, now_ms
from loraland.errors import UnknownModel
from loraland.palate import artifact
from loraland.palate.alignment import refit
from loraland.palate.fitting import FitSettings
from loraland.palate.model import PalateModel
from loraland.storage import Storage
from tests.cellar.test_store import liked


@pytest.fixture
def storage(tmp_path: Path, model: PalateModel) -> Storage:
    storage = Storage.open(str(tmp_path / "storage"))
    artifact.save(model, storage, "wine")
    return storage


@pytest.fixture(scope="module")
def refitted(model: PalateModel) -> PalateModel:
    """Fitted anew on most of the wines, from another seed."""
    kept = model.catalogue.take(range(0, len(model.catalogue) - 100))
    return refit(kept, model, FitSettings(k=7, seed=9))[0]


def test_the_newest_model_takes_over_while_the_older_one_answers(
    storage: Storage, refitted: PalateModel
) -> None:
    now = [0.0]
    follower = Follower(storage, "wine", lambda: now[0])
    first = follower.current()
    second = artifact.save(refitted, storage, "wine")
    assert follower.current() is first  # not looked yet
    now[0] += following.BELIEVED_S
    assert follower.current() is first  # the newer one is loaded aside
    follower._looking.acquire()  # until that is done
    assert follower.current().version == second != first.version


def test_a_model_that_cannot_be_read_leaves_the_older_one(
    storage: Storage, refitted: PalateModel, caplog: pytest.LogCaptureFixture
) -> None:
    follower = Follower(storage, "wine")
    first = follower.current().version
    second = artifact.save(refitted, storage, "wine")
    place = f"palates/wine/versions/{second}/words.json"
    whole = storage.read(place)
    storage.write(place, b"{}")
    assert not follower.refresh() and follower.current().version == first
    assert f"stay @{first}" in caplog.text
    storage.write(place, whole)
    assert follower.refresh() and follower.current().version == second
    assert not follower.refresh()


def test_people_keep_their_palates_when_the_model_is_fitted_anew(
    storage: Storage, store: Store, model: PalateModel, refitted: PalateModel
) -> None:
    follower = Follower(storage, "wine")
    host = Host(store, follower)
    people = {}
    for palate in range(len(model.palates)):
        person = store.add_person().id
        mine = model.members[palate][:8]
        keys = [model.catalogue.keys[place] for place in mine]
        events = [liked(str(n), key)._replace(at_ms=now_ms()) for n, key in enumerate(keys)]
        store.append(person, events)
        people[person] = host.palates(person).palates[0].id
    assert len(set(people.values())) == len(model.palates)
    artifact.save(refitted, storage, "wine")
    assert follower.refresh()
    survived = {one.id for one in refitted.palates} & {one.id for one in model.palates}
    assert len(survived) >= len(model.palates) - 1
    for person, palate in people.items():
        if palate in survived:
            assert host.palates(person).palates[0].id == palate


def test_opinions_on_what_left_the_catalogue_are_told_and_left_out(
    model: PalateModel, refitted: PalateModel
) -> None:
    gone, kept = model.catalogue.keys[-1], model.catalogue.keys[0]
    opinions = [Opinion("liked", gone, 0), Opinion("liked", kept, 86_400_000)]
    said = said_of(opinions, refitted, now_ms=3 * 86_400_000)
    assert said.tastes.liked == (kept,) and said.tastes.ages_days == {kept: 2.0}
    assert said.notes == ("1 of 2 opinions are of items that are no longer there",)


def test_made_up_reviews_are_fitted_once_and_only_where_nothing_is(
    tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "ROWS", 400)
    monkeypatch.setattr(following, "PALATES", 4)
    before = artifact.latest(storage, "wine")
    ensure_model(storage, "wine")
    assert artifact.latest(storage, "wine") == before
    fresh, other = (Storage.open(str(tmp_path / name)) for name in ("a", "b"))
    with pytest.raises(UnknownModel, match="loraland palate fit"):
        Follower(fresh, "wine")
    for place in (fresh, fresh, other):
        ensure_model(place, "wine")
    assert artifact.latest(fresh, "wine") == artifact.latest(other, "wine")
    facts = Follower(fresh, "wine").current().facts
    assert facts["source"]["kind"] == "generator" and facts["items"] < 400
