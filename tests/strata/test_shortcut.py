"""The whole of it on a real base: a shortcut is learned, found without group labels, and mended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import strata_language


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_a_planted_shortcut_is_found_without_labels_and_group_dro_lifts_the_worst_group(
    embedded_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LORALAND_CACHE", str(embedded_cache))
    out = tmp_path / "line.json"
    asked = ["strata_language", "--storage", str(tmp_path / "storage"), "--seed", "0"]
    asked += ["--items", "200", "--mode", "erm", "--mode", "george", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", asked)
    strata_language.main()
    [seed] = json.loads(out.read_text())["seeds"]
    erm, george = seed["modes"]["erm"], seed["modes"]["george"]
    worst, low, high = erm["worst_group"][0], erm["worst_group"][1], erm["worst_group"][3]
    assert low < 0.4 and high < seed["overall"][0]
    train = seed["recovery"][worst]["train"]
    assert train["precision"] > 4 * train["prevalence"] and train["recall"] > 0.5
    assert george["worst_group"][1] > low
    assert george["lift_on_worst_group_of_erm"][2] > 0.2  # the interval's lower bound
