"""Brings the features of one superclass down to a few numbers, and places unseen examples beside.

Fitted on training examples: subtract the mean, scale to length 1, take out the component along the
decision boundary's normal, PCA, UMAP, each where the settings ask for it. Everything fitted is an
array, so that a stored reduction needs no pickle and, once fitted, no umap-learn.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from loraland.errors import DataRefused
from loraland.strata.features import Features, Floats
from loraland.strata.settings import StrataSettings
from loraland.strata.umap_map import fit_map, place_on_map

LEAST_LENGTH = 1e-6  # of a vector that is scaled to length 1, as in the public code


@dataclass(frozen=True, slots=True)
class Reducer:
    """The steps for one superclass, in the order of the fields; None: left out."""

    superclass: int
    neighbours: int  # of an example on the map
    is_normalised: bool
    is_margin: bool = False  # the margin of the logits alone, in place of the features
    mean: Floats | None = None  # (d,)
    direction: Floats | None = None  # (d,): unit normal of the decision boundary
    pca_mean: Floats | None = None  # (d,)
    pca_axes: Floats | None = None  # (c, d)
    map_values: Floats | None = None  # (m, c): what UMAP was fitted on
    map_places: Floats | None = None  # (m, components): where it put that

    @classmethod
    def fit(cls, train: Features, superclass: int, settings: StrataSettings) -> Reducer:
        """Learn from one superclass's training examples.

        UMAP needs more than 2 + `neighbours` examples; for fewer, PCA stands in. PCA gives at most
        as many components as there are features or examples. Raises DataRefused.
        """
        places = train.of(superclass)
        empty = cls(superclass, settings.neighbours, settings.is_normalised)
        if settings.subtract_mean:
            empty = replace(empty, mean=train.values.mean(0, dtype=np.float64).astype(np.float32))
        kind, components = str(settings.reduction), settings.components
        if kind == "hardness":
            empty = _along_the_normal(empty, train, components)
            kind, components = settings.rest if components > 1 else "none", components - 1
        if kind == "none":
            return empty
        return _with_map(empty, empty.rest(train.values[places]), kind, components, settings)

    def place(self, values: Floats, logits: Floats) -> Floats:
        """Where examples of this superclass lie: (n, d) and (n, B) to (n, components)."""
        if self.is_margin:
            return _margins(logits, self.superclass)
        rest = self.rest(values)
        if self.direction is None:
            return self._mapped(rest)
        along = (self._scaled(values) @ self.direction)[:, None]
        if self.pca_axes is None and self.map_values is None:
            return along
        return np.concatenate([along, self._mapped(rest)], axis=1)

    def rest(self, values: Floats) -> Floats:
        """Scaled features without their component along the normal: (n, d)."""
        scaled = self._scaled(values)
        if self.direction is None:
            return scaled
        return np.asarray(scaled - np.outer(scaled @ self.direction, self.direction), np.float32)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The fitted arrays by name; with `facts` all there is to store."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}

    def facts(self) -> dict[str, int | bool]:
        """What is no array, as JSON values."""
        names = ("superclass", "neighbours", "is_normalised", "is_margin")
        return {name: getattr(self, name) for name in names}

    def _scaled(self, values: Floats) -> Floats:
        scaled = values if self.mean is None else values - self.mean
        if self.is_normalised:
            lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
            scaled = scaled / np.maximum(lengths, LEAST_LENGTH)
        return np.asarray(scaled, np.float32)

    def _mapped(self, values: Floats) -> Floats:
        if self.pca_axes is not None and self.pca_mean is not None:
            values = np.asarray((values - self.pca_mean) @ self.pca_axes.T, np.float32)
        if self.map_values is None or self.map_places is None:
            return values
        return place_on_map(values, self.map_values, self.map_places, self.neighbours)


def _along_the_normal(reducer: Reducer, train: Features, components: int) -> Reducer:
    """With the direction that separates this superclass from the others.

    The row of the head less the mean of the other rows: for two classes the normal of the decision
    boundary, up to sign.
    """
    if train.head is None:
        if components > 1:
            raise DataRefused(
                f"hardness with {components} components needs the rows of the last layer "
                "(Features.head), which are absent; ask for 1 component, which the logits tell"
            )
        return replace(reducer, is_margin=True)
    others = np.delete(train.head, reducer.superclass, axis=0).mean(0)
    normal = train.head[reducer.superclass] - others
    length = float(np.linalg.norm(normal))
    if length < LEAST_LENGTH:
        raise DataRefused(
            f"the last layer does not tell superclass {reducer.superclass} from the others, so "
            "there is no hardness direction; use another reduction"
        )
    return replace(reducer, direction=np.asarray(normal / length, np.float32))


def _with_map(
    reducer: Reducer, values: Floats, kind: str, components: int, settings: StrataSettings
) -> Reducer:
    few = len(values) <= settings.neighbours + 2
    axes = components if kind == "pca" or few else settings.pca_first
    if axes is not None and (kind == "pca" or few or axes < values.shape[1]):
        pca = PCA(min(axes, *values.shape), svd_solver="full").fit(values.astype(np.float64))
        reducer = replace(
            reducer,
            pca_mean=pca.mean_.astype(np.float32),
            pca_axes=pca.components_.astype(np.float32),
        )
        values = reducer._mapped(values)
    if kind == "pca" or few:
        return reducer
    drawn, placed = fit_map(
        values, components, settings.neighbours, settings.umap_points, settings.seed
    )
    return replace(reducer, map_values=drawn, map_places=placed)


def _margins(logits: Floats, superclass: int) -> Floats:
    others = np.delete(logits, superclass, axis=1).mean(1)
    return np.asarray((logits[:, superclass] - others)[:, None], np.float32)
