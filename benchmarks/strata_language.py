"""A planted shortcut, found and mended: an adapter, its audit, and adapters trained over groups.

    python -m benchmarks.strata_language --storage FOLDER --out FILE.json

Trains SmolLM2-135M on `planted_shortcut`, audits it without group labels, trains it anew over the
groups of each mode, and judges all on the same held-out items, in which groups are balanced. Prints
one JSON line. Every step leaves its result in the storage: an interrupted run goes on, and
`--seed` and `--mode` do a part of it, some minutes each on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.report import report
from loraland.adapters.registry import Registry
from loraland.evaluation.statistics import paired_interval
from loraland.matrix.cell import Cell
from loraland.matrix.run import run_cell
from loraland.storage import Storage
from loraland.strata.features import Features
from loraland.strata.groups import MODES, Mode
from loraland.strata.language.audit_adapter import audit_adapter, read_splits, read_strata
from loraland.strata.language.retrain import Robustness, judge_on_strata, robust_cell
from loraland.strata.metrics import best_strata
from loraland.strata.record import Audit, Rate, Retrained
from loraland.strata.settings import preset
from loraland.strata.shelf import retrained
from loraland.training.recipe import get_recipe

TASK = "planted_shortcut"
ROWS, ITEMS, ASKED = 900, 400, 10  # train rows; held-out items; of them asked for whole answers
# One pass over the rows, the same for all modes; minutes on one core.
RECIPE: dict[str, Any] = {
    "precision": "fp32",
    "learning_rate": 1e-3,
    "max_epochs": 1,
    "examples_per_update": 16,
    "micro_batch_examples": 16,
    "length_window": 1,
    "validation_examples": 100,
    "evaluate_every": 10,
    "patience": 100,
    "checkpoint_every": 20,
}
ROBUSTNESS = Robustness(eta=0.1)
SETTINGS = "waterbirds"  # the paper's for a shortcut: the component along the decision boundary


def main() -> None:
    """Do what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--base", default="smollm2-135m", help="a base, or the path of a folder")
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--items", type=int, default=ITEMS)
    parser.add_argument("--set", action="append", default=[], help="of the recipe, NAME=NUMBER")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    modes: Sequence[Mode] = [mode for mode in MODES if mode in (options.mode or MODES)]
    storage = Storage.open(options.storage)
    changes = RECIPE | {
        name: float(value) if "." in value or "e" in value else int(value)
        for name, _, value in (one.partition("=") for one in options.set)
    }
    seeds = options.seed or [0, 1, 2]
    measured = [
        measure(options.base, seed, modes, storage, changes, (options.rows, options.items))
        for seed in seeds
    ]
    found = {
        "base": options.base,
        "task": TASK,
        "rows": options.rows,
        "items": options.items,
        "recipe": changes,
        "group_dro": ROBUSTNESS._asdict(),
        "settings": SETTINGS,
        "seeds": measured,
        "over_seeds": {mode: over_seeds(measured, mode) for mode in modes},
    }
    report("strata_language", found, options.out)


def measure(
    base: str,
    seed: int,
    modes: Sequence[Mode],
    storage: Storage,
    changes: dict[str, Any],
    sizes: tuple[int, int],
) -> dict[str, Any]:
    """One seed from rows to figures."""
    told(f"seed {seed}: an adapter")
    cell = Cell(base, TASK, get_recipe("quick", **changes), seed, sizes[0], ASKED)
    model = run_cell(cell, storage).model
    path = base if cell.has_local_base else None
    found = audit_adapter(
        model, storage, preset(SETTINGS), base=path, max_items=sizes[1], on_stage=told
    )
    known = {one.mode: one for one in retrained(found.id, storage)}
    for mode in modes:
        if mode not in known:
            told(f"seed {seed}: {mode}")
            robust = robust_cell(found, mode, storage, ROBUSTNESS, base=path, max_items=ASKED)
            trained = run_cell(robust, storage).model
            known[mode] = judge_on_strata(found, mode, trained, storage, path)
    return {
        "seed": seed,
        "audit": found.id,
        "overall": as_list(found.overall),
        "worst_stratum": as_list(worst_of(found)),
        "groups": {group.name: [group.train, *as_list(group.test)] for group in found.known},
        "recovery": recovery(found, storage),
        "modes": {mode: figures(found, known[mode], known.get("erm"), storage) for mode in modes},
    }


def worst_of(audit: Audit) -> Rate | None:
    """The held-out score of the worst stratum."""
    return next((one.test for one in audit.strata if one.number == audit.worst), None)


def recovery(audit: Audit, storage: Storage) -> dict[str, dict[str, Any]]:
    """The stratum that fits each true subclass best, on training and on held-out examples."""
    splits, model = read_strata(audit, storage)
    found: dict[str, dict[str, Any]] = {}
    for split in (splits.train, splits.test):
        if split.subclasses is None:
            continue
        for one in best_strata(model.assign(split), split.subclasses, split.superclasses):
            name = audit.known[one.subclass].name
            found.setdefault(name, {})[split.split] = {
                key: round(value, 3) for key, value in one._asdict().items() if key != "subclass"
            }
    return found


def figures(
    audit: Audit, found: Retrained, erm: Retrained | None, storage: Storage
) -> dict[str, Any]:
    """A mode's scores with intervals, and its lift over ERM on ERM's worst known group."""
    name = min(found.known, key=lambda group: found.known[group].mean)
    told_of: dict[str, Any] = {
        "model": found.model,
        "overall": as_list(found.overall),
        "worst_stratum": as_list(found.worst_stratum),
        "worst_group": [name, *as_list(found.known[name])],
        "groups": {group: as_list(rate) for group, rate in found.known.items()},
        "train_s": Registry(storage).card(found.model).curve[-1].seconds,
    }
    if erm is not None and found.mode != "erm":
        worst = min(erm.known, key=lambda group: erm.known[group].mean)
        test = read_splits(audit.rests_on["features"], storage).test
        assert test.subclasses is not None
        here = test.subclasses == [group.name for group in audit.known].index(worst)
        ours, theirs = (right_of(one, test)[here].astype(float).tolist() for one in (found, erm))
        lift = paired_interval(ours, theirs)
        told_of["lift_on_worst_group_of_erm"] = [worst, *(round(value, 3) for value in lift)]
    return told_of


def right_of(found: Retrained, test: Features) -> NDArray[np.bool_]:
    """Which held-out items were answered right, in their order."""
    packed = np.frombuffer(bytes.fromhex(found.right), np.uint8)
    return np.unpackbits(packed, count=len(test)).astype(bool)


def over_seeds(measured: Sequence[dict[str, Any]], mode: Mode) -> dict[str, list[float]]:
    """Mean over seeds with Student's 95 % interval, where there are several."""
    values = {
        name: [one["modes"][mode][name][place] for one in measured]
        for name, place in (("overall", 0), ("worst_stratum", 0), ("worst_group", 1))
    }
    return {name: mean_with_interval(each) for name, each in values.items()}


def mean_with_interval(values: Sequence[float]) -> list[float]:
    """[mean, low, high], or [value] of one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return [round(mean, 3)]
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return [round(mean, 3), round(mean - half, 3), round(mean + half, 3)]


def as_list(rate: Rate | None) -> list[float]:
    """[mean, low, high, items]."""
    if rate is None:
        return []
    return [round(rate.mean, 3), round(rate.low, 3), round(rate.high, 3), rate.items]


def told(text: str) -> None:
    """Where the run is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
