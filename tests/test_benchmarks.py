"""Benchmarks that wait for hardware are known to run."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_decode, recurrent, strata_language


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_benchmark_of_a_planted_shortcut_runs_on_a_tiny_base_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    out = tmp_path / "line.json"
    asked = ["strata_language", "--storage", str(tmp_path / "storage"), "--base"]
    asked += [str(tiny_folders["llama"]), "--rows", "120", "--items", "60", "--seed", "0"]
    asked += ["--set", "validation_examples=30", "--set", "learning_rate=0.01", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [*asked, "--mode", "erm", "--mode", "george"])
    strata_language.main()
    line = json.loads(out.read_text())
    [seed] = line["seeds"]
    assert seed["modes"].keys() == line["over_seeds"].keys() == {"erm", "george"}
    assert seed["modes"]["erm"]["overall"] == seed["overall"]
    assert seed["recovery"].keys() == seed["groups"].keys() and len(seed["groups"]) == 4
    lift = seed["modes"]["george"]["lift_on_worst_group_of_erm"]
    assert lift[0] in seed["groups"] and lift[2] <= lift[1] <= lift[3]
    strata_language.main()  # all of it is in storage
    assert json.loads(out.read_text())["seeds"] == [seed]


@pytest.mark.slow
def test_the_recurrent_benchmark_runs_at_a_tiny_size(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "line.json"
    asked = "recurrent --hidden 8 --rounds 1 --plain-rounds 1 --out"
    monkeypatch.setattr(sys, "argv", [*asked.split(), str(out)])
    recurrent.main()
    found = json.loads(out.read_text())["hidden"]["8"]
    assert set(found) == {"torch_lstm", "vanilla", "plain_autograd", "augmented", "ratios"}
    # Gates, states and values of 100 steps of 32 rows, and the first state and value; the output.
    kept = 4 * (4 + 1 + 1) * 8 * 32 * 100 / (1 << 20)
    assert found["vanilla"]["held_mib"] == pytest.approx(kept, rel=0.3, abs=0.1)
    assert found["plain_autograd"]["held_mib"] > found["vanilla"]["held_mib"]
