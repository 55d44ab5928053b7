"""What each property of the recurrent nets buys: the shipped studies, every seed, in one run.

    python -m benchmarks.recurrent_studies --out benchmarks/results/recurrent_studies.json

Trains what has no result in `--work`, one trial after the other on one thread, so that a run which
was interrupted goes on. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.report import report
from loraland.recurrent.keeping import run_and_keep
from loraland.recurrent.outcomes import outcomes
from loraland.recurrent.recipe import left, load_study, results
from loraland.storage import Storage

STUDIES = ("adding", "look_ahead", "noisy", "copy")


def main() -> None:
    """Train what is missing, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", action="append", choices=STUDIES, help="only these; may recur")
    parser.add_argument("--work", type=Path, default=Path("build/recurrent"), help="kept results")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    options = parser.parse_args()
    torch.set_num_threads(1)
    storage, found = Storage.open(str(options.work)), {}
    for name in options.study or STUDIES:
        study = load_study(name)
        for trial in left(study, storage):
            result = run_and_keep(trial, storage)
            told = f"{name} {trial.cell} {trial.seed}: {result.error:.4f}"
            print(told, file=sys.stderr, flush=True)
        found[name] = [asdict(one) for one in outcomes(study, results(study, storage))]
    report("recurrent_studies", {"studies": found}, options.out)


if __name__ == "__main__":
    main()
