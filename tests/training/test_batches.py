from __future__ import annotations

from collections import Counter
from itertools import islice

from hypothesis import given
from hypothesis import strategies as st

from loraland.training.batches import micro_batches, updates
from loraland.training.recipe import get_recipe

lengths_of = st.lists(st.integers(2, 300), min_size=1, max_size=80)


@given(lengths_of, st.integers(1, 20), st.integers(1, 8), st.integers(0, 5))
def test_an_epoch_holds_every_example_once(
    lengths: list[int], size: int, window: int, seed: int
) -> None:
    recipe = get_recipe("quick", examples_per_update=size, length_window=window)
    per_epoch = -(-len(lengths) // size)
    for epoch in range(2):
        epoch_updates = list(islice(updates(lengths, recipe, seed, epoch * per_epoch), per_epoch))
        counted = Counter(index for update in epoch_updates for index in update)
        assert counted == Counter(range(len(lengths)))
        assert all(1 <= len(update) <= size for update in epoch_updates)


@given(lengths_of, st.integers(1, 20), st.integers(1, 8), st.integers(0, 60))
def test_updates_can_be_found_again_from_their_number(
    lengths: list[int], size: int, window: int, start: int
) -> None:
    recipe = get_recipe("quick", examples_per_update=size, length_window=window)
    from_the_beginning = list(islice(updates(lengths, recipe, 1), start + 3))[start:]
    assert list(islice(updates(lengths, recipe, 1, start), 3)) == from_the_beginning


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    recipe, lengths = get_recipe("quick", examples_per_update=8), [5] * 64
    first = list(islice(updates(lengths, recipe, 0), 8))
    assert first != list(islice(updates(lengths, recipe, 0, start=8), 8))
    assert first != list(islice(updates(lengths, recipe, 1), 8))


@given(lengths_of, st.integers(1, 16), st.integers(1, 600))
def test_micro_batches_hold_each_example_once_within_both_limits(
    lengths: list[int], most_examples: int, most_tokens: int
) -> None:
    recipe = get_recipe("quick", micro_batch_examples=most_examples, micro_batch_tokens=most_tokens)
    update = list(range(len(lengths)))
    groups = micro_batches(update, lengths, recipe)
    assert sorted(index for group in groups for index in group) == update
    for group in groups:
        padded = len(group) * max(lengths[index] for index in group)
        assert len(group) <= most_examples
        assert padded <= most_tokens or len(group) == 1


def test_windows_of_like_lengths_save_padding() -> None:
    lengths = [10 + 37 * i % 200 for i in range(240)]

    def padded(window: int) -> int:
        recipe = get_recipe("quick", length_window=window, examples_per_update=12)
        chosen = islice(updates(lengths, recipe, 0), 20)
        return sum(len(update) * max(lengths[i] for i in update) for update in chosen)

    assert padded(8) < 0.8 * padded(1)
