"""How an image classifier is trained, every choice with its default; the paper's by name. Pure."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from loraland.errors import InvalidConfiguration, did_you_mean


class ImageRecipe(BaseModel):
    """One training run, robust over groups or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=100, ge=1)
    batch: int = Field(default=128, ge=1)  # examples of an update
    micro_batch: int | None = Field(default=None, ge=1)  # of a pass; None: a pass per update
    optimizer: Literal["adam", "sgd"] = "adam"  # sgd with momentum 0.9
    learning_rate: float = Field(default=2e-3, gt=0)
    weight_decay: float = Field(default=1e-5, ge=0)
    drops: tuple[float, ...] = (0.5, 0.75)  # shares of the epochs after which the rate falls to 0.1
    shift: int = Field(default=0, ge=0)  # most pixels that a training picture is moved by
    flip: bool = False  # half of the training pictures are mirrored

    # Group DRO.
    eta: float = Field(default=0.01, gt=0)
    adjustment: float = Field(default=0.0, ge=0)  # C of C / sqrt(n_g)
    uniform_groups: bool = False  # draw groups alike; else examples

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.learning_rate * 0.1 ** sum(epoch >= share * self.epochs for share in self.drops)


RECIPES: dict[str, ImageRecipe] = {
    # As published; shifts and mirrors are those of the public code, digits mirrored too.
    "u-mnist": ImageRecipe(shift=4, flip=True),
    "waterbirds": ImageRecipe(
        epochs=300,
        optimizer="sgd",
        learning_rate=1e-5,
        weight_decay=1.0,
        drops=(),
        adjustment=2.0,
        uniform_groups=True,
    ),
    "celeba": ImageRecipe(
        epochs=50,
        optimizer="sgd",
        learning_rate=1e-5,
        weight_decay=0.1,
        drops=(),
        adjustment=3.0,
        uniform_groups=True,
    ),
    # A sample of some thousand digits within a minute.
    "u-mnist-small": ImageRecipe(epochs=30),
}


def image_recipe(name: str, **changes: object) -> ImageRecipe:
    """A recipe by name, with changes. Raises InvalidConfiguration."""
    if name not in RECIPES:
        raise InvalidConfiguration(f"no image recipe '{name}'; {did_you_mean(name, RECIPES)}")
    try:
        return ImageRecipe.model_validate(RECIPES[name].model_dump() | changes)
    except ValueError as error:
        raise InvalidConfiguration(f"image recipe '{name}' with changes: {error}") from None
