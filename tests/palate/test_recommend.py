"""Preference, lists, reasons, guesses and cards."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraland.errors import InvalidRequest, UnknownItem
from loraland.palate.catalogue import Catalogue
from loraland.palate.exploring import DRAWS, guess
from loraland.palate.model import PalateModel
from loraland.palate.onboarding import entropy_reduction, first_cards, next_card
from loraland.palate.preference import Tastes, TasteSettings, preferred_of, profile
from loraland.palate.recommend import recommend
from loraland.palate.scoring import ListSettings, Wish


def of_palate(model: PalateModel, palate: int, count: int) -> tuple[str, ...]:
    """Keys of the items that are most of a palate."""
    best = np.argsort(-model.membership[:, palate], kind="stable")[:count]
    return tuple(model.catalogue.keys[place] for place in best)


def test_likes_raise_a_palate_and_dislikes_lower_it(model: PalateModel) -> None:
    nobody = profile(model, Tastes()).theta
    fan = profile(model, Tastes(liked=of_palate(model, 2, 5))).theta
    foe = profile(model, Tastes(disliked=of_palate(model, 2, 5))).theta
    assert fan[2] > nobody[2] > foe[2]
    assert fan.sum() == pytest.approx(1) == pytest.approx(foe.sum())


def test_theta_follows_the_formula(model: PalateModel) -> None:
    liked, disliked = of_palate(model, 0, 3), of_palate(model, 1, 2)
    p = model.membership
    at, away = model.catalogue.positions(liked), model.catalogue.positions(disliked)
    raw = np.maximum(2 * model.share + p[at].sum(axis=0) - 0.5 * p[away].sum(axis=0), 0)
    found = profile(model, Tastes(liked=liked, disliked=disliked)).theta
    assert np.allclose(found, raw / raw.sum(), atol=1e-6)


def test_an_opinion_fades_by_half_in_half_a_year(model: PalateModel) -> None:
    key = of_palate(model, 3, 1)
    old = profile(model, Tastes(liked=key, ages_days={key[0]: 180.0}))
    fresh = profile(model, Tastes(liked=key))
    assert old.evidence == pytest.approx(0.5)
    assert fresh.theta[3] > old.theta[3] > model.share[3]


def test_own_words_count_as_likes(model: PalateModel) -> None:
    terms = model.palates[4].terms
    said = profile(model, Tastes(text=f"{terms[0]}, {terms[1]} and {terms[2]}"))
    assert int(said.theta.argmax()) == 4
    unknown = profile(model, Tastes(text="zzz"))
    assert unknown.notes[0].startswith("no word of 'zzz'")
    assert np.allclose(unknown.theta, model.share, atol=1e-6)


def test_preferred_palates_hold_four_fifths_and_are_three_at_most() -> None:
    assert preferred_of(np.asarray([0.9, 0.06, 0.04]), 0.8, 3) == (0,)
    assert preferred_of(np.asarray([0.1, 0.45, 0.45]), 0.8, 3) == (1, 2)
    assert preferred_of(np.full(10, 0.1), 0.8, 3) == (0, 1, 2)


def test_a_list_is_of_the_liked_palates(model: PalateModel) -> None:
    liked = of_palate(model, 1, 8)
    shelf = recommend(model, Tastes(liked=liked), Wish(count=10))
    assert len(shelf.picks) == 10
    assert {pick.palate_id for pick in shelf.picks[:3]} == {model.palates[1].id}
    assert not {pick.key for pick in shelf.picks} & set(liked)
    assert all(pick.propensity == 1.0 and not pick.is_guess for pick in shelf.picks)
    assert shelf.notes == ()


key_lists = st.lists(st.integers(0, 1000), max_size=8, unique=True)


@settings(deadline=None, max_examples=40)
@given(
    key_lists,
    key_lists,
    st.integers(1, 25),
    st.one_of(st.none(), st.floats(8, 200)),
    st.sampled_from(["ratio", "residual", "frontier"]),
    st.one_of(st.none(), st.integers(0, 1000)),
)
def test_no_list_breaks_its_rules(
    model: PalateModel,
    liked: list[int],
    disliked: list[int],
    count: int,
    budget: float | None,
    objective: str,
    seed: int | None,
) -> None:
    keys = model.catalogue.keys
    yes = tuple(keys[i] for i in liked)
    no = tuple(keys[i] for i in disliked if keys[i] not in yes)
    wish = Wish(count, budget, "hard", objective, seed)  # type: ignore[arg-type]
    shelf = recommend(model, Tastes(liked=yes, disliked=no), wish)
    assert len({pick.key for pick in shelf.picks}) == len(shelf.picks) <= count
    assert not {pick.key for pick in shelf.picks} & {*yes, *no}
    assert max(Counter(pick.maker for pick in shelf.picks).values(), default=0) <= 2
    assert max(Counter(pick.kind for pick in shelf.picks).values(), default=0) <= 3
    for pick in shelf.picks:
        assert pick.price is not None
        assert budget is None or pick.price <= budget
        assert 0 < pick.propensity <= 1
        text = model.catalogue.texts[model.catalogue.index[pick.key]].lower()
        assert all(word in text for word in (*pick.why.shared, *pick.why.typical))
    if len(shelf.picks) < count:
        assert any("only" in note or "nothing is left" in note for note in shelf.notes)


def test_shared_words_stand_in_a_liked_text_too(model: PalateModel) -> None:
    from loraland.palate.words import bare_words, singular

    liked = of_palate(model, 0, 6)
    spoken = {
        word
        for key in liked
        for word in bare_words(model.catalogue.texts[model.catalogue.index[key]])
    }
    picks = recommend(model, Tastes(liked=liked)).picks
    assert any(pick.why.shared for pick in picks)
    for pick in picks:
        assert {singular(word) for word in pick.why.shared} <= spoken
        assert pick.title.split()[0].lower() not in pick.why.shared


def test_a_person_gets_the_same_list_twice(model: PalateModel) -> None:
    tastes = Tastes(liked=of_palate(model, 0, 4))
    assert recommend(model, tastes).picks == recommend(model, tastes).picks
    wish = Wish(seed=7)
    assert recommend(model, tastes, wish).picks == recommend(model, tastes, wish).picks


def test_the_price_counts_only_when_asked(model: PalateModel) -> None:
    tastes = Tastes(liked=of_palate(model, 0, 6))
    plain = ListSettings(explore=0)
    values = {}
    for use in (True, False):
        shelf = recommend(model, tastes, Wish(20), replace(plain, use_value=use))
        values[use] = np.mean([pick.value for pick in shelf.picks])
    assert values[True] > values[False] + 0.3


def test_places_follow_theta(model: PalateModel) -> None:
    tastes = Tastes(liked=(*of_palate(model, 0, 6), *of_palate(model, 1, 6)))
    loose = ListSettings(per_kind=20, per_maker=20)
    counts = Counter(pick.palate_id for pick in recommend(model, tastes, Wish(10), loose).picks)
    theta = profile(model, tastes).theta
    assert theta[0] + theta[1] > 0.7
    assert min(counts[model.palates[0].id], counts[model.palates[1].id]) >= 3


def test_diversity_sets_items_apart(model: PalateModel) -> None:
    from loraland.palate.metrics import intra_list_distance

    tastes = Tastes(liked=of_palate(model, 0, 6))
    distances = []
    for diversity in (1.0, 0.3):
        shelf = recommend(model, tastes, Wish(10), ListSettings(diversity=diversity, quota=False))
        at = model.catalogue.positions(pick.key for pick in shelf.picks)
        distances.append(intra_list_distance(model.places[at]))
    assert distances[1] > distances[0]


def test_a_soft_budget_fades_instead_of_cutting(model: PalateModel) -> None:
    tastes = Tastes(liked=of_palate(model, 0, 6))
    free = recommend(model, tastes, Wish(10))
    soft = recommend(model, tastes, Wish(10, budget=15, budget_kind="soft"))
    mean = [np.mean([pick.price for pick in shelf.picks]) for shelf in (free, soft)]
    assert mean[1] < mean[0]


@pytest.mark.parametrize("budget", [0.0, -5.0, float("nan"), float("inf")])
def test_an_absurd_budget_is_refused(model: PalateModel, budget: float) -> None:
    with pytest.raises(InvalidRequest, match="is no price"):
        recommend(model, Tastes(), Wish(budget=budget))


def test_a_budget_below_everything_names_the_cheapest(model: PalateModel) -> None:
    with pytest.raises(InvalidRequest, match=r"nothing costs 0\.5 or less; the cheapest costs"):
        recommend(model, Tastes(), Wish(budget=0.5))


@pytest.mark.parametrize("count", [0, -1, 101])
def test_an_absurd_count_is_refused(model: PalateModel, count: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 100"):
        recommend(model, Tastes(), Wish(count=count))


def test_an_unknown_wine_is_refused(model: PalateModel) -> None:
    with pytest.raises(UnknownItem, match="no item 'nothing'"):
        recommend(model, Tastes(liked=("nothing",)))


def test_liking_and_disliking_one_wine_is_refused(model: PalateModel) -> None:
    key = model.catalogue.keys[0]
    with pytest.raises(InvalidRequest, match="both liked and disliked"):
        profile(model, Tastes(liked=(key,), disliked=(key,)))


@pytest.mark.parametrize("age", [-1.0, float("nan"), float("inf")])
def test_an_absurd_age_is_refused(model: PalateModel, age: float) -> None:
    key = model.catalogue.keys[0]
    with pytest.raises(InvalidRequest, match="no number of days"):
        profile(model, Tastes(liked=(key,), ages_days={key: age}))


def test_who_dislikes_everything_gets_what_is_disliked_least(model: PalateModel) -> None:
    everything = tuple(key for palate in range(6) for key in of_palate(model, palate, 30))
    tastes = Tastes(disliked=tuple(dict.fromkeys(everything)))
    shelf = recommend(model, tastes)
    assert shelf.profile.theta.sum() == pytest.approx(1)
    assert any("disliked least" in note for note in shelf.notes)
    assert len(shelf.picks) == 10


def test_who_has_tasted_everything_is_told_so(model: PalateModel) -> None:
    shelf = recommend(model, Tastes(tasted=model.catalogue.keys))
    assert shelf.picks == ()
    assert any("nothing is left" in note for note in shelf.notes)


def test_without_history_every_palate_gives_its_best_value(model: PalateModel) -> None:
    shelf = recommend(model, Tastes(), Wish(count=12))
    assert len({pick.palate_id for pick in shelf.picks}) == len(model.palates)
    assert any("nothing is liked yet" in note for note in shelf.notes)
    assert np.mean([pick.why.percentile for pick in shelf.picks]) > 80


def test_without_any_price_quality_counts_and_it_is_said(
    model: PalateModel, catalogue: Catalogue
) -> None:
    free = replace(catalogue, price=np.full(len(catalogue), np.nan))
    bare = replace(model, catalogue=free)
    shelf = recommend(bare, Tastes(liked=of_palate(model, 0, 5)), Wish(budget=20))
    assert any("no item has a price" in note for note in shelf.notes)
    assert len(shelf.picks) == 10
    assert all(
        p.price is None and p.value is None and p.why.usual_price is None for p in shelf.picks
    )
    assert np.mean([pick.quality for pick in shelf.picks]) > catalogue.quality.mean()


def test_a_list_is_full_where_caps_allow_it(model: PalateModel, catalogue: Catalogue) -> None:
    """One kind fills the best of the scores; the others are looked for further down."""
    best = set(of_palate(model, 0, 900))
    kinds = tuple(
        "One" if key in best else f"Kind {at % 9}" for at, key in enumerate(catalogue.keys)
    )
    narrow = replace(model, catalogue=replace(catalogue, kinds=kinds))
    shelf = recommend(narrow, Tastes(liked=of_palate(model, 0, 8)), Wish(count=20))
    assert len(shelf.picks) == 20
    assert Counter(pick.kind for pick in shelf.picks)["One"] == 3


def test_a_guess_is_shown_as_often_as_its_propensity_says(model: PalateModel) -> None:
    tastes = Tastes(liked=of_palate(model, 0, 3))
    eager = ListSettings(explore=0.5)
    shelves = [recommend(model, tastes, Wish(seed=seed), eager) for seed in range(200)]
    last = [shelf.picks[-1] for shelf in shelves]
    assert 0.3 < np.mean([pick.is_guess for pick in last]) < 0.6
    usual = Counter(pick.key for pick in last).most_common(1)[0][0]
    shown = np.mean([pick.key == usual for pick in last])
    told = np.mean([pick.propensity for pick in last if pick.key == usual])
    assert told == pytest.approx(shown, abs=0.1)


def test_propensities_of_all_that_may_be_shown_sum_to_one(model: PalateModel) -> None:
    possible = np.ones(len(model.catalogue), dtype=bool)
    worth = np.nan_to_num(model.worth["residual"])
    theta = np.asarray([0.4, 0.3, 0.2, 0.1, 0, 0])
    told: dict[int, list[float]] = {}
    for seed in range(300):
        found = guess(model, worth, possible, theta, 4, last=7, chance=0.5, seed=seed)
        assert found.is_guess == (found.place != 7)
        assert 0.5 / DRAWS <= found.propensity <= 1
        told.setdefault(found.place, []).append(found.propensity)
    # Everything that was shown often enough to be sure of: the rest is rare.
    assert 0.9 < sum(np.mean(values) for values in told.values()) < 1.05


def test_first_cards_lie_apart_and_in_different_palates(model: PalateModel) -> None:
    cards = first_cards(model, 6)
    assert len({card.palate_id for card in cards}) == 6
    assert len({card.key for card in first_cards(model, 24)}) == 24
    for card in cards:
        text = model.catalogue.texts[model.catalogue.index[card.key]].lower()
        assert card.words and all(word in text for word in card.words)


@pytest.mark.parametrize("count", [0, 25])
def test_an_absurd_number_of_cards_is_refused(model: PalateModel, count: int) -> None:
    with pytest.raises(InvalidRequest, match="1 to 24"):
        first_cards(model, count)


def test_the_next_card_is_new_and_answers_lessen_doubt(model: PalateModel) -> None:
    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    doubts = []
    for _ in range(10):
        tastes = Tastes(liked=liked, disliked=disliked)
        theta = profile(model, tastes).theta
        doubts.append(float(-np.sum(theta * np.log(np.maximum(theta, 1e-12)))))
        card = next_card(model, tastes)
        assert card is not None and card.key not in (*liked, *disliked)
        if card.palate_id == model.palates[3].id:
            liked += (card.key,)
        else:
            disliked += (card.key,)
    assert doubts[-1] < doubts[0]
    assert int(profile(model, Tastes(liked=liked, disliked=disliked)).theta.argmax()) == 3


def test_an_answer_tells_most_where_palates_differ() -> None:
    theta = np.asarray([0.5, 0.5])
    gain = entropy_reduction(theta, np.asarray([[1.0, 0.0], [0.5, 0.5], [0.7, 0.3]]))
    assert gain[0] > gain[2] > gain[1] == pytest.approx(0, abs=1e-12)


def test_no_card_is_left_when_all_are_answered(model: PalateModel) -> None:
    assert next_card(model, Tastes(tasted=model.catalogue.keys)) is None


def test_settings_of_taste_reach_the_list(model: PalateModel) -> None:
    tastes = Tastes(liked=of_palate(model, 0, 2))
    strong = recommend(model, tastes, settings=ListSettings(taste=TasteSettings(prior=0.01)))
    weak = recommend(model, tastes, settings=ListSettings(taste=TasteSettings(prior=50)))
    assert strong.profile.theta[0] > weak.profile.theta[0]
