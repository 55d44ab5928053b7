"""Every setting of the application of people and palates, with its unit and its reason."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class CellarLimits(BaseModel):
    """Of one replica."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    body_bytes: int = Field(default=65_536, ge=1_024)  # of a request
    body_seconds: float = Field(default=10, gt=0)  # that a client may take to send it, then 408
    request_seconds: float = Field(default=30, gt=0)  # for an answer, then 504
    requests: int = Field(default=64, ge=1)  # under way at once, then 429
    person_per_minute: int = Field(default=240, ge=1)  # requests of one person, then 429
    people_per_minute: int = Field(default=120, ge=1)  # new people of all clients, then 429


class CellarConfig(BaseModel):
    """The application."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "wine"  # a name of `loraland palate fit`; its newest version is served
    make_up: bool = True  # whether made-up reviews are fitted where that name has no model
    storage: str | None = None  # of models; None: LORALAND_STORAGE, or ~/.loraland
    # Of people and events: a path for SQLite, or postgresql+psycopg://USER@HOST/NAME (the password
    # by PGPASSWORD). None: LORALAND_DATABASE, else people/people.db in a storage that is a folder.
    database: str | None = None
    replicas: int = Field(default=1, ge=1)  # more than one need PostgreSQL
    num_cpus: float = Field(default=1, gt=0)  # per replica
    limits: CellarLimits = CellarLimits()
