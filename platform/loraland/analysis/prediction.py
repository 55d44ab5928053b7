"""How well a fine-tuned score can be told before training: ridge regression, one task left out.

Told a table with a row per cell. All rows of a task are left out together, in judging and in
choosing the penalty, since cells of one task share everything but their base. Knows no study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import ridge_regression
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

CONFIDENCE = 0.95
RESAMPLES = 9_999
PENALTIES = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)  # on standardised features
FOLDS = 5  # of whole tasks, within which the penalty is chosen
LEAST_TASKS = 8

Floats = NDArray[np.float64]
Fold = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows to learn from, rows held out


@dataclass(frozen=True, slots=True)
class Design:
    """Rows to learn from: a cell each."""

    names: tuple[str, ...]  # of the features
    features: Floats  # (cells, features)
    targets: Floats  # (cells, targets)
    tasks: tuple[str, ...]  # by cell
    bases: tuple[str, ...]  # by cell

    def __post_init__(self) -> None:
        """Raises ValueError when the parts do not fit together or hold what is no number."""
        rows = {len(self.features), len(self.targets), len(self.tasks), len(self.bases)}
        if len(rows) != 1 or self.features.shape[1:] != (len(self.names),):
            raise ValueError(f"the parts of a design have different sizes: {sorted(rows)} rows")
        if not (np.isfinite(self.features).all() and np.isfinite(self.targets).all()):
            raise ValueError("a design holds a value that is not finite")

    def rows(self, chosen: NDArray[np.bool_]) -> Design:
        """Only the chosen rows."""
        return replace(
            self,
            features=self.features[chosen],
            targets=self.targets[chosen],
            tasks=tuple(compress(self.tasks, chosen)),
            bases=tuple(compress(self.bases, chosen)),
        )


class Fit:
    """A ridge regression for all targets at once, with an offset per base that is not penalised.

    Features and targets are taken as differences from their base's mean over the tasks learned
    from, so that an infinite penalty leaves just that mean.
    """

    def __init__(self, design: Design) -> None:
        """Fit with the penalty that foretells left-out tasks best.

        Raises ValueError with fewer than eight tasks.
        """
        count = len(set(design.tasks))
        if count < LEAST_TASKS:
            raise ValueError(f"{count} tasks are too few to learn from; give {LEAST_TASKS} or more")
        bases = np.array(design.bases)
        self._means = {
            base: (design.features[bases == base].mean(0), design.targets[bases == base].mean(0))
            for base in sorted(set(design.bases))
        }
        self._scaler = StandardScaler().fit(design.features - self._mean(design.bases, 0))
        inputs = self._inputs(design.features, design.bases)
        outputs = design.targets - self._mean(design.bases, 1)
        folds = list(GroupKFold(FOLDS).split(inputs, groups=list(design.tasks)))
        self.penalty = _best_penalty(inputs, outputs, folds)
        self._slopes = _ridge(inputs, outputs, self.penalty)

    def predict(self, features: Floats, bases: Sequence[str]) -> Floats:
        """Targets of new rows, (rows, targets). Raises ValueError for a base it has not met."""
        unknown = sorted(set(bases) - set(self._means))
        if unknown:
            raise ValueError(f"bases {unknown} are none of {sorted(self._means)}")
        return self._mean(bases, 1) + self._inputs(features, bases) @ self._slopes

    def _inputs(self, features: Floats, bases: Sequence[str]) -> Floats:
        """Features as differences from their base's mean, in standard deviations."""
        found: Floats = self._scaler.transform(features - self._mean(bases, 0))
        return found

    def _mean(self, bases: Sequence[str], which: int) -> Floats:
        """The means of features (0) or targets (1) by row, (rows, columns)."""
        return np.array([self._means[base][which] for base in bases])


def _ridge(inputs: Floats, outputs: Floats, penalty: float | Floats) -> Floats:
    """Slopes (features, targets); no intercept, since both sides are centred.

    A penalty for all targets, or one for each.
    """
    found: Floats = np.atleast_2d(ridge_regression(inputs, outputs, penalty)).T
    return found


def _best_penalty(inputs: Floats, outputs: Floats, folds: Sequence[Fold]) -> float:
    """The penalty with the smallest squared errors on held-out folds, over all targets."""
    count = outputs.shape[1]
    # Every penalty is fitted in one call: the targets are repeated for each.
    repeated, penalties = np.tile(outputs, len(PENALTIES)), np.repeat(PENALTIES, count)
    squared = np.zeros(len(PENALTIES))
    for rest, held in folds:
        errors = repeated[held] - inputs[held] @ _ridge(inputs[rest], repeated[rest], penalties)
        squared += (errors**2).sum(axis=0).reshape(len(PENALTIES), count).sum(axis=1)
    return PENALTIES[int(squared.argmin())]


class LeftOut(NamedTuple):
    """Every row as foretold by models that have not seen its task, and those models."""

    predicted: Floats  # (cells, targets)
    means: Floats  # (cells, targets), the mean of the same base over the other tasks
    fits: dict[str, Fit]  # by the task that was left out


class Quality(NamedTuple):
    """How well one target was foretold, with 95 % intervals over tasks."""

    tasks: int
    cells: int
    rmse: float
    rmse_low: float
    rmse_high: float
    mean_rmse: float  # of the mean predictor
    r2: float  # 1 - squared errors / those of the mean predictor; 0: no better than the mean
    r2_low: float
    r2_high: float


def leave_one_task_out(design: Design) -> LeftOut:
    """Foretell each task from all others. Raises ValueError with fewer than nine tasks."""
    tasks, bases = np.array(design.tasks), np.array(design.bases)
    predicted, means = np.empty_like(design.targets), np.empty_like(design.targets)
    fits: dict[str, Fit] = {}
    for task in dict.fromkeys(design.tasks):
        out = tasks == task
        fit = fits[task] = Fit(design.rows(~out))
        predicted[out] = fit.predict(design.features[out], list(bases[out]))
        for row in np.flatnonzero(out):
            means[row] = design.targets[~out & (bases == bases[row])].mean(axis=0)
    return LeftOut(predicted, means, fits)


def judge(design: Design, left_out: LeftOut, target: int) -> Quality:
    """How far the predictions of one target lie from the truth; tasks are drawn, not cells."""
    truth = design.targets[:, target]
    errors = (truth - left_out.predicted[:, target]) ** 2
    of_means = (truth - left_out.means[:, target]) ** 2
    tasks = sorted(set(design.tasks))
    member = np.array([[own == task for own in design.tasks] for task in tasks], dtype=np.float64)
    sums = np.stack([member @ errors, member @ of_means, member.sum(axis=1)])  # (3, tasks)
    drawn = np.random.default_rng(0).integers(0, len(tasks), (RESAMPLES, len(tasks)))
    squared, mean_squared, cells = sums[:, drawn].sum(axis=2)  # (resamples,) each
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    rmse_low, rmse_high = np.quantile(np.sqrt(squared / cells), tails)
    r2_low, r2_high = np.quantile(1 - squared / mean_squared, tails)
    return Quality(
        tasks=len(tasks),
        cells=len(truth),
        rmse=float(np.sqrt(errors.mean())),
        rmse_low=float(rmse_low),
        rmse_high=float(rmse_high),
        mean_rmse=float(np.sqrt(of_means.mean())),
        r2=float(1 - errors.sum() / of_means.sum()),
        r2_low=float(r2_low),
        r2_high=float(r2_high),
    )


def interval(
    design: Design, left_out: LeftOut, features: Floats, base: str, target: int, level: float
) -> tuple[float, float]:
    """Where a target of a new task, `features` (1, features), on `base` lies at about `level`.

    Jackknife+ over tasks (Barber, Candes, Ramdas and Tibshirani 2021, Annals of Statistics 49,
    equation 1.4): if the new task is one like the others, it covers at least 2 * level - 1, and
    `level` in practice. Needs one row per task of the base.
    """
    rows = [row for row, own in enumerate(design.bases) if own == base]
    missed = np.abs(design.targets[rows, target] - left_out.predicted[rows, target])
    centres = np.array(
        [left_out.fits[design.tasks[row]].predict(features, [base])[0, target] for row in rows]
    )
    count = len(rows)
    outside = int(np.floor((1 - level) * (count + 1) + 1e-9))
    if outside < 1:
        return -np.inf, np.inf  # too few tasks for so sure an interval
    low = np.sort(centres - missed)[outside - 1]
    high = np.sort(centres + missed)[count - outside]
    return float(low), float(high)
