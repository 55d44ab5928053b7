"""Training over segments: truncated back-propagation with a carried state, or independent segments.

Knows modules and segments; knows no task. A carried state goes on from one segment to the next by
its value alone: no gradient passes a boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from loraland.errors import InvalidConfiguration
from loraland.recurrent.modules import Lstm, Rnn
from loraland.recurrent.stack import State
from loraland.recurrent.unrolling import Segment

Net = Lstm | Rnn
Loss = Callable[[Tensor, Segment], Tensor]  # values (K_m, rows, d_v) of a segment to a scalar


class Part(NamedTuple):
    """What became of one segment."""

    segment: Segment
    values: Tensor  # (K_m, rows, d_v), with its graph
    state: State  # after it, without a graph


def carried(
    net: Net, x: Tensor, cut: Sequence[Segment], state: State | None = None
) -> Iterator[Part]:
    """Segments in their order, each from the state that the one before left, cut off its graph.

    `x` is (steps, rows, d_x), time first; call `backward` on each part before taking the next. A
    window of inputs sees zeros past the end of its segment, as the paper's convolution does.
    Raises InvalidConfiguration for a bidirectional net, which would need the future.
    """
    _check(net)
    for one in cut:
        values, (value, inner) = net(x[one.start : one.end], state)
        state = (value.detach(), inner.detach())
        yield Part(one, values, state)


def independent(net: Net, x: Tensor, cut: Sequence[Segment]) -> list[Tensor]:
    """Values of each segment by itself, from a state of zero, all in one padded batch.

    `x` is (steps, d_x), one sequence; the values of a segment are (K_m, d_v). Equations 73 to 77.
    """
    lengths = [one.steps for one in cut]
    padded = x.new_zeros(max(lengths), len(cut), x.shape[1])
    for n, one in enumerate(cut):
        padded[: one.steps, n] = x[one.start : one.end]
    values, _ = net(padded if not net.batch_first else padded.transpose(0, 1), lengths=lengths)
    by_step = values.transpose(0, 1) if net.batch_first else values
    return [by_step[: one.steps, n] for n, one in enumerate(cut)]


def truncated_loss(net: Net, x: Tensor, cut: Sequence[Segment], loss: Loss) -> tuple[float, State]:
    """Add up the gradients of all segments with a carried state; the loss and the last state.

    Memory is that of one segment. Gradients are those of the sum of the segments' losses, but for
    the paths over boundaries.
    """
    total, state = 0.0, None
    for part in carried(net, x, cut):
        of_part = loss(part.values, part.segment)
        of_part.backward()  # type: ignore[no-untyped-call]
        total, state = total + float(of_part.detach()), part.state
    if state is None:
        raise InvalidConfiguration("there are no segments to train on; give at least one")
    return total, state


def _check(net: Net) -> None:
    if net.bidirectional:
        raise InvalidConfiguration(
            "a bidirectional net reads the whole sequence from its end, so no state can be carried "
            "into a segment; use independent segments"
        )
    if net.batch_first:
        raise InvalidConfiguration(
            "segments are cut along the first dimension; use batch_first=False"
        )
