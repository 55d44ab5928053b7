"""Group DRO: how much the loss of each group of examples counts in the next update.

Told losses and group labels; knows nothing of models, data or where groups come from. The update is
the exponentiated gradient of Sagawa et al. 2020 (arXiv 1911.08731, algorithm 1) with their size
adjustment, in the stable form with logits: logit_g += eta * (L_g + C / sqrt(n_g)), q = softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, distributed
from torch.nn import functional

from loraland.errors import CheckpointMismatch, DataRefused, InvalidConfiguration, TrainingDiverged

Part = TypeVar("Part")


class GroupSums(NamedTuple):
    """What one pass says of each group; adds up over micro-batches and workers."""

    losses: Tensor  # (groups,): sum over examples of p_ig * loss_i
    counts: Tensor  # (groups,): sum over examples of p_ig


def group_sums(losses: Tensor, labels: Tensor, groups: int) -> GroupSums:
    """Sums of (n,) losses and counts per group; differentiable in the losses.

    `labels` are hard, (n,) whole numbers, or soft, (n, groups) with rows that sum to 1.
    """
    shares = memberships(labels, groups).to(losses)
    return GroupSums(losses @ shares, shares.sum(0))


def memberships(labels: Tensor, groups: int) -> Tensor:
    """Hard or soft labels as (n, groups) shares. Raises DataRefused for labels that are neither."""
    if labels.is_floating_point():
        if labels.ndim != 2 or labels.shape[1] != groups:
            raise DataRefused(
                f"soft group labels have shape {tuple(labels.shape)}; (examples, {groups}) is "
                f"needed, one share for each group"
            )
        if not bool((labels >= 0).all()) or not bool(((labels.sum(1) - 1).abs() < 1e-3).all()):
            raise DataRefused("soft group labels must be 0 or more and sum to 1 in every row")
        return labels
    if labels.ndim != 1 or (labels.numel() and not 0 <= int(labels.min()) <= int(labels.max())):
        raise DataRefused(f"hard group labels must be one number of 0..{groups - 1} per example")
    if labels.numel() and int(labels.max()) >= groups:
        raise DataRefused(f"group {int(labels.max())} is unknown; there are 0..{groups - 1}")
    return functional.one_hot(labels.long(), groups)


class GroupWeights:
    """The weights q over groups of one run; the same on every worker.

    One optimiser step is one update of q, from the losses of all its examples, before q is used for
    that very step. A group with no example in a step has loss 0 there, as in the public code of
    GEORGE: its logit moves by its size adjustment alone, so its weight falls while others have
    losses. Where groups are rarer than one per step, draw them uniformly (`group_sampling`).
    """

    def __init__(
        self, sizes: Sequence[float] | Tensor, *, eta: float = 0.01, adjustment: float = 0.0
    ) -> None:
        """`sizes` are the training counts n_g, `adjustment` is C of C / sqrt(n_g), in nats.

        Raises InvalidConfiguration, and DataRefused for a group without examples.
        """
        if not (0 < eta < float("inf")) or not (0 <= adjustment < float("inf")):
            raise InvalidConfiguration(
                f"group DRO with eta {eta:g} and adjustment {adjustment:g} cannot be; eta is above "
                "0, often 0.01, the adjustment 0 or more, often 0 to 3"
            )
        self.sizes = torch.as_tensor(sizes, dtype=torch.float64).cpu()
        if self.sizes.ndim != 1 or not len(self.sizes) or not bool((self.sizes > 0).all()):
            raise DataRefused(
                f"groups of {self.sizes.tolist()} training examples cannot be weighed; each needs "
                "one at least: merge an empty group with another or leave it out"
            )
        self.eta, self.adjustment = eta, adjustment
        self.logits = torch.zeros_like(self.sizes)
        self._counts = torch.zeros_like(self.sizes)  # of the step under way, over all workers

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.sizes)

    @property
    def q(self) -> Tensor:
        """The weights as they are: (groups,), float64, on the CPU; they sum to 1."""
        return torch.softmax(self.logits, dim=0)

    def update(self, sums: GroupSums) -> Tensor:
        """Take in the sums of one whole optimiser step; returns the mean losses (groups,).

        `sums` are this worker's, over all its micro-batches; they are added over the workers of the
        default process group, if there is one, so all must call this, once per step. Raises
        TrainingDiverged for losses that are not finite, and leaves the weights as they were.
        """
        losses, counts = _over_workers(sums)
        if not bool(torch.isfinite(losses).all()):
            raise TrainingDiverged(
                f"the losses of groups are {losses.tolist()}; lower the learning rate"
            )
        means = torch.where(counts > 0, losses / counts.clamp_min(1e-300), 0.0)
        self.logits = self.logits + self.eta * (means + self.adjustment / self.sizes.sqrt())
        self._counts = counts
        return means

    def of_examples(self, labels: Tensor) -> Tensor:
        """What the loss of each example counts in the step last given to `update`: (n,), float32.

        w_i = sum_g p_ig q_g / N_g with N_g the count of the whole step, so that sum_i w_i loss_i,
        added over micro-batches and workers, is sum_g q_g L_g. Where gradients are averaged over
        workers and not added, multiply by their number.
        """
        each = torch.where(self._counts > 0, self.q / self._counts.clamp_min(1e-300), 0.0)
        shares = memberships(labels, self.groups)
        return shares.to(torch.float32) @ each.to(torch.float32).to(labels.device)

    def update_and_weigh(self, losses: Tensor, counts: Tensor) -> Tensor:
        """Update q from the sums of a step that is one pass, and its loss sum_g q_g L_g.

        `losses` and `counts` are a GroupSums with its graph. Scalar; this worker's part of the sum
        over workers. The size adjustment is left out, since it has no gradient.
        """
        self.update(GroupSums(losses, counts))
        each = torch.where(self._counts > 0, self.q / self._counts.clamp_min(1e-300), 0.0)
        return (losses * each.to(losses)).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs, as named tensors."""
        return {"logits": self.logits.clone(), "sizes": self.sizes.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint. Raises CheckpointMismatch when it is of other groups."""
        if set(state) != {"logits", "sizes"} or not torch.equal(
            state["sizes"].cpu().double(), self.sizes
        ):
            raise CheckpointMismatch(
                "the checkpoint has weights of other groups than this run; delete it to start anew"
            )
        self.logits = state["logits"].cpu().double().clone()


def backward_in_parts(
    weights: GroupWeights,
    parts: Sequence[tuple[Part, Tensor]],
    losses_of: Callable[[Part], Tensor],
) -> float:
    """Gradients of one step over micro-batches, each with its group labels; the mean loss.

    The same gradients as those of one big batch: q must come from the losses of the whole step
    before any of them is weighed, so several parts are passed through twice, first without a
    graph, then with it and with the same dropout masks. One part is passed through once. Exact for
    models whose rows do not see each other (no batch normalisation).
    """
    if len(parts) == 1:
        (part, labels) = parts[0]
        losses = losses_of(part)
        loss = weights.update_and_weigh(*group_sums(losses, labels, weights.groups))
        loss.backward()  # type: ignore[no-untyped-call]
        return float(losses.detach().mean())
    stream = _random_state()
    with torch.no_grad():
        sums = [group_sums(losses_of(part), labels, weights.groups) for part, labels in parts]
    weights.update(GroupSums(*(torch.stack(each).sum(0) for each in zip(*sums, strict=True))))
    _set_random_state(stream)
    total, count = 0.0, 0
    for part, labels in parts:
        losses = losses_of(part)
        (losses * weights.of_examples(labels).to(losses)).sum().backward()  # type: ignore[no-untyped-call]
        total, count = total + float(losses.detach().sum()), count + len(losses)
    return total / count


def _over_workers(sums: GroupSums) -> GroupSums:
    """The sums over all workers, added in the same order on each, in float64 on the CPU."""
    mine = torch.stack([sums.losses.detach().double(), sums.counts.detach().double()])
    if distributed.is_available() and distributed.is_initialized():
        everyone = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(everyone, mine)
        mine = torch.stack(everyone).sum(0)
    return GroupSums(*mine.cpu())


def _random_state() -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None


def _set_random_state(state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1])
