"""Features, clusters, scan, names and hygiene, on a made-up world."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from loraland.errors import DataRefused, InvalidConfiguration
from loraland.palate.cases import planted_of
from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.cleaning import catalogue_of
from loraland.palate.clusters import calibrated, thin
from loraland.palate.features import Features, FeatureSettings
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.generator import World, generate
from loraland.palate.hygiene import colour_of, colour_purity, hygiene
from loraland.palate.model import PalateModel
from loraland.palate.naming import names_of
from loraland.palate.rivals import HardModel
from loraland.palate.scan import ScanSettings, Trial, finalists, numbers, run_here, unstable
from loraland.palate.scan_on_ray import runner_on


def test_planted_palates_are_recovered(model: PalateModel, truth: Ints) -> None:
    assert adjusted_rand_score(truth, model.palate) >= 0.8


@pytest.mark.slow
def test_planted_palates_are_recovered_when_their_number_is_not_told() -> None:
    world = generate(rows=6_000, palates=10, seed=5)
    catalogue = catalogue_of(world.reviews).catalogue
    found = fit(catalogue, FitSettings(scan=ScanSettings(most=20)))
    assert adjusted_rand_score(planted_of(world, catalogue), found.palate) >= 0.8
    assert [row["k"] for row in found.facts["scan"]] == list(range(8, 21, 2))


def test_names_of_palates_are_planted_words(model: PalateModel, world: World, truth: Ints) -> None:
    for at, palate in enumerate(model.palates):
        planted = int(np.bincount(truth[model.palate == at]).argmax())
        first = {word for term in palate.terms[:3] for word in term.split()}
        assert first & set(world.palate_words[planted])
    assert len({palate.name for palate in model.palates}) == len(model.palates)


def test_memberships_are_shares_and_soft_where_a_text_says_little(model: PalateModel) -> None:
    assert np.allclose(model.membership.sum(axis=1), 1, atol=1e-5)
    clear = model.membership.max(axis=1)
    vague = model.memberships(np.zeros((1, model.places.shape[1]), np.float32)).max()
    assert vague < np.median(clear)
    assert model.mixture.temperature > 1  # a mixture in many dimensions is too certain


def test_the_same_seed_gives_the_same_model(catalogue: Catalogue, model: PalateModel) -> None:
    again = fit(catalogue, FitSettings(k=len(model.palates)))
    assert np.array_equal(again.places, model.places)
    assert again.palates == model.palates
    assert np.array_equal(again.membership, model.membership)


def test_new_items_are_placed_where_the_fit_places_them(
    model: PalateModel, catalogue: Catalogue
) -> None:
    few = catalogue.take(range(20))
    assert np.allclose(model.features.place(few), model.places[:20], atol=1e-5)


def test_no_name_is_a_term(model: PalateModel, catalogue: Catalogue) -> None:
    words = {word for term in model.features.terms for word in term.split()}
    names = {
        part.lower() for name in (*catalogue.kinds, *catalogue.places) for part in name.split()
    }
    assert not words & (names - {"coast", "valley"} - set(model.features.terms))
    assert not any(kind.lower() in words for kind in catalogue.kinds)


def test_an_unknown_text_has_no_place(model: PalateModel) -> None:
    assert not model.features.place_text("zzz qqq").any()
    assert model.features.place_text(model.palates[0].terms[0]).any()


def test_a_block_of_weight_nothing_is_left_out(catalogue: Catalogue) -> None:
    text = Features.learn(catalogue, FeatureSettings(dimensions=8, lexicon=0))
    both = Features.learn(catalogue, FeatureSettings(dimensions=8, metadata=0.2))
    assert text.place(catalogue).shape[1] == 8
    assert both.place(catalogue).shape[1] > 8 + 2
    assert np.allclose(np.linalg.norm(both.place(catalogue), axis=1), 1, atol=1e-5)


def test_metadata_move_an_item_only_when_asked_for(catalogue: Catalogue) -> None:
    dearer = replace(catalogue, price=catalogue.price * 5)
    without = Features.learn(catalogue, FeatureSettings(dimensions=8))
    with_them = Features.learn(catalogue, FeatureSettings(dimensions=8, metadata=0.5))
    assert np.array_equal(without.place(catalogue), without.place(dearer))
    assert not np.allclose(with_them.place(catalogue), with_them.place(dearer))


def test_texts_without_telling_words_are_refused(catalogue: Catalogue) -> None:
    silent = replace(catalogue, texts=("the wine is a wine",) * len(catalogue))
    with pytest.raises(DataRefused, match="telling words"):
        fit(silent, FitSettings(k=3))


@pytest.mark.parametrize("k", [1, 100_000])
def test_an_impossible_number_of_palates_is_refused(catalogue: Catalogue, k: int) -> None:
    with pytest.raises(InvalidConfiguration, match="can be had"):
        fit(catalogue, FitSettings(k=k))


def test_the_temperature_is_that_of_least_loss(model: PalateModel) -> None:
    places, palate = model.places[:400], model.palate[:400]
    cold = replace(model.mixture, temperature=1.0)
    # Told by its own whole texts, a mixture need not doubt.
    assert calibrated(cold, places, palate) < model.mixture.temperature


def test_thinning_takes_words_away_and_keeps_their_order() -> None:
    documents = [[f"w{i}" for i in range(300)]]
    [kept] = thin(documents, 1 / 3, seed=0)
    assert kept == [word for word in documents[0] if word in set(kept)]
    assert 150 < len(kept) < 250
    assert thin(documents, 1 / 3, seed=0) == [kept]


def test_a_trial_on_ray_gives_what_it_gives_here(model: PalateModel) -> None:
    class Here:
        """As much of Ray as the runner asks for; the real one is asked in a test of its own."""

        def remote(self, function):  # type: ignore[no-untyped-def]
            class Task:
                def options(self, **_: object) -> Task:
                    return self

                def remote(self, *arguments):  # type: ignore[no-untyped-def]
                    return function(*arguments)

            return Task()

        def put(self, value: object) -> object:
            return value

        def get(self, values: object) -> object:
            return values

    settings = ScanSettings(sample=300)
    expected = run_here(model.places[:400], [3, 5], settings, 0)
    assert runner_on(Here())(model.places[:400], [3, 5], settings, 0) == expected


@pytest.mark.ray
def test_the_scan_on_a_cluster_gives_the_trials_of_one_process(
    ray_cluster: object, model: PalateModel
) -> None:
    import ray

    settings = ScanSettings(sample=300)
    expected = run_here(model.places[:400], [3, 5], settings, 0)
    found = runner_on(ray, cpus=0.5)(model.places[:400], [3, 5], settings, 0)
    assert [trial.k for trial in found] == [3, 5]
    for one, other in zip(found, expected, strict=True):
        assert one.silhouette == pytest.approx(other.silhouette, abs=1e-3)
        assert one.stability == pytest.approx(other.stability, abs=0.05)


def test_among_equal_silhouettes_stable_numbers_win() -> None:
    settings = ScanSettings()
    trials = [
        Trial(8, 0.200, 0.3, 0.1, None),
        Trial(10, 0.195, 0.7, 0.1, None),
        Trial(12, 0.100, 0.9, 0.1, None),
    ]
    assert [trial.k for trial in finalists(trials, settings)] == [10]
    unstable = [trial._replace(stability=0.1 + trial.k / 100) for trial in trials]
    assert {trial.k for trial in finalists(unstable, settings)} == {8, 10}


def test_palates_that_do_not_come_again_are_an_alarm() -> None:
    trials = [Trial(8, 0.2, 0.3, 0.1, None), Trial(10, 0.2, 0.7, 0.1, None)]
    [alarm] = unstable(trials, 8, ScanSettings())
    assert "ARI of 0.30" in alarm
    assert unstable(trials, 10, ScanSettings()) == []


def test_ten_wines_are_enough_to_fit(catalogue: Catalogue) -> None:
    few = catalogue.take(range(10))
    found = fit(few).warm()
    assert found.facts["k"] == 2
    assert [row["k"] for row in found.facts["scan"]] == [2]


def test_few_items_get_few_palates() -> None:
    assert numbers(ScanSettings(), 10) == [2]
    assert max(numbers(ScanSettings(), 60)) == 12
    assert numbers(ScanSettings(), 100_000)[-1] == 40


def test_equal_names_are_told_apart() -> None:
    names = names_of([("a", "b", "c", "d"), ("a", "b", "c", "e"), ()])
    assert len(set(names)) == 3
    assert names[2] == "mixed"


def test_hygiene_calls_grapes_grapes(catalogue: Catalogue, model: PalateModel) -> None:
    codes = catalogue.kind_codes
    alarms = hygiene(catalogue, model.places, codes, int(codes.max()) + 1)["alarms"]
    assert any("just grapes" in alarm for alarm in alarms)
    assert not any("grapes" in alarm for alarm in model.facts["hygiene"]["alarms"])


def test_hygiene_calls_writing_writing(catalogue: Catalogue, model: PalateModel) -> None:
    _, codes = np.unique(catalogue.critics, return_inverse=True)
    alarms = hygiene(catalogue, model.places, codes, int(codes.max()) + 1)["alarms"]
    assert any("styles of writing" in alarm for alarm in alarms)


@pytest.mark.parametrize(
    ("kind", "colour"),
    [
        ("Pinot Noir", "red"),
        ("White Blend", "white"),
        ("Rosé", "rosé"),
        ("Xyz", None),
        ("Sparkling Blend", "sparkling"),
        ("Portuguese Red", "red"),
    ],
)
def test_colours_of_varieties(kind: str, colour: str | None) -> None:
    assert colour_of(kind) == colour


def test_purity_of_colour_is_the_share_of_the_commonest() -> None:
    kinds = ["Merlot", "Malbec", "Riesling", "Riesling", "unknown"]
    assert colour_purity(kinds, np.asarray([0, 0, 0, 1, 1])) == pytest.approx(0.75)
    assert colour_purity(["unknown"], np.asarray([0])) is None


def test_hard_palates_are_those_of_k_means(model: PalateModel) -> None:
    hard = HardModel(**{f: getattr(model, f) for f in model.__dataclass_fields__})
    assert set(np.unique(hard.membership)) == {0.0, 1.0}
    centres = model.mixture.centres
    distances = ((model.places[:50, None, :] - centres[None]) ** 2).sum(axis=2)
    assert np.array_equal(hard.palate[:50], distances.argmin(axis=1))


@pytest.mark.filterwarnings("error")
def test_wines_without_any_price_are_still_learned_from(catalogue: Catalogue) -> None:
    free = replace(catalogue, price=np.full(len(catalogue), np.nan))
    for metadata in (0.0, 0.3):
        settings = FitSettings(k=4, features=FeatureSettings(metadata=metadata))
        found = fit(free, settings).warm()
        assert found.facts["hygiene"]["without_price"] == 1.0
        assert np.isfinite(found.places).all()
