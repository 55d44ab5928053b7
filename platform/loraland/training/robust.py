"""Group DRO inside the loops: an update weighed by its groups, a validation judged by the worst.

Holds the weights of one run and says what a checkpoint keeps of them. Knows examples with groups;
knows nothing of models but the losses it is handed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from loraland.errors import InvalidConfiguration
from loraland.training.checkpoint import Tensors, under
from loraland.training.examples import Example
from loraland.training.group_dro import GroupSums, GroupWeights, backward_in_parts, group_sums
from loraland.training.groups import group_sizes
from loraland.training.recipe import Recipe

Losses = Callable[[Sequence[Example]], Tensor]  # of each example: (examples,)

_PREFIX = "group_dro"  # of its tensors in a checkpoint


class Robust:
    """The group weights of one run; on several workers each has the same."""

    def __init__(self, weights: GroupWeights) -> None:
        """Weigh by these; they change with every update."""
        self.weights = weights

    @classmethod
    def of(cls, recipe: Recipe, training: Sequence[Example]) -> Robust | None:
        """That of a recipe's `group_dro`, or None. Raises DataRefused, InvalidConfiguration."""
        dro = recipe.group_dro
        if dro is None:
            return None
        sizes = group_sizes(training)
        return cls(GroupWeights(sizes, eta=dro.eta, adjustment=dro.size_adjustment))

    def labels(self, examples: Sequence[Example], device: torch.device | str = "cpu") -> Tensor:
        """Hard (examples,) or soft (examples, groups) labels."""
        groups = [example.group for example in examples]
        hard = all(isinstance(group, int) for group in groups)
        return torch.tensor(groups, dtype=torch.long if hard else torch.float32, device=device)

    def backward(self, parts: Sequence[Sequence[Example]], losses_of: Losses) -> float:
        """Gradients of one update over its micro-batches; the mean loss of its examples."""
        labelled = [(part, self.labels(part)) for part in parts]
        return backward_in_parts(self.weights, labelled, lambda part: losses_of(part).cpu())

    def weigh(
        self,
        mine: Sequence[Sequence[Example]],
        losses: Sequence[Tensor],
        device: torch.device | str = "cpu",
    ) -> list[Tensor]:
        """What each example of this worker's micro-batches counts, after the weights have moved.

        Collective where there are workers: all must call it, once per update, those without any
        example too. `device` is the one that the workers talk over.
        """
        self.weights.update(self.sums(mine, losses, device))
        return [self.weights.of_examples(self.labels(part)) for part in mine]

    def worst(self, sums: GroupSums) -> float:
        """The greatest mean loss of a group that is there: what a validation is judged by."""
        there = sums.counts > 0
        return float((sums.losses[there] / sums.counts[there]).max())

    def sums(
        self,
        parts: Sequence[Sequence[Example]],
        losses: Sequence[Tensor],
        device: torch.device | str = "cpu",
    ) -> GroupSums:
        """Losses and counts of each group over these micro-batches, zeros of none."""
        groups = self.weights.groups
        total = GroupSums(*torch.zeros(2, groups, dtype=torch.float64, device=device))
        for part, found in zip(parts, losses, strict=True):
            each = group_sums(found.detach().double().to(device), self.labels(part, device), groups)
            total = GroupSums(total.losses + each.losses, total.counts + each.counts)
        return total

    def tensors(self) -> Tensors:
        """What a checkpoint needs."""
        return {f"{_PREFIX}/{name}": value for name, value in self.weights.state_dict().items()}

    def restore(self, tensors: Tensors) -> None:
        """Go on from a checkpoint. Raises CheckpointMismatch."""
        self.weights.load_state_dict(under(_PREFIX, tensors))


def require_fusable(recipe: Recipe) -> None:
    """Raises InvalidConfiguration for a recipe that the fused loop does not train."""
    if recipe.group_dro is not None:
        raise InvalidConfiguration(
            f"recipe '{recipe.name}' has group_dro, which the fused loop does not train: its "
            "groups share no forward pass; train it alone (--fuse 1) or on several devices"
        )
