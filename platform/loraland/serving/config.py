"""What an application serves, and its limits: every default with its unit and its reason.

Read from Python, from `serve run` arguments or from YAML. Loads no weights and starts nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loraland.adapters.names import is_part
from loraland.bases.catalogue import Precision


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseSettings(_Settings):
    """One base and the replicas that serve it with its adapters."""

    name: str = "smollm2-135m"  # in the catalogue, or the name to give to `folder`
    folder: Path | None = None  # a local model folder in place of the catalogue's weights
    precision: Precision = "nf4"  # as adapters were trained, so that they meet the same base
    replicas: int = Field(default=1, ge=1)  # each holds a base of its own
    max_adapters: int = Field(default=32, ge=1)  # in memory per replica; then the oldest goes
    max_rank: int = Field(default=64, ge=1)  # of an adapter; memory and time grow with it
    max_batch: int = Field(default=16, ge=1)  # requests in one forward pass
    max_waiting: int = Field(default=256, ge=0)  # requests queued per replica, then 429
    num_cpus: float = Field(default=1, ge=0)  # per replica; also the threads of the model on a CPU
    num_gpus: float = Field(default=0, ge=0)  # per replica

    @field_validator("name")
    @classmethod
    def _legal(cls, name: str) -> str:
        if not is_part(name):
            raise ValueError(f"'{name}' cannot be a base's name; use a-z, 0-9, '.', '_' and '-'")
        return name


class Limits(_Settings):
    """What one HTTP request may ask for."""

    body_bytes: int = Field(default=4 << 20, ge=1)  # far more than any context of the catalogue
    prompts: int = Field(default=32, ge=1)  # in one completions request
    choices: int = Field(default=8, ge=1)  # `n`, for each prompt
    new_tokens: int = Field(default=2048, ge=1)  # per choice; also a chat answer without max_tokens


class ServingConfig(_Settings):
    """A whole application."""

    bases: Annotated[tuple[BaseSettings, ...], Field(min_length=1)] = (BaseSettings(),)
    storage: str | None = None  # where the registry is; None: LORALAND_STORAGE, or ~/.loraland
    limits: Limits = Limits()
    cache_seconds: float = Field(default=1.0, ge=0)  # until a moved alias or a new adapter is seen
    gateways: int = Field(default=1, ge=1)  # replicas of the HTTP side

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [base.name for base in self.bases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"bases are listed twice: {', '.join(twice)}; raise `replicas` instead"
            )
        return self

    @model_validator(mode="after")
    def _largest_request_fits(self) -> Self:
        most = self.limits.prompts * self.limits.choices
        if small := [base.name for base in self.bases if base.max_waiting < most]:
            raise ValueError(
                f"one request may ask for {self.limits.prompts} x {self.limits.choices} answers "
                f"(limits.prompts x limits.choices), more than max_waiting of {', '.join(small)}: "
                "it would always be refused as busy. Raise max_waiting or lower the limits"
            )
        return self
