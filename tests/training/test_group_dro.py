"""Group weights: the update, its equality under accumulation and over workers, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, distributed, multiprocessing, nn

from loraland.errors import (
    CheckpointMismatch,
    DataRefused,
    InvalidConfiguration,
    TrainingDiverged,
)
from loraland.training.group_dro import (
    GroupSums,
    GroupWeights,
    backward_in_parts,
    group_sums,
    memberships,
)

LABELS = torch.tensor([0, 0, 1, 2, 2, 2, 0, 1])
Parts = list[tuple[Tensor, Tensor]]


def data(count: int = 8) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(0))


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1))


def losses_of(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x)[:, 0] - x.sum(1)).square()


def slopes(model: nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def trained(sizes: Sequence[int], labels: Tensor, steps: int = 5) -> tuple[Tensor, GroupWeights]:
    """Gradients of the last of some steps whose passes have these sizes."""
    model, weights = network(), GroupWeights([3, 2, 3], eta=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    parts: Parts = list(zip(data().split(list(sizes)), labels.split(list(sizes)), strict=True))
    for _ in range(steps):
        optimizer.zero_grad()
        backward_in_parts(weights, parts, lambda x: losses_of(model, x))
        optimizer.step()
    return slopes(model), weights


def test_an_update_is_the_one_of_the_paper() -> None:
    weights = GroupWeights([100, 25], eta=0.1, adjustment=2.0)
    losses = torch.tensor([1.0, 3.0, 5.0])
    loss = weights.update_and_weigh(*group_sums(losses, torch.tensor([0, 0, 1]), 2))
    raised = [math.exp(0.1 * (2.0 + 2 / 10)), math.exp(0.1 * (5.0 + 2 / 5))]
    q = [one / sum(raised) for one in raised]
    assert weights.q.tolist() == pytest.approx(q)
    assert float(loss) == pytest.approx(q[0] * 2.0 + q[1] * 5.0)


def test_two_updates_multiply_the_weights() -> None:
    weights, q = GroupWeights([1, 1, 1], eta=0.3), torch.full((3,), 1 / 3, dtype=torch.float64)
    for values in ([1.0, 2.0, 0.5], [3.0, 0.1, 0.2]):
        weights.update(GroupSums(torch.tensor(values), torch.ones(3)))
        q = q * torch.exp(0.3 * torch.tensor(values, dtype=torch.float64))
        q = q / q.sum()
    assert torch.allclose(weights.q, q)


def test_soft_labels_weigh_losses_by_their_shares() -> None:
    shares = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
    sums = group_sums(torch.tensor([1.0, 2.0, 4.0]), shares, 2)
    assert sums.losses.tolist() == pytest.approx([1.9, 5.1])
    assert sums.counts.tolist() == pytest.approx([1.4, 1.6])
    weights = GroupWeights(sums.counts, eta=1.0)
    means = weights.update(sums)
    assert means.tolist() == pytest.approx([1.9 / 1.4, 5.1 / 1.6])


def test_soft_labels_of_one_group_each_are_hard_labels() -> None:
    hard, soft = GroupWeights([3, 2, 3]), GroupWeights([3, 2, 3])
    losses = data()[:, 0].square()
    one = hard.update_and_weigh(*group_sums(losses, LABELS, 3))
    other = soft.update_and_weigh(*group_sums(losses, memberships(LABELS, 3).float(), 3))
    assert torch.equal(one, other) and torch.equal(hard.q, soft.q)


@pytest.mark.parametrize("sizes", [(4, 4), (1, 7), (3, 3, 2), (1,) * 8])
@pytest.mark.parametrize("is_soft", [False, True])
def test_accumulated_passes_give_the_gradients_of_one_batch(
    sizes: tuple[int, ...], is_soft: bool
) -> None:
    labels = memberships(LABELS, 3) * 0.8 + 0.2 / 3 if is_soft else LABELS
    whole, weights = trained([8], labels)
    parts, other = trained(sizes, labels)
    assert torch.allclose(whole, parts, atol=1e-6)
    assert torch.allclose(weights.q, other.q, atol=1e-7)


def test_q_moves_once_a_step_however_many_passes_it_has() -> None:
    _, weights = trained([1] * 8, LABELS, steps=1)
    _, other = trained([8], LABELS, steps=1)
    assert torch.allclose(weights.logits, other.logits)


def test_both_passes_of_a_step_draw_the_same_dropout_masks() -> None:
    model, seen = network(dropout=0.5), []
    weights = GroupWeights([3, 2, 3])

    def losses(x: Tensor) -> Tensor:
        found = losses_of(model, x)
        seen.append(found.detach())
        return found

    parts: Parts = [(data()[:4], LABELS[:4]), (data()[4:], LABELS[4:])]
    backward_in_parts(weights, parts, losses)
    assert torch.equal(seen[0], seen[2]) and torch.equal(seen[1], seen[3])
    assert not torch.equal(seen[0], losses_of(model, data()[:4]))


def test_an_absent_group_has_no_loss_and_moves_by_its_adjustment_alone() -> None:
    weights = GroupWeights([4, 16], eta=0.1, adjustment=1.0)
    labels = torch.tensor([0, 0])
    loss = weights.update_and_weigh(*group_sums(torch.tensor([2.0, 4.0]), labels, 2))
    assert weights.logits.tolist() == pytest.approx([0.1 * 3.5, 0.1 * 0.25])
    assert float(loss) == pytest.approx(float(weights.q[0]) * 3.0)
    assert weights.of_examples(torch.tensor([1])).tolist() == [0.0]  # no one's share of this step


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0, 50)), min_size=1, max_size=30),
    st.floats(0.001, 10),
)
def test_weights_are_always_a_distribution(examples: list[tuple[int, float]], eta: float) -> None:
    weights = GroupWeights([1] * 5, eta=eta)
    labels = torch.tensor([group for group, _ in examples])
    losses = torch.tensor([loss for _, loss in examples])
    for _ in range(20):
        loss = weights.update_and_weigh(*group_sums(losses, labels, 5))
    assert float(weights.q.sum()) == pytest.approx(1.0) and bool((weights.q >= 0).all())
    parts = weights.of_examples(labels) * losses
    assert float(parts.sum()) == pytest.approx(float(loss), rel=1e-4, abs=1e-6)


def test_a_resumed_run_goes_on_with_its_weights() -> None:
    weights = GroupWeights([3, 2, 3], eta=0.5)
    weights.update(group_sums(data()[:, 0].square(), LABELS, 3))
    other = GroupWeights([3, 2, 3], eta=0.5)
    other.load_state_dict(weights.state_dict())
    for each in (weights, other):
        each.update(group_sums(data()[:, 1].square(), LABELS, 3))
    assert torch.equal(weights.q, other.q)


def test_weights_of_other_groups_are_refused() -> None:
    state = GroupWeights([3, 2]).state_dict()
    with pytest.raises(CheckpointMismatch, match="other groups"):
        GroupWeights([2, 3]).load_state_dict(state)
    with pytest.raises(CheckpointMismatch):
        GroupWeights([3, 2, 1]).load_state_dict(state)


def test_losses_that_are_no_numbers_leave_the_weights_as_they_were() -> None:
    weights = GroupWeights([1, 1])
    weights.update(GroupSums(torch.tensor([1.0, 2.0]), torch.ones(2)))
    before = weights.q
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        weights.update(GroupSums(torch.tensor([math.nan, 2.0]), torch.ones(2)))
    assert torch.equal(weights.q, before)


def test_what_cannot_be_weighed_is_refused() -> None:
    with pytest.raises(DataRefused, match="empty group"):
        GroupWeights([3, 0])
    with pytest.raises(InvalidConfiguration, match="eta"):
        GroupWeights([3], eta=0.0)
    with pytest.raises(InvalidConfiguration, match="adjustment"):
        GroupWeights([3], adjustment=-1.0)
    with pytest.raises(DataRefused, match="group 2 is unknown"):
        memberships(torch.tensor([0, 2]), 2)
    with pytest.raises(DataRefused, match="one number of"):
        memberships(torch.tensor([-1, 0]), 2)
    with pytest.raises(DataRefused, match="sum to 1"):
        memberships(torch.tensor([[0.5, 0.6]]), 2)
    with pytest.raises(DataRefused, match="one share for each group"):
        memberships(torch.tensor([[1.0]]), 2)


def _work(rank: int, size: int, place: str) -> None:
    """One of two workers, with uneven shares of the examples, and one group on one worker only."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{place}/meet", rank=rank, world_size=size
    )
    model, weights = network(), GroupWeights([3, 2, 3], eta=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    mine = slice(0, 3) if rank == 0 else slice(3, 8)
    for _ in range(5):
        optimizer.zero_grad()
        parts: Parts = [(data()[mine], LABELS[mine])]
        if rank == 1:  # two passes beside the other's one
            parts = [(data()[3:4], LABELS[3:4]), (data()[4:8], LABELS[4:8])]
        backward_in_parts(weights, parts, lambda x: losses_of(model, x))
        for parameter in model.parameters():
            distributed.all_reduce(parameter.grad)
        optimizer.step()
    torch.save({"slopes": slopes(model), "q": weights.q}, f"{place}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_workers_have_the_weights_and_gradients_of_one_big_batch(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (2, str(tmp_path)), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    whole, weights = trained([8], LABELS)
    assert torch.equal(found[0]["q"], found[1]["q"])
    assert torch.allclose(found[0]["q"], weights.q, atol=1e-7)
    assert torch.allclose(found[0]["slopes"], whole, atol=1e-5)
    assert torch.equal(found[0]["slopes"], found[1]["slopes"])
