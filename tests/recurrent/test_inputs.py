"""Bad input is told with the shape that is expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pack_sequence

from loraland.errors import InvalidConfiguration, InvalidRequest
from loraland.recurrent.modules import AugmentedLSTM, Lstm, Rnn, VanillaLSTM

LSTM = Lstm(3, 4, window=2)


@pytest.mark.parametrize(
    ("x", "how", "told"),
    [
        (torch.zeros(5, 2, 4), {}, r"\(5, 2, 4\); expected \(K, rows, 3\), or \(K, 3\)"),
        (torch.zeros(3), {}, r"\(3,\); expected \(K, rows, 3\)"),
        (torch.zeros(5, 2, 3, dtype=torch.int64), {}, "int64; expected"),
        (torch.zeros(5, 0, 3), {}, "empty batch; expected .* rows >= 1"),
        (torch.zeros(0, 2, 3), {}, "without steps; expected .* K >= 1"),
        (torch.zeros(1, 2, 3), {}, r"window looks at 2 .* has 1; expected at least \(2, rows, 3\)"),
        (torch.zeros(5, 2, 3), {"lengths": [1, 1]}, r"window looks at 2 .* has 1"),
        (torch.zeros(5, 2, 3), {"lengths": [5]}, r"1 lengths; expected \(2,\)"),
        (torch.zeros(5, 2, 3), {"lengths": [5, 0]}, r"length 0 .* from 1 to 5"),
        (torch.zeros(5, 2, 3), {"lengths": [6, 5]}, r"length 6 .* from 1 to 5"),
        (torch.full((5, 2, 3), float("nan")), {}, "30 numbers that are NaN"),
        (torch.full((5, 2, 3), float("inf")), {"lengths": [5, 4]}, "27 numbers that are NaN"),
        (pack_sequence([torch.zeros(4, 2)]), {}, r"\(4, 2\); expected \(steps in all, 3\)"),
        (pack_sequence([torch.zeros(4, 3)]), {"lengths": [4]}, "knows its lengths"),
        (pack_sequence([torch.full((4, 3), float("nan"))]), {}, "12 numbers that are NaN"),
        (pack_sequence([torch.zeros(1, 3)]), {}, "window looks at 2"),
    ],
)
def test_a_wrong_input_names_the_shape_that_is_expected(
    x: Any, how: dict[str, Any], told: str
) -> None:
    with pytest.raises(InvalidRequest, match=told):
        LSTM(x, **how)


def test_batch_first_is_told_in_its_own_order() -> None:
    with pytest.raises(InvalidRequest, match=r"expected \(rows, K, 3\)"):
        VanillaLSTM(3, 4, batch_first=True)(torch.zeros(2, 5, 4))


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ((torch.zeros(1, 2, 3), torch.zeros(1, 2, 4)), r"initial value is .*expected \(1, 2, 4\)"),
        ((torch.zeros(1, 2, 4), torch.zeros(1, 1, 4)), r"inner state is .*expected \(1, 2, 4\)"),
        ((torch.zeros(1, 2, 4), torch.full((1, 2, 4), float("nan"))), "8 numbers that are NaN"),
    ],
)
def test_a_wrong_state_names_the_shape_that_is_expected(state: Any, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        LSTM(torch.zeros(5, 2, 3), state)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Lstm(0, 4), "input_size is 0"),
        (lambda: Lstm(3, 4, window=0), "window is 0"),
        (lambda: Lstm(3, 4, projection=5), "must not be larger"),
        (lambda: Lstm(3, 4, dropout=1.0), "dropout is 1.0"),
        (lambda: Lstm(3, 4, clip=0.0), "clip is 0.0"),
        (lambda: Rnn(3, 4, 0), "num_layers is 0"),
        (lambda: VanillaLSTM(3, 4, window=2), "take AugmentedLSTM"),
        (lambda: AugmentedLSTM(3, 4, 0, 2), "projection is 0"),
    ],
)
def test_a_wrong_size_is_refused(make: Any, told: str) -> None:
    with pytest.raises(InvalidConfiguration, match=told):
        make()


def test_large_finite_numbers_pass() -> None:
    values, _ = VanillaLSTM(3, 4)(torch.full((5, 2, 3), 3e38))
    assert bool(torch.isfinite(values).all())
