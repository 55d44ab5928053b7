"""Judges rankers on cases: means with intervals over people, and what lies beyond accuracy.

Nothing is sampled: every ranker ranks the whole catalogue. Cases of one unit (a taster's bundles)
vary together, and intervals count them so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from loraland.evaluation.statistics import mean_interval
from loraland.palate.cases import Case
from loraland.palate.catalogue import Floats, Ints
from loraland.palate.metrics import calibration, gini, intra_list_distance, ranking
from loraland.palate.model import PalateModel
from loraland.palate.preference import profile
from loraland.palate.rivals import Ranker

DEPTHS = (5, 10, 20)
BEYOND_AT = 10  # items of a list that the figures beyond accuracy look at
METRICS = ("ndcg", "hit", "recall", "mrr", "map")


def judge(
    model: PalateModel, cases: Sequence[Case], rankers: Mapping[str, Ranker]
) -> list[dict[str, Any]]:
    """One row per ranker, JSON values: `ndcg@10` is [mean, low, high], and so on."""
    thetas = [profile(model, case.tastes).theta for case in cases]
    return [
        {"ranker": name, "cases": len(cases), **judge_one(model, cases, thetas, ranker)}
        for name, ranker in rankers.items()
    ]


def judge_one(
    model: PalateModel, cases: Sequence[Case], thetas: Sequence[Floats], ranker: Ranker
) -> dict[str, Any]:
    """The figures of one ranker; `thetas` are those of the cases, for calibration."""
    shown, times = [], []
    for case in cases:
        start = time.perf_counter()
        shown.append(ranker(case, max(DEPTHS)))
        times.append(1000 * (time.perf_counter() - start))
    units = [case.unit for case in cases]
    found: dict[str, Any] = {}
    for depth in DEPTHS:
        rows = [
            ranking(places.tolist(), case.relevant, depth)
            for places, case in zip(shown, cases, strict=True)
        ]
        for metric in METRICS:
            interval = mean_interval([row[metric] for row in rows], units=units)
            found[f"{metric}@{depth}"] = [round(number, 4) for number in interval]
    beyond = _beyond(model, [places[:BEYOND_AT] for places in shown], thetas)
    return found | beyond | {"p95_ms": round(float(np.quantile(times, 0.95)), 2)}


def _beyond(
    model: PalateModel, lists: Sequence[Ints], thetas: Sequence[Floats]
) -> dict[str, float | None]:
    catalogue = model.catalogue
    every = np.concatenate(lists) if lists else np.zeros(0, dtype=np.int64)
    makers = np.bincount(
        catalogue.maker_codes[every] + 1, minlength=int(catalogue.maker_codes.max()) + 2
    )[1:]
    share = catalogue.reviews / catalogue.reviews.sum()
    palates = len(model.palates)
    listed = [np.bincount(model.palate[one], minlength=palates) / max(len(one), 1) for one in lists]
    pairs = zip(thetas, listed, strict=True)
    return {
        "value": _mean(model.values.by["residual"][every]),
        "price": _mean(catalogue.price[every]),
        "points": _mean(catalogue.quality[every]),
        "coverage": round(len(np.unique(every)) / len(catalogue), 4),
        "distance": _mean([intra_list_distance(model.places[one]) for one in lists]),
        "novelty_bits": _mean(-np.log2(share[every])),
        "gini_makers": round(gini(makers), 4),
        "calibration_kl": _mean([calibration(theta, one) for theta, one in pairs]),
    }


def _mean(values: Sequence[float] | Floats) -> float | None:
    """Over what is known; None where nothing is."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return round(float(known.mean()), 4) if len(known) else None
