"""How a cell is trained, as data. Pure: reads YAML, imports no torch."""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from loraland.errors import InvalidConfiguration, UnknownRecipe, did_you_mean

ALL_LINEAR = "all-linear"  # every linear layer but the output head, as PEFT understands it


class GroupDro(BaseModel):
    """The worst group of examples counts most; `loraland strata train` writes this."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    groups: str = Field(min_length=1, max_length=400)  # file below the storage root, see groups.py
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")  # of that file: other groups are another run
    eta: float = Field(0.01, gt=0, le=10)  # step of the weights' exponentiated gradient, per update
    size_adjustment: float = Field(0.0, ge=0)  # C of C / sqrt(n_g), nats; favours small groups
    uniform_sampling: bool = True  # groups drawn equally often, with replacement


class Recipe(BaseModel):
    """One recipe; recipes.yaml says what each field is for, with its unit."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    rank: int = Field(ge=1, le=512)
    alpha: float = Field(gt=0)
    dropout: float = Field(ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...]
    precision: Literal["fp32", "bf16", "nf4"]
    optimizer: Literal["adam", "adamw"]
    learning_rate: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0)
    clip_norm: float = Field(gt=0)
    schedule: Literal["cosine", "linear", "constant"]
    warmup_share: float = Field(ge=0, lt=1)
    examples_seen: int | None = Field(gt=0)
    max_epochs: float | None = Field(gt=0)
    examples_per_update: int = Field(ge=1)
    micro_batch_examples: int = Field(ge=1)
    micro_batch_tokens: int = Field(ge=1)
    length_window: int = Field(ge=1)
    gradient_checkpointing: bool
    max_length: int = Field(ge=8)
    too_long: Literal["drop", "refuse"]
    overlap: Literal["drop", "refuse"]
    validation_examples: int = Field(ge=1)
    evaluate_every: int = Field(ge=1)
    patience: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)
    group_dro: GroupDro | None = None  # None: all examples count alike

    @model_validator(mode="after")
    def _has_an_end(self) -> Recipe:
        if self.examples_seen is None and self.max_epochs is None:
            raise ValueError("set examples_seen or max_epochs, or the run has no end")
        return self

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is absent is left out, so that keys of recipes without it are what they were."""
        fields: dict[str, Any] = handler(self)
        if fields.get("group_dro", ...) is None:
            fields.pop("group_dro")
        return fields

    def updates(self, train_examples: int) -> int:
        """The number of optimiser updates over that many training examples, at least 1.

        The last update of each epoch may be short.
        """
        limits = [
            self.examples_seen,
            None if self.max_epochs is None else round(self.max_epochs * train_examples),
        ]
        seen = min(limit for limit in limits if limit is not None)
        epochs, rest = divmod(seen, train_examples)
        per_epoch = -(-train_examples // self.examples_per_update)
        return max(1, epochs * per_epoch + -(-rest // self.examples_per_update))


@cache
def _shipped() -> dict[str, Recipe]:
    text = resources.files(__package__).joinpath("recipes.yaml").read_text(encoding="utf-8")
    return {
        name: _parse(name, fields, "recipes.yaml") for name, fields in yaml.safe_load(text).items()
    }


def recipe_names() -> list[str]:
    """The names of the shipped recipes."""
    return list(_shipped())


def get_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe by name, or that of a YAML file by path, with some fields changed.

    Raises UnknownRecipe, InvalidConfiguration (with all mistakes of the file together).
    """
    if name in _shipped():
        recipe = _shipped()[name]
    elif name.endswith((".yaml", ".yml")) and Path(name).is_file():
        recipe = _read(Path(name))
    else:
        raise UnknownRecipe(
            f"no recipe is called '{name}'; {did_you_mean(name, _shipped())} "
            "A path to a YAML file with one recipe is possible too"
        )
    return (
        _parse(recipe.name, recipe.model_dump(exclude={"name"}) | changes, name)
        if changes
        else recipe
    )


def _read(path: Path) -> Recipe:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or len(content) != 1:
        raise InvalidConfiguration(f"{path} must hold one recipe, as `name:` with its fields below")
    [(name, fields)] = content.items()
    return _parse(str(name), fields, str(path))


def _parse(name: str, fields: Any, place: str) -> Recipe:
    try:
        return Recipe(name=name, **fields)
    except ValidationError as error:
        mistakes = [
            f"  {'.'.join(map(str, e['loc'])) or 'recipe'}: {e['msg']} (got {e['input']!r:.60})"
            for e in error.errors()
        ]
        raise InvalidConfiguration(f"recipe '{name}' in {place}:\n" + "\n".join(mistakes)) from None
