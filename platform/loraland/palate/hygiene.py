"""Whether palates are flavours: not just grapes, not just tasters, none too small.

Normalised mutual information of palates with varieties and tasters, purity of colour, how close
clusters are. Judges a clustering; changes nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from sklearn.metrics import (
    calinski_harabasz_score,
    davies_bouldin_score,
    normalized_mutual_info_score,
    silhouette_score,
)

from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.features import Vectors

MOST_KIND_NMI = 0.6  # above it the palates are just grapes
MOST_CRITIC_NMI = 0.3  # above it the palates are styles of writing
LEAST_SHARE = 0.005  # of the smallest palate
SAMPLE = 10_000


def hygiene(
    catalogue: Catalogue, places: Vectors, palate: Ints, palates: int, seed: int = 0
) -> dict[str, Any]:
    """Figures as JSON values, with `alarms` in words; None where a figure cannot be had."""
    kind = _shared(catalogue.kinds, palate)
    critic = _shared(catalogue.critics, palate)
    counts = np.bincount(palate, minlength=palates)
    found = {
        "kind_nmi": kind,
        "critic_nmi": critic,
        "colour_purity": colour_purity(catalogue.kinds, palate),
        "without_price": float(np.mean(~catalogue.has_price)),
        "smallest_share": float(counts.min() / counts.sum()),
        **_shape(places, palate, seed),
    }
    return found | {"alarms": _alarms(found)}


def _alarms(found: Mapping[str, Any]) -> list[str]:
    alarms = []
    if (found["kind_nmi"] or 0) > MOST_KIND_NMI:
        alarms.append(f"palates follow varieties (NMI {found['kind_nmi']:.2f}): just grapes")
    if (found["critic_nmi"] or 0) > MOST_CRITIC_NMI:
        alarms.append(f"palates follow tasters (NMI {found['critic_nmi']:.2f}): styles of writing")
    if found["smallest_share"] < LEAST_SHARE:
        alarms.append(f"the smallest palate has {found['smallest_share']:.2%} of the items")
    return alarms


def _shared(names: Sequence[str], palate: Ints) -> float | None:
    """Normalised mutual information over items that have a name; None with fewer than two names."""
    known = np.asarray([bool(name) for name in names])
    labels = np.asarray(names)[known]
    if len(set(labels.tolist())) < 2:
        return None
    return float(normalized_mutual_info_score(labels, palate[known]))


def colour_purity(kinds: Sequence[str], palate: Ints) -> float | None:
    """The share of items whose colour is their palate's commonest, over kinds of known colour."""
    colours = [colour_of(kind) for kind in kinds]
    known = np.asarray([colour is not None for colour in colours])
    if not known.any():
        return None
    names, codes = np.unique([c for c in colours if c is not None], return_inverse=True)
    table = np.zeros((int(palate.max()) + 1, len(names)))
    np.add.at(table, (palate[known], codes), 1)
    return float(table.max(axis=1).sum() / table.sum())


def colour_of(kind: str) -> str | None:
    """red, white, rosé or sparkling of a variety; None where colours.csv does not say."""
    lowered = kind.lower().replace(",", "")
    if (named := _colours().get(lowered)) is not None:
        return named
    for word in ("sparkling", "rosé", "red", "white"):
        if word in lowered.split() or lowered.endswith(word):
            return word
    return None


def _shape(places: Vectors, palate: Ints, seed: int) -> dict[str, float | None]:
    """Silhouette (on a sample), Calinski-Harabasz and Davies-Bouldin of the hard palates."""
    draws = np.random.default_rng(seed)
    sample = draws.choice(len(places), min(SAMPLE, len(places)), replace=False)
    x, labels = places[sample], palate[sample]
    if not 2 <= len(np.unique(labels)) < len(labels):
        return {"silhouette": None, "calinski_harabasz": None, "davies_bouldin": None}
    return {
        "silhouette": float(silhouette_score(x, labels)),
        "calinski_harabasz": float(calinski_harabasz_score(x, labels)),
        "davies_bouldin": float(davies_bouldin_score(x, labels)),
    }


@cache
def _colours() -> Mapping[str, str]:
    text = resources.files("loraland.palate").joinpath("colours.csv").read_text("utf-8")
    return {
        variety.strip().lower(): row["colour"]
        for row in csv.DictReader(text.splitlines())
        for variety in row["varieties"].split("|")
    }
