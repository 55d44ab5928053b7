"""Makes an audit of what a fit found: who is in each stratum, how it does, how it can be told.

Told features of three splits, a fitted model and what examples look like; knows no classifier and
no storage. Scores are of held-out examples, which no stratum was fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from loraland.adapters.card import utc_now
from loraland.evaluation.statistics import mean_interval
from loraland.strata import record
from loraland.strata.features import Features, Floats, Whole
from loraland.strata.language.words import telling_words
from loraland.strata.model import StrataModel
from loraland.strata.picture import picture
from loraland.strata.superclass import Decision

EXAMPLES = 8  # of a stratum that are shown
LEAST_ITEMS = 10  # held-out examples that a stratum needs to be called the worst


@dataclass(frozen=True, slots=True)
class Splits:
    """Features of the examples a classifier learned from, chose by, and never saw."""

    train: Features
    validation: Features
    test: Features


@dataclass(frozen=True, slots=True)
class Looks:
    """What examples look like, by their id; and the names of what is known of them."""

    texts: Mapping[str, str]  # none for images
    pixels: Mapping[str, NDArray[np.floating[Any]]]  # (rows, columns) in 0..1; none for texts
    subclasses: Sequence[str] = ()  # names of the true subclasses, by number


@dataclass(frozen=True, slots=True)
class Subject:
    """What is audited."""

    id: str
    kind: Literal["language", "images"]
    model: str
    task: str
    description: str
    features: str
    labels: Sequence[str]
    rests_on: Mapping[str, str]
    warnings: Sequence[str] = ()


def make_audit(
    subject: Subject,
    splits: Splits,
    model: StrataModel,
    assigned: Mapping[str, Whole],
    placed: Floats,
    looks: Looks,
) -> record.Audit:
    """The audit of a classifier under a fitted model.

    `assigned` are the strata of the examples of each split, `placed` is where the held-out ones lie
    in the space that was clustered: the model may know them by other features than the
    classifier's.
    """
    strata = [
        _stratum(number, subject, splits, assigned, model, placed, looks)
        for number in range(model.count)
    ]
    strata.sort(key=lambda one: (one.test.mean if one.test else 2.0, one.number))
    enough = [one.number for one in strata if one.test and one.test.items >= LEAST_ITEMS]
    return record.Audit(
        id=subject.id,
        kind=subject.kind,
        model=subject.model,
        task=subject.task,
        description=subject.description,
        features=subject.features,
        labels=list(subject.labels),
        sizes=record.Sizes(
            train=len(splits.train), validation=len(splits.validation), test=len(splits.test)
        ),
        overall=required_rate(splits.test.correct()),
        worst=enough[0] if enough else None,
        strata=strata,
        searches=[_search(one, subject.labels) for one in model.decisions],
        picture=picture(splits.test, assigned["test"]),
        known=_known(splits, looks),
        settings=model.settings.model_dump(mode="json"),
        rests_on=dict(subject.rests_on),
        warnings=[*subject.warnings, *_doubts(model, assigned["test"])],
        created=utc_now(),
    )


def rate(right: NDArray[np.bool_]) -> record.Rate | None:
    """The share of right answers with its interval; None of none."""
    return required_rate(right) if len(right) else None


def required_rate(right: NDArray[np.bool_]) -> record.Rate:
    """The same of one at least. Raises ValueError of none."""
    mean, low, high = mean_interval(right.astype(float).tolist())
    return record.Rate(mean=mean, low=low, high=high, items=len(right))


def _stratum(
    number: int,
    subject: Subject,
    splits: Splits,
    assigned: Mapping[str, Whole],
    model: StrataModel,
    placed: Floats,
    looks: Looks,
) -> record.Stratum:
    superclass = int(model.superclass_of[number])
    label = subject.labels[superclass]
    test, here = splits.test, assigned["test"] == number
    beside = (test.superclasses == superclass) & ~here
    right = test.correct()
    counts = {name: int((each == number).sum()) for name, each in assigned.items()}
    return record.Stratum(
        number=number,
        name=f"{label}/{number - model.offsets[superclass] + 1}",
        label=label,
        sizes=record.Sizes(**counts),
        train=rate(splits.train.correct()[assigned["train"] == number]),
        test=rate(right[here]),
        rest=rate(right[beside]),
        loss=float(test.losses[here].mean()) if here.any() else None,
        words=_words(number, superclass, splits, assigned, looks),
        examples=_nearest(np.flatnonzero(here), subject, test, placed, looks),
        mean_image=_mean_image(test, here, looks),
        overlaps=_overlaps(number, splits.train, assigned["train"], superclass, looks),
    )


def _words(
    number: int, superclass: int, splits: Splits, assigned: Mapping[str, Whole], looks: Looks
) -> list[record.TellingWord]:
    """Of all splits together: a small stratum has few held-out examples."""
    if not looks.texts:
        return []
    here: list[str] = []
    there: list[str] = []
    for name, its in assigned.items():
        features: Features = getattr(splits, name)
        for place in features.of(superclass):
            (here if its[place] == number else there).append(looks.texts[features.ids[place]])
    return [
        record.TellingWord(word=one.word, z=round(one.z, 2), here=one.here, rest=one.there)
        for one in telling_words(here, there)
    ]


def _nearest(
    places: Whole, subject: Subject, test: Features, placed: Floats, looks: Looks
) -> list[record.Shown]:
    """The examples nearest to the middle of the stratum, in the space that was clustered."""
    if not len(places):
        return []
    points = placed[places]
    middle = np.median(points, axis=0)
    order = np.argsort(np.linalg.norm(points - middle, axis=1), kind="stable")[:EXAMPLES]
    return [_shown(int(places[each]), subject, test, looks) for each in order]


def _shown(place: int, subject: Subject, test: Features, looks: Looks) -> record.Shown:
    key = test.ids[place]
    pixels = looks.pixels.get(key)
    known = test.subclasses is not None and looks.subclasses
    return record.Shown(
        text=looks.texts.get(key),
        pixels=None if pixels is None else _grey(pixels),
        label=subject.labels[int(test.superclasses[place])],
        answer=subject.labels[int(test.logits[place].argmax())],
        right=bool(test.correct()[place]),
        loss=float(test.losses[place]),
        subclass=looks.subclasses[int(test.subclasses[place])]  # type: ignore[index]
        if known
        else None,
    )


def _mean_image(test: Features, here: NDArray[np.bool_], looks: Looks) -> list[list[float]] | None:
    found = [looks.pixels[test.ids[n]] for n in np.flatnonzero(here) if test.ids[n] in looks.pixels]
    return _grey(np.mean(found, axis=0)) if found else None


def _grey(pixels: NDArray[np.floating[Any]]) -> list[list[float]]:
    return [[round(float(each), 2) for each in row] for row in pixels.clip(0, 1)]


def _overlaps(
    number: int, train: Features, assigned: Whole, superclass: int, looks: Looks
) -> list[record.Overlap]:
    if train.subclasses is None or not looks.subclasses:
        return []
    here = assigned == number
    of_class = train.superclasses == superclass
    found = []
    for subclass in np.unique(train.subclasses[of_class]):
        its = train.subclasses == subclass
        both = int((here & its).sum())
        if both:
            found.append(
                record.Overlap(
                    subclass=looks.subclasses[int(subclass)],
                    precision=both / int(here.sum()),
                    recall=both / int(its.sum()),
                    prevalence=int(its.sum()) / int(of_class.sum()),
                )
            )
    return sorted(found, key=lambda one: (-one.recall * one.precision, one.subclass))


def _known(splits: Splits, looks: Looks) -> list[record.KnownGroup]:
    train, test = splits.train.subclasses, splits.test.subclasses
    if train is None or test is None:
        return []
    right = splits.test.correct()
    return [
        record.KnownGroup(
            name=name, train=int((train == number).sum()), test=rate(right[test == number])
        )
        for number, name in enumerate(looks.subclasses)
    ]


def _search(one: Decision, labels: Sequence[str]) -> record.Search:
    return record.Search(
        label=labels[one.superclass],
        strata=len(one.train_counts),
        scores={str(score.k): score.score for score in one.scores},
        floor=one.floor,
        whole_because=one.whole_because,
        parts=[
            record.Part(number=part.part, kept=part.is_kept, reasons=list(part.reasons))
            for part in one.parts
        ],
    )


def _doubts(model: StrataModel, assigned: Whole) -> list[str]:
    counts = np.bincount(assigned, minlength=model.count)
    empty = [number for number in range(model.count) if counts[number] == 0]
    few = [n for n in range(model.count) if 0 < counts[n] < LEAST_ITEMS]
    told = []
    if empty:
        told.append(f"{len(empty)} strata have no held-out example and so no score")
    if few:
        told.append(
            f"{len(few)} strata have fewer than {LEAST_ITEMS} held-out examples; their intervals "
            "are wide, and none of them is called the worst"
        )
    return told
