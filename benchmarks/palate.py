"""Palates measured: recovered from made-up reviews, judged on them and on real ones, timed.

    python -m benchmarks.palate --real FOLDER/reviews.parquet --out benchmarks/results/palate.json

Prints one JSON line. Parts take minutes and can be run one by one (`--part`); what is in the file
already is kept, so that a run that was interrupted goes on.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.metrics import adjusted_rand_score

from benchmarks.report import report
from loraland.palate import artifact
from loraland.palate.cases import Case, bundles, of_people, planted_of
from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.cleaning import catalogue_of
from loraland.palate.clusters import ClusterSettings
from loraland.palate.features import FeatureSettings
from loraland.palate.fitting import FitSettings, fit
from loraland.palate.generator import generate, people
from loraland.palate.judging import judge
from loraland.palate.model import PalateModel
from loraland.palate.preference import Tastes
from loraland.palate.recommend import recommend
from loraland.palate.reviews import read_reviews
from loraland.palate.rivals import (
    BY_SCORE,
    POINTS_PER_PRICE,
    POPULAR,
    SERVED,
    WITHOUT_PRICE,
    by_score,
    rankers,
)
from loraland.palate.scoring import ListSettings, Wish
from loraland.storage import Storage

PLANTED = 12
GENERATED = 10_000
LARGE = 130_000
ASKED = 100_000  # items of the latency measurement
LISTS = 300
PEOPLE = 300
GIB = 1024**3


def main() -> None:
    """Measure what is asked for and not there yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", type=Path, help="a .csv or .parquet file of real reviews")
    parser.add_argument("--part", action="append", choices=["generated", "real", "large"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    parts: dict[str, Callable[[], dict[str, Any]]] = {"generated": generated, "large": large}
    if options.real is not None:
        parts["real"] = lambda: real(options.real)
    found: dict[str, Any] = {}
    if options.out is not None and options.out.exists():
        found = {k: v for k, v in json.loads(options.out.read_text()).items() if k in parts}
    for name, measure in parts.items():
        if name in found or (options.part and name not in options.part):
            continue
        print(name, file=sys.stderr, flush=True)
        found[name] = measure()
    report("palate", found, options.out)


def generated() -> dict[str, Any]:
    """Made-up reviews: planted palates, made-up people, all rankers, several seeds."""
    recovered = []
    for seed in range(3):
        world = generate(GENERATED, PLANTED, seed)
        model = fit(catalogue_of(world.reviews).catalogue, FitSettings(seed=seed))
        truth = planted_of(world, model.catalogue)
        ari = adjusted_rand_score(truth, model.palate)
        recovered.append({"seed": seed, "chosen_k": model.facts["k"], "ari": round(float(ari), 4)})
        if seed == 0:
            cases = of_people(
                model.catalogue,
                people(
                    *(model.catalogue.keys, truth, model.catalogue.quality, PLANTED), count=PEOPLE
                ),
            )
            rows = judge(model, cases, rankers(model, cases))
            betas = _betas(model, cases)
            regularisation = _regularisation(model.catalogue, truth)
    return {
        "reviews": GENERATED,
        "planted": PLANTED,
        "people": len(cases),
        "recovered": recovered,
        "rankers": rows,
        "beats": _beats(rows),
        "betas_ndcg@10": betas,
        "regularisation": regularisation,
        "trade": _trade(rows),
    }


def real(path: Path) -> dict[str, Any]:
    """Real reviews: hygiene, pseudo-users, all rankers, and what each part of the method gives."""
    catalogue = catalogue_of(read_reviews(path)).catalogue
    model = fit(catalogue)
    cases = bundles(catalogue)
    rows = judge(model, cases, rankers(model, cases))
    return {
        "items": len(catalogue),
        "pseudo_users": len(cases),
        "tasters": len({case.unit for case in cases}),
        "k": model.facts["k"],
        "scan": model.facts["scan"],
        "hygiene": model.facts["hygiene"],
        "names": [palate.name for palate in model.palates],
        "rankers": rows,
        "trade": _trade(rows),
        # On another draw of what is held out, since a setting was chosen by it.
        "betas_ndcg@10": _betas(model, bundles(catalogue, seed=1)),
        "regularisation": _regularisation(catalogue),
        "inductive": _inductive(catalogue, cases, model),
        "without": _ablations(catalogue, cases, int(model.facts["k"])),
    }


def large() -> dict[str, Any]:
    """A full fit of 130,000 made-up reviews, and lists over 100,000 of the items."""
    world = generate(LARGE, PLANTED, seed=0)
    start = time.perf_counter()
    catalogue = catalogue_of(world.reviews).catalogue
    stages: dict[str, float] = {}
    model = fit(
        catalogue, tell=lambda stage: stages.update({stage: round(time.perf_counter() - start, 1)})
    )
    fit_s = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB
    truth = planted_of(world, catalogue)
    with tempfile.TemporaryDirectory() as folder:
        storage = Storage.open(folder)
        start = time.perf_counter()
        artifact.save(model, storage, "wine")
        save_s = time.perf_counter() - start
        start = time.perf_counter()
        artifact.load(storage, "wine").warm()
        load_s = time.perf_counter() - start
    return {
        "reviews": LARGE,
        "items": len(catalogue),
        "fit_s": round(fit_s, 1),
        "stages_begin_s": stages,
        "peak_gib": round(peak, 2),
        "chosen_k": model.facts["k"],
        "ari": round(float(adjusted_rand_score(truth, model.palate)), 4),
        "save_s": round(save_s, 1),
        "load_and_warm_s": round(load_s, 1),
        "recommend": _latency(model),
    }


def _latency(model: PalateModel) -> dict[str, Any]:
    """Milliseconds of whole lists of ten, reasons and a guess included."""
    from dataclasses import replace

    catalogue = model.catalogue.take(range(min(ASKED, len(model.catalogue))))
    part = replace(model, catalogue=catalogue, places=model.places[: len(catalogue)]).warm()
    draws = np.random.default_rng(0)
    times = []
    for number in range(LISTS):
        liked = tuple(catalogue.keys[i] for i in draws.choice(len(catalogue), 12, replace=False))
        wish = Wish(10, budget=float(draws.choice([20, 40, 80])), seed=number)
        start = time.perf_counter()
        recommend(part, Tastes(liked[:9], liked[9:]), wish)
        times.append(1000 * (time.perf_counter() - start))
    return {
        "items": len(catalogue),
        "lists": LISTS,
        **{f"p{q}_ms": round(float(np.quantile(times, q / 100)), 1) for q in (50, 95, 99)},
    }


def _beats(rows: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether intervals of ndcg@10 lie apart from those of the simple rivals."""
    of = {row["ranker"]: row["ndcg@10"] for row in rows}
    return {
        f"{ours} > {rival}": of[ours][1] > of[rival][2]
        for ours in (SERVED, BY_SCORE)
        for rival in (POPULAR, POINTS_PER_PRICE)
    }


def _trade(rows: list[dict[str, Any]]) -> dict[str, float]:
    """What the price term costs in ndcg@10 and brings in value and money."""
    of = {row["ranker"]: row for row in rows}
    priced, plain = of[BY_SCORE], of[WITHOUT_PRICE]
    return {
        "ndcg_share_kept": round(priced["ndcg@10"][0] / max(plain["ndcg@10"][0], 1e-9), 3),
        "value_gained": round(priced["value"] - plain["value"], 3),
        "price_ratio": round(priced["price"] / plain["price"], 3),
    }


def _betas(model: PalateModel, cases: list[Case]) -> dict[str, list[float]]:
    """ndcg@10 of the ranking by score, for weights of the nearness to what was liked."""
    found = {}
    for beta in (0.0, 0.3, 1.0, 3.0, 10.0):
        [row] = judge(model, cases, {"": by_score(model, ListSettings(beta=beta))})
        found[f"{beta:g}"] = row["ndcg@10"]
    return found


def _regularisation(catalogue: Catalogue, truth: Ints | None = None) -> dict[str, Any]:
    """What EM makes of the clusters of k-means, by what is added to variances."""
    found = {}
    for added in (1e-4, 1e-3, 5e-3):
        clusters = ClusterSettings(regularisation=added)
        model = fit(catalogue, FitSettings(k=PLANTED, clusters=clusters))
        hard = model.mixture.nearest_centre(model.places)
        mixed = model.mixture.log_odds(model.places).argmax(axis=1)
        row = {"ari_of_em_and_kmeans": adjusted_rand_score(hard, mixed)}
        if truth is not None:
            row |= {
                "em": adjusted_rand_score(truth, mixed),
                "kmeans": adjusted_rand_score(truth, hard),
            }
        found[f"{added:g}"] = {name: round(float(value), 3) for name, value in row.items()}
    return found


def _inductive(catalogue: Catalogue, cases: list[Case], model: PalateModel) -> dict[str, Any]:
    """Features and palates learned without any held-out wine, which are placed afterwards."""
    from dataclasses import replace

    held = frozenset().union(*(case.relevant for case in cases))
    kept = np.asarray([place for place in range(len(catalogue)) if place not in held])
    poorer = fit(catalogue.take(kept), FitSettings(k=int(model.facts["k"])))
    whole = replace(poorer, catalogue=catalogue, places=poorer.features.place(catalogue))
    wanted = (SERVED, BY_SCORE, WITHOUT_PRICE)
    every = rankers(whole, cases)
    rows = judge(whole, cases, {name: every[name] for name in wanted})
    return {"held_out_items": len(held), "rankers": rows}


def _ablations(catalogue: Catalogue, cases: list[Case], k: int) -> dict[str, list[float]]:
    """ndcg@10 of the ranking by score without price, of models that lack something."""
    variants = {
        "all of it": FitSettings(k=k),
        "without aroma lexicon": FitSettings(k=k, features=FeatureSettings(lexicon=0.0)),
        "with names": FitSettings(k=k, features=FeatureSettings(without_names=False)),
        "with metadata 0.3": FitSettings(k=k, features=FeatureSettings(metadata=0.3)),
        "32 dimensions": FitSettings(k=k, features=FeatureSettings(dimensions=32)),
        "128 dimensions": FitSettings(k=k, features=FeatureSettings(dimensions=128)),
        "8 palates": FitSettings(k=8),
        "16 palates": FitSettings(k=16),
    }
    found = {}
    for name, settings in variants.items():
        model = fit(catalogue, settings)
        ranker = rankers(model, cases)[WITHOUT_PRICE]
        [row] = judge(model, cases, {name: ranker})
        found[name] = row["ndcg@10"]
    return found


if __name__ == "__main__":
    main()
