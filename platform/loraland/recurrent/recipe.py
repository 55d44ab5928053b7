"""A study of cells on one problem, from YAML: what is compared, how each is trained, which seeds.

A cell is done when its result lies in storage under a key of all that decides it. Knows no tensors
and no Ray.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from loraland.errors import InvalidConfiguration, did_you_mean
from loraland.recurrent.problems import AnyProblem
from loraland.storage import Storage

FORMAT = 1  # raise when the same recipe would train differently
FOLDER = "tune_spaces/recurrent"  # of the shipped studies, in the repository


# Of a study and of a cell: a part of a path.
Name = Annotated[str, Field(pattern=r"^[a-z0-9_]{1,60}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Cell(_Strict):
    """What is compared: a net."""

    net: Literal["rnn", "canonical_rnn", "lstm"] = "lstm"
    window: int = Field(default=1, ge=1, le=100)
    input_gate: bool = False
    projection: int | None = Field(default=None, ge=1)
    memory: int | None = Field(default=None, ge=2)  # steps that gates begin to remember over


class Training(_Strict):
    """How every net of a study is trained."""

    hidden: int = Field(default=32, ge=1, le=4096)
    rows: int = Field(default=64, ge=1)  # of a batch; every batch is drawn anew
    updates: int = Field(default=1000, ge=1)
    learning_rate: float = Field(default=5e-3, gt=0)  # Adam; falls to 0 as a cosine
    clip_norm: float = Field(default=1.0, gt=0)  # of all gradients together
    test_rows: int = Field(default=1000, ge=2)
    evaluate_every: int = Field(default=100, ge=1)
    lengthen: float = Field(default=0.0, ge=0, lt=1)  # share of updates in which lengths grow
    stop_below: float | None = Field(default=None, ge=0)  # error on fresh rows that is good enough


class Study(_Strict):
    """A study: cells times seeds."""

    name: Name
    description: str = ""
    problem: Annotated[AnyProblem, Field(discriminator="kind")]
    cells: dict[Name, Cell] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    training: Training = Training()
    solved_below: float = Field(gt=0)  # an error that counts as solved


@dataclass(frozen=True, slots=True)
class Trial:
    """One net with one seed."""

    study: Study
    cell: str
    seed: int

    @property
    def key(self) -> str:
        """12 hex digits over all that decides the result."""
        stamp = {
            "problem": self.study.problem.model_dump(),
            "cell": self.study.cells[self.cell].model_dump(),
            "training": self.study.training.model_dump(),
            "seed": self.seed,
            "format": FORMAT,
        }
        return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def place(self) -> str:
        """Of its result, below the storage root."""
        return f"recurrent/{self.study.name}/{self.cell}-{self.seed}-{self.key}.json"


def trials(study: Study) -> list[Trial]:
    """All trials, seed by seed."""
    return [Trial(study, cell, seed) for seed in study.seeds for cell in study.cells]


def left(study: Study, storage: Storage) -> list[Trial]:
    """Trials without a result."""
    return [one for one in trials(study) if not storage.exists(one.place)]


def results(study: Study, storage: Storage) -> dict[str, list[dict[str, Any]]]:
    """By cell, the results that are there, in the order of the seeds."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in study.cells}
    for one in trials(study):
        if storage.exists(one.place):
            found[one.cell].append(storage.read_json(one.place))
    return found


def study_names() -> list[str]:
    """The studies that ship with the project."""
    return sorted(_shipped())


def load_study(name: str) -> Study:
    """A study by name, or from a YAML file. Raises InvalidConfiguration with all its mistakes."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else _shipped().get(name)
    if path is None or not path.is_file():
        raise InvalidConfiguration(f"no study '{name}'; {did_you_mean(name, study_names())}")
    try:
        return Study.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise InvalidConfiguration(f"{path} is no YAML: {error}") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise InvalidConfiguration(f"{path} is wrong: " + "; ".join(faults)) from None


def _shipped() -> dict[str, Path]:
    """The files of the checkout that this code is in, or of the folder that a job was sent with."""
    folders = (Path(__file__).resolve().parents[3] / FOLDER, Path.cwd() / FOLDER)
    found = next((folder for folder in folders if folder.is_dir()), None)
    return {} if found is None else {file.stem: file for file in sorted(found.glob("*.yaml"))}
