"""Benchmarks that wait for hardware are known to run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_decode


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_gpu_benchmark_runs_on_a_tiny_shape_without_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "line.json"
    asked = "gpu_decode --tiny --device cpu --batches 1 3 --context 20 --steps 1 --rounds 2 --out"
    monkeypatch.setattr(sys, "argv", [*asked.split(), str(out)])
    gpu_decode.main()
    line = json.loads(out.read_text())
    assert line["copy_gb_per_s"] > 0
    for precision in ("bf16", "nf4"):
        for batch in ("1", "3"):
            found = line[precision][batch]
            assert set(found["ours_ms"]) == {"0", "1", "25"} == set(found["bound_ms"])
            assert set(found["tax"]) == {"1", "25"} == set(found["peft_ms"])
            assert found["bound_ms"]["0"] < found["bound_ms"]["1"] <= found["bound_ms"]["25"]
            assert found["transformers_ms"] > 0 and found["ours_without_graphs_ms"]["0"] > 0
    # The linear layers in four bits, the head in more.
    assert line["nf4"]["1"]["bound_ms"]["0"] != line["bf16"]["1"]["bound_ms"]["0"]
