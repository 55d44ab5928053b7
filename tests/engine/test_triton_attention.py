"""The Triton kernels agree with plain torch: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loraland.engine.attention import Call
from loraland.engine.cuda_graph import capture_for
from loraland.engine.gathered_attention import GatheredAttention
from loraland.engine.scheduler import Work
from loraland.engine.spans import Held, Singles
from tests.engine.decoding import Decoding, a_row, both

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [16, 64, 80, 96, 128, 256]
needs_kernels = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="needs a CUDA device or the interpreter"
)
TESTS = len(SIZES) * len(DTYPES) + 12 + 4


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the inner run")
def test_interpreted_kernels_agree_with_torch() -> None:
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
    assert done.returncode == 0 and f"{TESTS} passed" in done.stdout, done.stdout


class Case:
    """Rows of random lengths whose blocks lie anywhere in a pool."""

    def __init__(self, chance, size, dtype, *, group=None, kv=None, block=None, longest=200):
        rows, block = chance.randint(1, 4), block or chance.choice([4, 16, 24])
        kv, group = kv or chance.randint(1, 3), group or chance.choice([1, 2, 3, 7])
        lengths = [chance.randint(1, longest) for _ in range(rows)]
        needed = [-(-length // block) for length in lengths]
        places = chance.sample(range(sum(needed) + 3), sum(needed))
        held = [
            Held([places.pop() for _ in range(count)], length)
            for count, length in zip(needed, lengths, strict=True)
        ]
        self.singles = Singles.of(held, 0, block, torch.device(DEVICE))
        generator = torch.Generator().manual_seed(chance.randrange(1 << 30))
        draw = lambda *shape: torch.randn(shape, generator=generator).to(DEVICE, dtype)  # noqa: E731
        self.pool = draw(2, kv, sum(needed) + 3, block, size)
        self.query = draw(kv * group, rows, size).transpose(0, 1)  # as a layer hands it over
        self.block, self.held = block, held

    def expected(self, call):
        oracle = GatheredAttention()
        oracle.plan(self.singles)
        return oracle.run(self.query.contiguous().float(), self.pool.float(), call)

    def found(self, call, splits):
        from loraland.engine.triton_attention import attend

        given = self.singles.table, self.singles.lengths
        return attend(self.query, self.pool, *given, call, splits)

    def agrees(self, call, splits):
        found = self.found(call, splits)
        assert found.dtype is self.query.dtype and found.shape == self.query.shape
        loose = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[found.dtype]
        torch.testing.assert_close(found.float(), self.expected(call), atol=loose, rtol=loose)


def a_call(chance, size, longest=200):
    window = chance.choice([None, 1, 7, 64, longest // 2, 1000])
    return Call(0, chance.choice([size**-0.5, 0.2]), window, chance.choice([None, 5.0, 50.0]))


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
@torch.inference_mode()
def test_head_sizes_and_dtypes_agree_with_torch(size: int, dtype: torch.dtype) -> None:
    chance = random.Random(f"{size} {dtype}")
    for splits in (1, 4):
        Case(chance, size, dtype).agrees(a_call(chance, size), splits)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("seed", range(12))
@torch.inference_mode()
def test_any_rows_windows_and_softcaps_agree_with_torch(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(3):
        splits = chance.choice([1, 2, 8, 32])
        Case(chance, 16, torch.float32, longest=400).agrees(a_call(chance, 16, 400), splits)


@pytest.mark.gpu
@needs_kernels
@pytest.mark.parametrize("splits", [1, 4])
@torch.inference_mode()
def test_what_is_not_a_number_stays_with_its_row(splits: int) -> None:
    """Neither the blocks of others nor what lies behind a row's last token is multiplied."""
    case = Case(random.Random(1), 16, torch.float32, block=16, longest=150)
    own = torch.zeros(case.pool.shape[2:4], dtype=torch.bool)  # (blocks, block size)
    for blocks, length in case.held:
        for token in range(length):
            own[blocks[token // 16], token % 16] = True
    case.pool[:, :, ~own] = torch.nan
    call = Call(0, 0.25, None, None)
    assert case.found(call, splits).isfinite().all()
    blocks, length = case.held[0]
    case.pool[0, :, blocks[(length - 1) // 16], (length - 1) % 16] = torch.nan
    found = case.found(call, splits)
    assert found[0].isnan().all() and found[1:].isfinite().all()


@pytest.mark.gpu
@needs_kernels
@torch.inference_mode()
def test_the_implementation_reads_tables_that_are_wider_than_any_row() -> None:
    from loraland.engine.triton_attention import TritonAttention

    chance = random.Random(2)
    case = Case(chance, 64, torch.float32, block=16)
    wide = torch.nn.functional.pad(case.singles.table, (0, 300))
    kernel = TritonAttention(processors=132)
    kernel.plan(case.singles._replace(table=wide), fixed=True)
    call = Call(0, 0.125, None, None)
    found = kernel.run(case.query, case.pool, call)
    torch.testing.assert_close(found, case.expected(call), atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not INTERPRETED, reason="needs the interpreter: the model is on the CPU")
def test_a_model_generates_as_without_the_kernels(zoo) -> None:
    """Prompts, prompts with a past beside single tokens, and single tokens over fixed tensors."""
    from loraland.engine.triton_attention import TritonAttention

    chance = random.Random(3)
    plain = Decoding(zoo, [zoo.one])
    ours = Decoding(zoo, [zoo.one], TritonAttention(4), lambda run: run)
    assert capture_for(ours.kv) is None  # a CPU captures nothing by itself
    rows = [a_row(str(i), chance, range(i * 5, i * 5 + 5)) for i in range(3)]
    late = a_row("late", chance, range(30, 35))
    both(plain, ours, rows, [0, 1, 1], [Work(row, 0, len(row.tokens)) for row in rows])
    singles = [Work(row, len(row.tokens) - 1, 1) for row in rows]
    for runner in (plain, ours):
        runner.run([late], [1], [Work(late, 0, 1)])
    mixed = [*singles, Work(late, 1, len(late.tokens) - 1)]
    both(plain, ours, [*rows, late], [0, 1, 1, 1], mixed)
    for _ in range(3):
        singles = [Work(row, len(row.tokens) - 1, 1) for row in rows]
        both(plain, ours, rows, [0, 1, 1], singles)
    assert ours.runner.stats == {"attention_triton": 4, "graph_captures": 1, "graph": 3}
