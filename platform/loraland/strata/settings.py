"""How strata are looked for: every choice with its default, and the paper's own choices by name.

Sohoni et al. 2020 (arXiv 2011.12945), with the rules of their public code. Pure.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from loraland.errors import InvalidConfiguration, did_you_mean

Reduction = Literal["none", "pca", "umap", "hardness"]


class StrataSettings(BaseModel):
    """Reduction, clustering and the rules of one fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Reduction, fitted for each superclass on its training examples.
    subtract_mean: bool = False  # the training mean, before normalising
    normalise: bool | None = None  # to L2 length 1; None: all but hardness, as published
    reduction: Reduction = "umap"
    components: int = Field(default=2, ge=1, le=256)
    pca_first: int | None = Field(default=None, ge=2)  # components of a PCA before UMAP
    rest: Literal["pca", "umap"] = "umap"  # of hardness with components > 1: what reduces the rest
    neighbours: int = Field(default=10, ge=2)  # of UMAP
    umap_points: int = Field(
        default=20_000, ge=100
    )  # most that UMAP is fitted on; others are placed after

    # Clustering.
    clusterer: Literal["gmm", "kmeans"] = "gmm"
    max_k: int = Field(default=10, ge=2, le=100)
    search_k: bool = True  # False: max_k clusters, no scores
    starts: int = Field(default=3, ge=1)  # of each clustering; the best is kept
    leave_whole: tuple[int, ...] = ()  # superclasses that are not clustered
    floor: float | Literal["uniform"] = "uniform"
    # ^ Least score of a split superclass. "uniform": what the same search finds in points spread
    #   evenly with the covariance of its own, where there is nothing to find. 0: always split.
    silhouette_points: int = Field(
        default=5_000, ge=100
    )  # most of a superclass; silhouettes take n^2

    # Over-clustering.
    overcluster: bool = True
    factor: int = Field(default=5, ge=2, le=20)
    least_share: float = Field(default=0.005, ge=0, lt=1)  # of a superclass's training examples
    least_count: int = Field(default=25, ge=1)  # training examples, and validation examples

    seed: int = Field(default=0, ge=0)

    @property
    def is_normalised(self) -> bool:
        """Whether features are scaled to length 1."""
        return self.reduction != "hardness" if self.normalise is None else self.normalise


PRESETS: dict[str, StrataSettings] = {
    "default": StrataSettings(),
    "u-mnist": StrataSettings(floor=0.0),
    "waterbirds": StrataSettings(reduction="hardness", components=1, overcluster=False, floor=0.0),
    "celeba": StrataSettings(reduction="none", clusterer="kmeans", floor=0.0),
    "celeba-hardness": StrataSettings(
        reduction="hardness", components=1, overcluster=False, floor=0.0
    ),
    "isic": StrataSettings(leave_whole=(1,), floor=0.0),
}


def preset(name: str, **changes: object) -> StrataSettings:
    """Settings by name, with changes. Raises InvalidConfiguration."""
    if name not in PRESETS:
        raise InvalidConfiguration(f"no strata settings '{name}'; {did_you_mean(name, PRESETS)}")
    try:
        return StrataSettings.model_validate(PRESETS[name].model_dump() | changes)
    except ValueError as error:
        raise InvalidConfiguration(f"strata settings '{name}' with changes: {error}") from None
