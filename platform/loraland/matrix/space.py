"""A space: the cells of a study as one YAML file, bases x tasks x one recipe, with exceptions.

Pure: reads text, knows catalogue names and recipes; knows nothing of what is done, of weights, data
or Ray. All mistakes of a file are told together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from loraland.bases.catalogue import get_base
from loraland.errors import InvalidConfiguration, LoraLandError, did_you_mean
from loraland.matrix.cell import Cell, Data
from loraland.tasks.catalogue import generated_tasks, get_task, report_tasks
from loraland.training.recipe import Recipe, get_recipe

FOLDER = "tune_spaces"  # of the shipped spaces, in the repository
ANY = "any"  # accelerator: of whatever type, where a space names one
GROUPS = {"report": report_tasks, "generated": generated_tasks}  # names for many tasks at once


class Demand(NamedTuple):
    """What one trial asks for; None: what the machine gives."""

    cpus: float | None = None
    gpus: float | None = None
    memory_gib: float | None = None
    accelerator: str | None = None  # Ray's name of a GPU type, such as A10G; None: any

    def over(self, other: Demand) -> Demand:
        """This demand, and where it leaves something open the other one.

        A trial that is to have no GPU needs none of a type either.
        """
        asked = {name: value for name, value in self._asdict().items() if value is not None}
        merged = other._replace(**asked)
        is_open = merged.gpus == 0 or merged.accelerator == ANY
        return merged._replace(accelerator=None) if is_open else merged


class Choice(BaseModel):
    """One of these values."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choice: list[Any] = Field(min_length=1)


class Range(BaseModel):
    """A number between two bounds, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    log: bool = False  # even on a logarithmic scale, as learning rates want it

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 on a logarithmic scale")
        return self


def _kind_of_values(value: Any) -> str:
    is_choice = isinstance(value, Choice) or (isinstance(value, dict) and "choice" in value)
    return "choice" if is_choice else "range"


Values = Annotated[
    Annotated[Choice, Tag("choice")] | Annotated[Range, Tag("range")],
    Discriminator(_kind_of_values),
]


class Search(BaseModel):
    """A search over fields of the recipe of one cell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parameters: dict[str, Values] = Field(min_length=1)  # field of the recipe -> values
    samples: int = Field(ge=1)  # configurations that are tried
    # asha: at each rung only the best go on (Li et al. 2020, arXiv 1810.05934)
    scheduler: Literal["asha", "none"] = "asha"
    algorithm: Literal["optuna", "random"] = "optuna"  # optuna: proposes from what was seen
    grace_evaluations: int = Field(1, ge=1)  # that each configuration gets before the first rung
    reduction_factor: float = Field(3.0, gt=1)  # one in so many goes on at a rung

    @field_validator("parameters")
    @classmethod
    def _are_fields(cls, parameters: dict[str, Values]) -> dict[str, Values]:
        mistakes: list[str] = []
        for name, values in parameters.items():
            tried = values.choice if isinstance(values, Choice) else [values.low, values.high]
            mistakes += dict.fromkeys(
                mistake for value in tried for mistake in _change_mistakes({name: value})
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return parameters


@dataclass(frozen=True, slots=True)
class Space:
    """The cells of a study, and how they are to be run."""

    name: str
    description: str
    cells: tuple[Cell, ...]  # all tasks of the first base, then those of the next
    demands: Mapping[str, Demand]  # what a trial of each base asks for, by the base's name
    retry_collapsed: bool  # whether a collapsed cell is trained once more, at a lower rate
    search: Search | None = None  # then there is one cell

    @property
    def bases(self) -> list[str]:
        """The bases in their order."""
        return list(dict.fromkeys(cell.base for cell in self.cells))


def load_space(name: str) -> Space:
    """A shipped space by name, or that of a YAML file by path.

    Raises InvalidConfiguration with all mistakes of the file together.
    """
    path = Path(name).expanduser()
    if not name.endswith((".yaml", ".yml")):
        shipped = _shipped()
        if name not in shipped:
            raise InvalidConfiguration(
                f"no space is called '{name}'; {did_you_mean(name, shipped)} "
                "A path to a YAML file is possible too"
            )
        path = shipped[name]
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidConfiguration(
            f"space {name} cannot be read: {error.strerror}; give the path of a YAML file, or one "
            f"of the names {', '.join(_shipped()) or '(none are shipped here)'}"
        ) from None
    return parse_space(text, str(path))


def space_names() -> list[str]:
    """The names of the shipped spaces."""
    return list(_shipped())


def parse_space(text: str, place: str) -> Space:
    """A space from YAML text; `place` names it in messages.

    Raises InvalidConfiguration with all mistakes together.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidConfiguration(f"{place} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise InvalidConfiguration(f"{place} must be a mapping with name, bases, tasks and recipe")
    try:
        return _File.model_validate(content).build()
    except ValidationError as error:
        mistakes = [line for fault in error.errors() for line in _lines(fault)]
    except _Mistakes as error:
        mistakes = list(error.args)
    raise InvalidConfiguration(f"the space in {place} is wrong:\n" + "\n".join(mistakes))


def _shipped() -> dict[str, Path]:
    """The files of the checkout that this code is in, or of the folder that a job was sent with."""
    folders = (Path(__file__).resolve().parents[3] / FOLDER, Path.cwd() / FOLDER)
    found = next((folder for folder in folders if folder.is_dir()), None)
    return {} if found is None else {file.stem: file for file in sorted(found.glob("*.yaml"))}


class _Mistakes(Exception):
    """What is wrong between the parts of a file, one line each."""


def _any_matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _names(names: list[str], require: Any) -> list[str]:
    """Raises ValueError with every name that is unknown or stands there twice."""
    mistakes = [f"'{name}' stands there {n} times" for name, n in Counter(names).items() if n > 1]
    for name in names:
        try:
            require(name)
        except LoraLandError as error:
            mistakes.append(error.message)
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return names


def _require_base(name: str) -> None:
    """A path is looked at when the cell runs: it may lie on another machine."""
    if not ("/" in name or name.startswith(".")):
        get_base(name)


def _require_task(name: str) -> None:
    get_task(name)


def _checked(changes: dict[str, Any]) -> dict[str, Any]:
    if mistakes := _change_mistakes(changes):
        raise ValueError("; ".join(mistakes))
    return changes


def _change_mistakes(changes: Mapping[str, Any]) -> list[str]:
    """What is wrong with each changed field of a recipe by itself."""
    known = [name for name in Recipe.model_fields if name != "name"]
    whole = get_recipe("report").model_dump() | {
        "max_epochs": 1.0
    }  # has two ends: each may be null
    mistakes = []
    for name, value in changes.items():
        if name not in known:
            mistakes.append(f"'{name}' is no field of a recipe; {did_you_mean(name, known)}")
            continue
        try:
            Recipe.model_validate(whole | {name: value})
        except ValidationError as error:
            reasons = {fault["msg"] for fault in error.errors()}
            mistakes.append(f"{name}: {', '.join(sorted(reasons))} (got {value!r:.60})")
    return mistakes


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Patterns = Annotated[list[str], BeforeValidator(_one_or_many)]  # names; * stands for any letters


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Where(_Part):
    base: Patterns = ["*"]
    task: Patterns = ["*"]

    def matches(self, base: str, task: str) -> bool:
        return _any_matches(base, self.base) and _any_matches(task, self.task)


class _Rule(_Part):
    """An exception: cells that differ in some fields."""

    where: _Where
    recipe: dict[str, Any] = {}
    seed: int | None = None
    max_examples: int | None = Field(None, ge=2)
    max_items: int | None = Field(None, ge=1)

    _recipe = field_validator("recipe")(_checked)


class _Resources(_Part):
    cpus: float | None = Field(None, gt=0)
    gpus: float | None = Field(None, ge=0)
    memory_gib: float | None = Field(None, gt=0)
    # As Ray names it in a machine's resource accelerator_type:A10G
    accelerator: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+$")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.accelerator is not None and self.gpus == 0:
            raise ValueError("an accelerator is a GPU; say gpus: 1, or leave accelerator out")
        return self


class _File(_Part):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=60)
    description: str = ""
    bases: list[str] = Field(min_length=1)
    tasks: Annotated[list[str], BeforeValidator(_one_or_many)] = Field(min_length=1)
    recipe: str
    changes: dict[str, Any] = {}
    rules: list[_Rule] = []
    seed: int = 0
    max_examples: int | None = Field(None, ge=2)
    max_items: int | None = Field(100, ge=1)
    data: Data = "real"
    resources: dict[str, _Resources] = {}
    retry_collapsed: bool = True
    search: Search | None = None

    _changes = field_validator("changes")(_checked)

    @field_validator("bases")
    @classmethod
    def _known_bases(cls, bases: list[str]) -> list[str]:
        return _names(bases, _require_base)

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: list[str]) -> list[str]:
        listed = [
            name
            for entry in tasks
            for name in ([task.name for task in GROUPS[entry]()] if entry in GROUPS else [entry])
        ]
        return _names(listed, _require_task)

    @field_validator("recipe")
    @classmethod
    def _known_recipe(cls, name: str) -> str:
        try:
            get_recipe(name)
        except LoraLandError as error:
            raise ValueError(error.message) from None
        return name

    def build(self) -> Space:
        """The space. Raises _Mistakes."""
        mistakes = [*self._rule_mistakes(), *self._resource_mistakes()]
        cells = [self._cell(base, task, mistakes) for base in self.bases for task in self.tasks]
        if self.search is not None and len(cells) != 1:
            mistakes.append(f"search: is for one cell, here are {len(cells)}; name one base, task")
        if mistakes:
            raise _Mistakes(*dict.fromkeys(mistakes))
        demands = {base: self._demand(base) for base in self.bases}
        return Space(
            self.name,
            self.description,
            tuple(cell for cell in cells if cell is not None),
            demands,
            self.retry_collapsed,
            self.search,
        )

    def _cell(self, base: str, task: str, mistakes: list[str]) -> Cell | None:
        """The cell after all rules, later ones first in rank; None when its recipe is wrong."""
        changes = dict(self.changes)
        fields = {
            name: getattr(self, name) for name in ("seed", "max_examples", "max_items", "data")
        }
        for rule in self.rules:
            if rule.where.matches(base, task):
                changes |= rule.recipe
                fields |= rule.model_dump(exclude_unset=True, exclude={"where", "recipe"})
        try:
            return Cell(base, task, get_recipe(self.recipe, **changes), **fields)
        except LoraLandError as error:
            mistakes.append(error.message)
            return None

    def _rule_mistakes(self) -> Iterable[str]:
        for number, rule in enumerate(self.rules, 1):
            for kind, patterns, known in (
                ("base", rule.where.base, self.bases),
                ("task", rule.where.task, self.tasks),
            ):
                for pattern in patterns:
                    if not any(fnmatchcase(name, pattern) for name in known):
                        yield (
                            f"rules.{number}.where.{kind}: '{pattern}' is no {kind} of this space; "
                            f"{did_you_mean(pattern, known)}"
                        )

    def _resource_mistakes(self) -> Iterable[str]:
        for pattern in self.resources:
            if not any(fnmatchcase(base, pattern) for base in self.bases):
                yield (
                    f"resources: '{pattern}' is no base of this space; "
                    f"{did_you_mean(pattern, self.bases)}"
                )

    def _demand(self, base: str) -> Demand:
        """Of the entries that match, later ones first in rank."""
        found: dict[str, Any] = {}
        for pattern, resources in self.resources.items():
            if fnmatchcase(base, pattern):
                found |= resources.model_dump(exclude_unset=True)
        return Demand(**found).over(Demand())


def _lines(fault: Any) -> Iterable[str]:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _fields_at(fault["loc"][:-1])
        yield f"  {place}: is no field here; {did_you_mean(str(fault['loc'][-1]), known)}"
        return
    message = fault["msg"].removeprefix("Value error, ")
    got = "" if fault["type"] in ("value_error", "missing") else f" (got {fault['input']!r:.60})"
    yield f"  {place}: {message}{got}"


def _fields_at(place: tuple[Any, ...]) -> list[str]:
    """The fields that are possible at a place of the file."""
    parts: dict[str, type[BaseModel]] = {
        "rules": _Rule, "where": _Where, "resources": _Resources, "search": Search,
        "choice": Choice, "range": Range,
    }  # fmt: skip
    found = [parts[part] for part in place if part in parts]
    return list((found[-1] if found else _File).model_fields)
