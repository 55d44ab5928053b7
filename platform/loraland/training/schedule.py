"""The learning rate at each update, and when a run has gone wrong or gains no more.

Pure numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from loraland.errors import TrainingDiverged
from loraland.training.recipe import Recipe

EXPLODED_UPDATES = 3  # in a row


def learning_rate(update: int, total: int, recipe: Recipe) -> float:
    """The rate of update number `update` (from 0) out of `total`.

    Linear warm-up, then the schedule.
    """
    warmup = round(recipe.warmup_share * total)
    if update < warmup:
        return recipe.learning_rate * (update + 1) / (warmup + 1)
    progress = (update - warmup) / max(1, total - warmup)
    factor = {
        "constant": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[recipe.schedule]
    return recipe.learning_rate * factor


def require_health(losses: Sequence[float], vocabulary: int, rate: float) -> None:
    """Raises TrainingDiverged when the newest loss is no number, or the loss exploded.

    Exploded: in each of the last updates worse than guessing uniformly over the vocabulary (ln V),
    and worse than twice the first loss.
    """
    newest, update = losses[-1], len(losses)
    tail = ", ".join(f"{loss:.3g}" for loss in losses[-5:])
    advice = f"learning rate {rate:.2g}, last losses {tail}; lower learning_rate or clip_norm"
    if not math.isfinite(newest):
        raise TrainingDiverged(f"the loss is {newest} at update {update}; {advice}")
    limit = max(math.log(vocabulary), 2 * losses[0])
    if len(losses) > EXPLODED_UPDATES and min(losses[-EXPLODED_UPDATES:]) > limit:
        raise TrainingDiverged(
            f"the loss exploded: above {limit:.3g} for {EXPLODED_UPDATES} updates "
            f"at update {update}; {advice}"
        )


def require_number(validation_loss: float, update: int, rate: float) -> None:
    """Raises TrainingDiverged when a validation loss is no number."""
    if not math.isfinite(validation_loss):
        raise TrainingDiverged(
            f"the validation loss is {validation_loss} at update {update}; "
            f"learning rate {rate:.2g}; lower learning_rate or clip_norm"
        )


def best_evaluation(validation: Sequence[tuple[int, float]]) -> tuple[int, float]:
    """The (update, loss) with the lowest loss, the first of equals."""
    return min(validation, key=lambda pair: (pair[1], pair[0]))


def gains_no_more(validation: Sequence[tuple[int, float]], patience: int) -> bool:
    """Whether the last `patience` evaluations all failed to beat the best before them."""
    best, _ = best_evaluation(validation)
    return sum(1 for update, _ in validation if update > best) >= patience
