"""From a catalogue to a model: features, a number of palates, a mixture, names, facts.

Everything random follows from the seed. Trials of the scan run here, or where a runner puts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from loraland.errors import InvalidConfiguration
from loraland.palate.catalogue import Catalogue, Ints
from loraland.palate.clusters import ClusterSettings, Mixture, calibrated, fit_mixture, thin
from loraland.palate.features import Features, FeatureSettings, Vectors, metadata_of
from loraland.palate.hygiene import hygiene
from loraland.palate.model import Palate, PalateModel
from loraland.palate.naming import names_of, telling_terms
from loraland.palate.pricing import PricingSettings
from loraland.palate.scan import Runner, ScanSettings, as_rows, choose, numbers, run_here, unstable

CALIBRATED_ON = 10_000  # items

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FitSettings:
    """All settings of a fit; `k` skips the scan."""

    k: int | None = None
    seed: int = 0
    features: FeatureSettings = field(default_factory=FeatureSettings)
    clusters: ClusterSettings = field(default_factory=ClusterSettings)
    scan: ScanSettings = field(default_factory=ScanSettings)
    pricing: PricingSettings = field(default_factory=PricingSettings)


def fit(
    catalogue: Catalogue,
    settings: FitSettings | None = None,
    *,
    runner: Runner = run_here,
    source: Mapping[str, Any] | None = None,
    warnings: tuple[str, ...] = (),
    tell: Tell = lambda stage: None,
) -> PalateModel:
    """Learn palates of a catalogue.

    `source` (where the catalogue comes from, JSON values) and `warnings` of its cleaning are kept
    among the facts.

    Raises DataRefused for texts without telling words, InvalidConfiguration for an impossible `k`.
    """
    settings = settings or FitSettings()
    if settings.k is not None and not 2 <= settings.k <= len(catalogue) // 2:
        raise InvalidConfiguration(
            f"{settings.k} palates of {len(catalogue)} items; 2 to {len(catalogue) // 2} can be had"
        )
    tell("words")
    features = Features.learn(catalogue, settings.features, settings.seed)
    documents = features.documents(catalogue)
    weights = features.weights(documents)
    places = features.place_weights(weights, documents, metadata_of(catalogue))
    tell("number of palates")
    k, scan = _number(places, settings, runner)
    tell(f"{k} palates")
    mixture = _mixture(features, documents, places, k, settings)
    palate = mixture.log_odds(places).argmax(axis=1)
    terms = telling_terms(weights, features.terms, palate, k)
    found = hygiene(catalogue, places, np.asarray(palate), k, settings.seed)
    found["alarms"] += unstable(scan, k, settings.scan)
    facts: dict[str, Any] = {
        "settings": asdict(settings),
        "items": len(catalogue),
        "data": catalogue.fingerprint,
        "k": k,
        "scan": as_rows(scan),
        "temperature": mixture.temperature,
        "hygiene": found,
        "source": dict(source or {}),
        "warnings": list(warnings),
    }
    return PalateModel(
        catalogue, features, mixture, places, _palates(terms, palate, k), settings.pricing, facts
    )


def _number(places: Vectors, settings: FitSettings, runner: Runner) -> tuple[int, list[Any]]:
    if settings.k is not None:
        return settings.k, []
    draws = np.random.default_rng(settings.seed)
    most = min(len(places), settings.scan.fitted)
    sample = places[draws.choice(len(places), most, replace=False)]
    trials = runner(sample, numbers(settings.scan, len(places)), settings.scan, settings.seed)
    return choose(sample, trials, settings.scan, settings.clusters, settings.seed)


def _mixture(
    features: Features, documents: list[list[str]], places: Vectors, k: int, settings: FitSettings
) -> Mixture:
    found = fit_mixture(places, k, settings.clusters, settings.seed)
    draws = np.random.default_rng([settings.seed, 2])
    chosen = draws.choice(len(places), min(CALIBRATED_ON, len(places)), replace=False)
    thinned = thin([documents[i] for i in chosen], settings.clusters.thinned, settings.seed)
    poorer = features.place_documents(thinned, np.full((len(chosen), 2), np.nan))
    whole = found.log_odds(places[chosen]).argmax(axis=1)
    return replace(found, temperature=calibrated(found, poorer, np.asarray(whole)))


def _palates(terms: list[tuple[str, ...]], palate: Ints, k: int) -> tuple[Palate, ...]:
    counts = np.bincount(palate, minlength=k)
    return tuple(
        Palate(f"p{at:02d}", name, own, int(counts[at]))
        for at, (name, own) in enumerate(zip(names_of(terms), terms, strict=True))
    )
