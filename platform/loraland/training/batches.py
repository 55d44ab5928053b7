"""Which examples go into which update, and which of those share a forward pass. Pure: numbers only.

The order follows from the seed and the epoch alone, so that any update can be found again without
running those before it: a resumed run needs no other cursor than its number of finished updates.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from numpy.typing import NDArray

from loraland.training.group_sampling import uniform_epoch
from loraland.training.recipe import Recipe

Update = list[int]  # indices of examples


def updates(
    lengths: Sequence[int],
    recipe: Recipe,
    seed: int,
    start: int = 0,
    labels: NDArray[Any] | None = None,
) -> Iterator[Update]:
    """Endless updates from number `start` on; `lengths` are tokens per example.

    Each epoch is shuffled anew; its last update may be short. With group `labels` of the examples
    an epoch draws as many, with replacement, all groups alike (`uniform_epoch`). Within a window of
    `length_window` updates examples of like length go together, so that little is spent on padding.
    """
    per_epoch = -(-len(lengths) // recipe.examples_per_update)
    epoch, skip = divmod(start, per_epoch)
    while True:
        yield from islice(_epoch(lengths, recipe, seed, epoch, labels), skip, None)
        epoch, skip = epoch + 1, 0


def _epoch(
    lengths: Sequence[int],
    recipe: Recipe,
    seed: int,
    epoch: int,
    labels: NDArray[Any] | None,
) -> Iterator[Update]:
    order = random.Random(f"{seed}/{epoch}")
    indices = list(range(len(lengths)))
    if labels is None:
        order.shuffle(indices)
    else:
        indices = uniform_epoch(labels, seed, epoch).tolist()
    size, cut = recipe.examples_per_update, recipe.examples_per_update * recipe.length_window
    batches: list[Update] = []
    for first in range(0, len(indices), cut):
        window = indices[first : first + cut]
        if recipe.length_window > 1:
            window.sort(key=lambda index: lengths[index])  # stable: ties keep the shuffle
        batches += [window[place : place + size] for place in range(0, len(window), size)]
    if recipe.length_window > 1:
        order.shuffle(batches)
    yield from batches


def micro_batches(update: Update, lengths: Sequence[int], recipe: Recipe) -> list[Update]:
    """Split an update so that no forward pass exceeds the recipe's examples or padded tokens.

    A single example over the token budget still goes alone: the gate has bounded it by
    `max_length`.
    """
    groups: list[Update] = []
    for index in sorted(update, key=lambda index: lengths[index]):
        group = groups[-1] if groups else []
        padded = (len(group) + 1) * lengths[index]  # ascending order: this one is the longest
        if (
            group
            and len(group) < recipe.micro_batch_examples
            and padded <= recipe.micro_batch_tokens
        ):
            group.append(index)
        else:
            groups.append([index])
    return groups
