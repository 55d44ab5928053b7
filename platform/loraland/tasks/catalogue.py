"""The tasks by name: the 31 of the report and the generated ones, read from definitions/*.yaml.

Checks every entry when first asked and shows all mistakes together. Loads no rows.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from loraland.errors import InvalidConfiguration, UnknownTask, did_you_mean
from loraland.tasks.converters import CONVERTERS
from loraland.tasks.generated import GENERATORS
from loraland.tasks.grading import LENIENT, METRICS, SECONDARY
from loraland.tasks.task import Evaluation, HubSource, Task

FILES = (  # order of listing
    *("classic_nlp", "coding", "knowledge", "reasoning", "math"),
    *("generated", "planted"),
)
PLANTED = "Planted"  # the category of tasks with a planted weakness
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Hub(_Entry):
    path: str
    train: str | None
    test: str | None
    configurations: list[str] = []
    revision: str | None = None
    convert: str | None = None

    @model_validator(mode="after")
    def _check(self) -> _Hub:
        if self.convert is not None and self.convert not in CONVERTERS:
            raise ValueError(
                f"no converter '{self.convert}'; {did_you_mean(self.convert, CONVERTERS)}"
            )
        return self

    def build(self) -> HubSource:
        return HubSource(**self.model_dump() | {"configurations": tuple(self.configurations)})


class _Question(_Entry):
    """What a task and its evaluation have in common."""

    prompt: str
    inputs: list[str] = Field(min_length=1)
    target: str
    hidden: list[str] = []
    hub: _Hub | None = None

    @model_validator(mode="after")
    def _check_prompt(self) -> _Question:
        used = set(_PLACEHOLDER.findall(self.prompt))
        mistakes = [
            f"prompt does not mention input column '{n}'" for n in self.inputs if n not in used
        ]
        mistakes += [
            f"prompt mentions '{n}', which is no input" for n in sorted(used - set(self.inputs))
        ]
        if self.prompt != self.prompt.rstrip():
            mistakes.append(
                "prompt ends in white space; end it with the answer cue, e.g. 'Answer:'"
            )
        if self.target in self.inputs:
            mistakes.append(f"target '{self.target}' is also an input")
        if shown := set(self.hidden) & {*self.inputs, self.target}:
            mistakes.append(f"hidden columns {sorted(shown)} are input or target too")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def build_evaluation(self) -> Evaluation:
        hub = self.hub.build() if self.hub else None
        return Evaluation(self.prompt, tuple(self.inputs), self.target, tuple(self.hidden), hub)


class _Splits(_Entry):
    train: int | None
    validation: int | None
    test: int | None


class _Task(_Question):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    category: str
    description: str
    metric: str
    secondary: list[str] = []
    lenient: str | None = None
    labels: list[str] = []
    stop: list[str] = ["\n"]
    max_new_tokens: int = Field(64, gt=0)
    origin: str = ""
    generator: str | None = None
    splits: _Splits | None = None
    evaluation_split: str = "test"
    evaluation: _Question | None = None

    @model_validator(mode="after")
    def _check_task(self) -> _Task:
        mistakes = []
        if self.metric not in METRICS:
            mistakes.append(f"no metric '{self.metric}'; {did_you_mean(self.metric, METRICS)}")
        mistakes += [
            f"no secondary score '{name}'; {did_you_mean(name, SECONDARY)}"
            for name in self.secondary
            if name not in SECONDARY
        ]
        if self.lenient is not None and self.lenient not in LENIENT:
            mistakes.append(
                f"no lenient rule '{self.lenient}'; {did_you_mean(self.lenient, LENIENT)}"
            )
        if self.metric == "accuracy" and not self.labels:
            mistakes.append("metric 'accuracy' needs labels")
        if len({label.casefold() for label in self.labels}) < len(self.labels):
            mistakes.append("two labels differ in case only")
        if not all(self.stop) or any(end in label for end in self.stop for label in self.labels):
            mistakes.append("a stop string is empty or part of a label")
        if self.generator is not None and self.generator not in GENERATORS:
            mistakes.append(
                f"no generator '{self.generator}'; {did_you_mean(self.generator, GENERATORS)}"
            )
        if not (self.hub or self.origin or self.generator):
            mistakes.append(
                "no source: give hub, generator, or origin (where the data is to be had)"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self

    def build(self) -> Task:
        lists = {"inputs", "secondary", "hidden", "labels", "stop"}
        plain = self.model_dump(exclude={"hub", "evaluation", *lists})
        return Task(
            **plain,
            inputs=tuple(self.inputs),
            secondary=tuple(self.secondary),
            hidden=tuple(self.hidden),
            labels=tuple(self.labels),
            stop=tuple(self.stop),
            hub=self.hub.build() if self.hub else None,
            evaluation=self.evaluation.build_evaluation() if self.evaluation else None,
        )


def parse_tasks(texts: dict[str, str]) -> dict[str, Task]:
    """Tasks by name from YAML texts, each a list of entries.

    The keys of `texts` name them in messages.     Raises InvalidConfiguration with every mistake of
    every text.
    """
    tasks: dict[str, Task] = {}
    mistakes: list[str] = []
    for file, text in texts.items():
        for number, fields in enumerate(_entries(file, text, mistakes)):
            name = (
                fields.get("name", f"entry {number + 1}")
                if isinstance(fields, dict)
                else number + 1
            )
            try:
                task = _Task.model_validate(fields).build()
            except ValidationError as error:
                mistakes += [f"{file}: {name}: {line}" for line in _lines(error)]
                continue
            if task.name in tasks:
                mistakes.append(f"{file}: {task.name}: there is a task of that name already")
            tasks[task.name] = task
    if mistakes:
        raise InvalidConfiguration("the catalogue of tasks is wrong:\n" + "\n".join(mistakes))
    return tasks


def _entries(file: str, text: str, mistakes: list[str]) -> list[Any]:
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mistakes.append(f"{file}: not YAML: {' '.join(str(error).split())}")
        return []
    if not isinstance(entries, list):
        mistakes.append(f"{file}: must be a list of tasks")
        return []
    return entries


def _lines(error: ValidationError) -> list[str]:
    return [
        ".".join(str(part) for part in found["loc"]) + (": " if found["loc"] else "") + found["msg"]
        for found in error.errors()
    ]


@cache
def _catalogue() -> dict[str, Task]:
    folder = resources.files("loraland.tasks.definitions")
    names = [f"{name}.yaml" for name in FILES]
    return parse_tasks({name: folder.joinpath(name).read_text(encoding="utf-8") for name in names})


def get_task(name: str) -> Task:
    """The task of that name. Raises UnknownTask, naming the nearest."""
    try:
        return _catalogue()[name]
    except KeyError:
        raise UnknownTask(
            f"no task is called '{name}'; {did_you_mean(name, _catalogue())} "
            "`loraland tasks list` shows all of them"
        ) from None


def all_tasks() -> list[Task]:
    """Every task: the report's by category, the generated ones, the planted ones."""
    return list(_catalogue().values())


def report_tasks() -> list[Task]:
    """The 31 tasks of the LoRA Land report."""
    return [task for task in all_tasks() if task.generator is None]


def generated_tasks() -> list[Task]:
    """The tasks that ship with the project and need no download."""
    made = [task for task in all_tasks() if task.generator is not None]
    return [task for task in made if task.category != PLANTED]


def planted_tasks() -> list[Task]:
    """The tasks with a weakness planted into their train rows, for `loraland strata`."""
    return [task for task in all_tasks() if task.category == PLANTED]
