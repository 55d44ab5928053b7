"""The Triton kernels agree with the loop: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from loraland.lora.ops import OPS
from loraland.lora.rows import Rows
from loraland.lora.weights import LoraPair

FactorsOf = Callable[..., tuple[Any, Mapping[int, LoraPair]]]


INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CASES = [
    ([0, 4, 8, 3], 8, [1, 0, 3, 2, 2, 1]),  # ranks by slot, width, slot of each token
    ([0, 12, 0, 1], 12, [3, 1, 0, 1]),  # a width that is no power of two, an empty slot
    ([0, 16], 16, [1]),
    ([0, 16], 16, [0, 0]),
    ([0, 16], 16, []),
]


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the inner run")
def test_interpreted_kernels_agree_with_the_loop() -> None:
    pytest.importorskip("triton", reason="Triton is not installed (the extra 'gpu')")
    # A process of its own: Triton decides when it is imported whether it compiles or interprets.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and f"{len(CASES)} passed" in done.stdout, done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or the interpreter"
)
@pytest.mark.parametrize(("ranks", "width", "slots"), CASES)
@torch.inference_mode()
def test_kernels_agree_with_the_loop(
    factors_of: FactorsOf, ranks: list[int], width: int, slots: list[int]
) -> None:
    """Widths that are no multiple of a kernel's block, and more columns than one block."""
    from loraland.lora.triton_ops import TRITON

    device = "cpu" if INTERPRETED else "cuda"
    factors, _ = factors_of(ranks, shape=(600, 300), width=width, device=device)
    rows, x = Rows.of(slots, device), torch.randn(len(slots), 600, device=device)
    y = torch.randn(len(slots), 300, device=device)
    delta = OPS["loop"].delta(x, factors, rows)
    expected = y + delta
    TRITON.add(y, x, factors, rows)
    torch.testing.assert_close(y, expected, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(TRITON.delta(x, factors, rows), delta, atol=1e-2, rtol=1e-3)
