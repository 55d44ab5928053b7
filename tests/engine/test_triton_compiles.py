"""All Triton kernels compile for GPUs, to machine code, also where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("compile_kernels.py")
SHARED = 99 * 1024  # bytes that a block of the smallest of these GPUs (sm_86) may have


@pytest.mark.slow
def test_every_kernel_compiles_and_fits_in_shared_memory(tmp_path: Path) -> None:
    pytest.importorskip("triton", reason="Triton is not installed (the extra 'gpu')")
    # A process of its own: Triton must not have been imported as an interpreter before.
    places = os.pathsep.join([str(Path(__file__).parents[2] / "platform"), *sys.path])
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env=os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": places},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout.splitlines()[-1])
    assert {kernel["name"] for kernel in compiled} == {"_attend", "_join", "_shrink", "_expand"}
    assert len(compiled) == (3 + 1) * (4 * 2 + 1 + 2)  # dtypes; head sizes, without features, LoRA
    for kernel in compiled:
        assert kernel["code_bytes"] > 0 and kernel["shared_bytes"] <= SHARED, kernel
