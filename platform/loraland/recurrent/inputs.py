"""What a recurrent module is given, checked and brought into one form: time first, longest first.

Knows sizes and lengths; knows no cell and no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from loraland.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences in one form, and how to give results back in theirs."""

    x: Tensor  # (longest, rows, d_x), the longest row first, zero past the end of each
    lengths: tuple[int, ...]  # of the rows, descending
    order: Tensor | None  # (rows,), which row as given each one was; None: as given
    packed: PackedSequence | None
    is_single: bool  # was (K, d_x) or (K, 1 row) without a batch dimension
    batch_first: bool
    steps: int  # K of the input, at least the longest row

    @property
    def rows(self) -> int:
        """How many sequences."""
        return self.x.shape[1]

    def sorted_rows(self, state: Tensor) -> Tensor:
        """A state (..., rows, d) as given, in the order of `x`."""
        return state if self.order is None else state.index_select(-2, self.order)

    def given_rows(self, state: Tensor) -> Tensor:
        """A state (..., rows, d) in the order of `x`, as it was given."""
        if self.order is None:
            return state
        return state.index_select(-2, torch.argsort(self.order))

    def reversed_time(self, of_steps: Tensor) -> Tensor:
        """(K, rows, d) with every row turned round within its own length."""
        if self.lengths[-1] == self.lengths[0]:
            return of_steps.flip(0)
        steps = torch.arange(len(of_steps), device=of_steps.device).unsqueeze(1)
        lengths = torch.tensor(self.lengths, device=of_steps.device)
        source = torch.where(steps < lengths, lengths - 1 - steps, steps)
        return of_steps.gather(0, source.unsqueeze(2).expand_as(of_steps))

    def output(self, of_steps: Tensor) -> Tensor | PackedSequence:
        """(K, rows, d) in the form that the input had."""
        if self.packed is not None:
            rows = self.packed.unsorted_indices is not None
            kept = pack_padded_sequence(of_steps, torch.tensor(self.lengths), enforce_sorted=True)
            return kept._replace(
                sorted_indices=self.packed.sorted_indices if rows else None,
                unsorted_indices=self.packed.unsorted_indices if rows else None,
            )
        found = self.given_rows(of_steps)
        if missing := self.steps - len(found):
            found = torch.cat([found, found.new_zeros(missing, *found.shape[1:])])
        if self.is_single:
            return found.squeeze(1)
        return found.transpose(0, 1) if self.batch_first else found


def batch_of(
    x: Tensor | PackedSequence,
    d_x: int,
    *,
    batch_first: bool,
    lengths: Sequence[int] | Tensor | None = None,
    window: int = 1,
) -> Batch:
    """Check and sort what a module was given.

    `x` is (K, d_x), (K, rows, d_x), with `batch_first` (rows, K, d_x), or packed; `lengths` are of
    padded rows. Raises InvalidRequest, which names the shape that is expected.
    """
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise InvalidRequest("a packed sequence knows its lengths; give none beside it")
        return _unpacked(x, d_x, batch_first, window)
    is_single = x.dim() == 2
    form = f"(rows, K, {d_x})" if batch_first else f"(K, rows, {d_x})"
    expected = f"expected {form}, or (K, {d_x}) for one sequence"
    if x.dim() not in (2, 3) or x.shape[-1] != d_x:
        raise InvalidRequest(f"the input is {_shape(x)}; {expected}")
    if not x.is_floating_point():
        raise InvalidRequest(f"the input is of {x.dtype}; {expected}, of floating point numbers")
    timed = x.unsqueeze(1) if is_single else x.transpose(0, 1) if batch_first else x
    steps, rows = timed.shape[:2]
    if rows == 0:
        raise InvalidRequest(f"the input is {_shape(x)}, an empty batch; {expected}, rows >= 1")
    if steps == 0:
        raise InvalidRequest(f"the input is {_shape(x)}, without steps; {expected}, K >= 1")
    known = _checked_lengths(lengths, rows, steps)
    _check_window(max(known or [steps]), window, d_x)
    return _sorted(timed, known, is_single, batch_first)


def check_state(name: str, state: Tensor, expected: tuple[int, ...]) -> Tensor:
    """The state. Raises InvalidRequest when its shape is not as expected, or it is not finite."""
    if tuple(state.shape) != expected:
        raise InvalidRequest(
            f"the initial {name} is {_shape(state)}; expected {expected}: "
            "layers times directions, rows, size"
        )
    return _finite(f"the initial {name}", state)


def _checked_lengths(
    lengths: Sequence[int] | Tensor | None, rows: int, steps: int
) -> list[int] | None:
    if lengths is None:
        return None
    known = [int(one) for one in lengths]
    if len(known) != rows:
        raise InvalidRequest(
            f"there are {len(known)} lengths; expected ({rows},), one for each row"
        )
    if wrong := [one for one in known if not 1 <= one <= steps]:
        raise InvalidRequest(
            f"a sequence of length {wrong[0]} is not possible; expected ({rows},) lengths from 1 "
            f"to {steps}, the steps of the input"
        )
    return known


def _check_window(steps: int, window: int, d_x: int) -> None:
    if window > steps:
        raise InvalidRequest(
            f"the window looks at {window} steps and the longest sequence has {steps}; expected "
            f"at least ({window}, rows, {d_x}). Pad the batch with zeros, or take a smaller window"
        )


def _sorted(timed: Tensor, lengths: list[int] | None, is_single: bool, batch_first: bool) -> Batch:
    steps, rows = timed.shape[:2]
    if lengths is None or min(lengths) == steps:
        x = _finite("the input", timed).contiguous()
        return Batch(x, (steps,) * rows, None, None, is_single, batch_first, steps)
    longest = max(lengths)
    known = torch.tensor(lengths, device=timed.device)
    order = torch.argsort(known, descending=True, stable=True)
    past = torch.arange(longest, device=timed.device).unsqueeze(1) >= known[order]
    x = _finite("the input", timed[:longest, order].masked_fill(past.unsqueeze(2), 0.0))
    longest_first = tuple(int(one) for one in known[order])
    return Batch(x, longest_first, order, None, is_single, batch_first, steps)


def _unpacked(x: PackedSequence, d_x: int, batch_first: bool, window: int) -> Batch:
    if x.data.dim() != 2 or x.data.shape[1] != d_x:
        raise InvalidRequest(f"the packed data is {_shape(x.data)}; expected (steps in all, {d_x})")
    _finite("the packed input", x.data)
    as_sorted = x._replace(sorted_indices=None, unsorted_indices=None)
    padded, lengths = pad_packed_sequence(as_sorted)
    _check_window(len(padded), window, d_x)
    known = tuple(int(one) for one in lengths)
    return Batch(padded, known, x.sorted_indices, x, False, batch_first, len(padded))


def _finite(what: str, x: Tensor) -> Tensor:
    # The sum of finite numbers is finite, but where it overflows; only then each is looked at.
    if not bool(torch.isfinite(x.sum())) and not bool(torch.isfinite(x).all()):
        count = int((~torch.isfinite(x)).sum())
        raise InvalidRequest(
            f"{what} {_shape(x)} has {count} numbers that are NaN or infinite; expected finite ones"
        )
    return x


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))
