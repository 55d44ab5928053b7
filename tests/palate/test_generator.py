from __future__ import annotations

import numpy as np
import pytest

from loraland.errors import InvalidConfiguration
from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.cleaning import catalogue_of
from loraland.palate.generator import World, generate, people


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    first, again, other = generate(200, 4, 1), generate(200, 4, 1), generate(200, 4, 2)
    assert first.reviews.equals(again.reviews)
    assert np.array_equal(first.palate_of_row, again.palate_of_row)
    assert not first.reviews.equals(other.reviews)


def test_made_up_reviews_look_like_the_published_ones(world: World) -> None:
    cleaned = catalogue_of(world.reviews)
    # Shorter than real ones; nothing else may surprise.
    assert [warning for warning in cleaned.warnings if "words on average" not in warning] == []
    assert len(cleaned.catalogue) < cleaned.rows  # some wines have several reviews
    points = world.reviews.column("points").to_numpy()
    assert points.min() >= 80 and points.max() <= 100
    assert (
        np.corrcoef(
            np.log(cleaned.catalogue.price[cleaned.catalogue.has_price]),
            cleaned.catalogue.quality[cleaned.catalogue.has_price],
        )[0, 1]
        > 0.2
    )


def test_every_palate_is_planted_and_speaks_its_own_words(world: World) -> None:
    texts = world.reviews.column("description").to_pylist()
    for palate, words in enumerate(world.palate_words):
        inside = world.palate_of_row == palate
        assert inside.any()
        has = np.asarray([words[0] in text.lower() for text in texts])
        assert has[inside].mean() > has[~inside].mean()


def test_people_like_their_palates_more(catalogue: Catalogue, truth: Ints) -> None:
    found = people(catalogue.keys, truth, catalogue.quality, 6, count=30, seed=2)
    assert len(found) == 30
    place = catalogue.index
    own, other = [], []
    for person in found:
        assert not person.would_like & set(person.tasted)
        best = int(np.argmax(person.palates))
        liked = {place[key] for key in person.would_like}
        inside = set(np.flatnonzero(truth == best).tolist())
        own.append(len(liked & inside) / len(inside))
        least = set(np.flatnonzero(truth == int(np.argmin(person.palates))).tolist())
        other.append(len(liked & least) / len(least))
    assert np.mean(own) > 0.5 > 0.2 > np.mean(other)


@pytest.mark.parametrize(("rows", "palates"), [(100, 1), (100, 41), (3, 4), (0, 2)])
def test_impossible_worlds_are_refused(rows: int, palates: int) -> None:
    with pytest.raises(InvalidConfiguration, match="2 to 40 palates"):
        generate(rows, palates)
