"""How many palates: tries numbers of clusters on a sample, and chooses one.

Silhouette decides; among numbers that are nearly as good, those whose clusters come again on half
of the data, then the better BIC. A trial is a pure function of its arguments, so that it can run
here or as a task of a cluster (`scan_on_ray`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sklearn.cluster import MiniBatchKMeans
from sklearn.metrics import adjusted_rand_score, silhouette_score

from loraland.palate.catalogue import Floats
from loraland.palate.clusters import ClusterSettings, fit_mixture
from loraland.palate.features import Vectors


@dataclass(frozen=True, slots=True)
class ScanSettings:
    """Which numbers are tried, on how much."""

    least: int = 8
    most: int = 40
    step: int = 2
    sample: int = 10_000  # items for silhouettes and BIC
    fitted: int = 30_000  # items that trial clusters are fitted on
    stable: float = 0.6  # ARI between two halves, to count as stable
    tie: float = 0.05  # silhouettes within this share of the best are as good
    finalists: int = 3  # that EM judges


class Trial(NamedTuple):
    """What a number of clusters gave."""

    k: int
    silhouette: float  # on the sample; higher is better
    stability: float  # ARI on the sample of two fits on disjoint halves
    smallest: float  # share of the smallest cluster
    bic: float | None  # per item; None where EM was not run


Job = tuple[Vectors, int, ScanSettings, int]  # places, k, settings, seed
Runner = Callable[[Vectors, Sequence[int], ScanSettings, int], list[Trial]]


def try_k(places: Vectors, k: int, settings: ScanSettings, seed: int) -> Trial:
    """Fit k clusters by mini-batches and judge them; places are at most `fitted` many."""
    draws = np.random.default_rng([seed, k])
    sample = draws.choice(len(places), min(settings.sample, len(places)), replace=False)
    judged = places[sample]
    labels = _mini(places, k, seed).predict(judged)
    order = draws.permutation(len(places))
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    twice = [_mini(places[half], k, seed).predict(judged) for half in halves]
    counts = np.bincount(labels, minlength=k)
    return Trial(
        k,
        _silhouette(judged, labels),
        float(adjusted_rand_score(*twice)),
        float(counts.min() / counts.sum()),
        None,
    )


def run_here(places: Vectors, ks: Sequence[int], settings: ScanSettings, seed: int) -> list[Trial]:
    """All trials, one after the other, in this process."""
    return [try_k(places, k, settings, seed) for k in ks]


def numbers(settings: ScanSettings, items: int) -> list[int]:
    """The numbers worth trying: a palate has five items on average at least."""
    most = max(2, min(settings.most, items // 5))
    least = min(settings.least, most)
    return list(range(least, most + 1, settings.step))


def choose(
    places: Vectors,
    trials: Sequence[Trial],
    settings: ScanSettings,
    clusters: ClusterSettings,
    seed: int,
) -> tuple[int, list[Trial]]:
    """The chosen number, and the trials with the BIC of the finalists."""
    final = finalists(trials, settings)
    if len(final) > 1:
        sample = places[: settings.sample]
        fits = {
            t.k: fit_mixture(sample, t.k, clusters, seed, _centres(sample, t.k, seed))
            for t in final
        }
        trials = [t._replace(bic=fits[t.k].bic) if t.k in fits else t for t in trials]
        final = finalists(trials, settings)
    best = min(final, key=lambda t: (t.bic if t.bic is not None else 0.0, t.k))
    return best.k, list(trials)


def finalists(trials: Sequence[Trial], settings: ScanSettings) -> list[Trial]:
    """Those within `tie` of the best silhouette, the stable ones of them if there are any."""
    top = max(trial.silhouette for trial in trials)
    near = [t for t in trials if t.silhouette >= top - settings.tie * abs(top)]
    stable = [t for t in near if t.stability >= settings.stable]
    chosen = stable or sorted(near, key=lambda t: -t.stability)
    return sorted(chosen, key=lambda t: -t.silhouette)[: settings.finalists]


def unstable(trials: Sequence[Trial], k: int, settings: ScanSettings) -> list[str]:
    """An alarm where the chosen clusters do not come again on half of the data."""
    chosen = [trial for trial in trials if trial.k == k and trial.stability < settings.stable]
    return [
        f"{k} palates of one half of the items agree with those of the other half by an ARI of "
        f"{trial.stability:.2f}; {settings.stable:g} would be stable"
        for trial in chosen
    ]


def as_rows(trials: Sequence[Trial]) -> list[dict[str, float | int | None]]:
    """The scan as JSON values."""
    return [trial._asdict() for trial in trials]


def _mini(places: Vectors, k: int, seed: int) -> MiniBatchKMeans:
    return MiniBatchKMeans(k, n_init=5, batch_size=2048, random_state=seed).fit(places)


def _centres(places: Vectors, k: int, seed: int) -> Floats:
    return np.asarray(_mini(places, k, seed).cluster_centers_)


def _silhouette(places: Vectors, labels: Floats) -> float:
    if len(np.unique(labels)) < 2:
        return -1.0
    return float(silhouette_score(places, labels))
