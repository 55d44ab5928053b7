"""What an application serves, and its limits: every default with its unit and its reason.

Read from Python, from `serve run` arguments or from YAML. Loads no weights and starts nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from loraland.adapters.names import is_part
from loraland.bases.catalogue import Precision
from loraland.serving.access.policy import AccessMode
from loraland.serving.sources import Sources


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseSettings(_Settings):
    """One base and the replicas that serve it with its adapters."""

    name: str = "smollm2-135m"  # in the catalogue, or the name to give to `folder`
    folder: Path | None = None  # a local model folder in place of the catalogue's weights
    precision: Precision = "nf4"  # as adapters were trained, so that they meet the same base
    int8: bool = False  # the base's products on a CPU in int8: faster, and answers change a little
    replicas: int = Field(default=1, ge=1)  # each holds a base of its own
    max_replicas: int | None = Field(default=None, ge=1)  # Serve adds up to so many; None: none
    busy_requests: float | None = Field(default=None, gt=0)  # per replica; None: max_batch
    idle_seconds: float = Field(default=600, ge=0)  # of less work, until one that was added goes
    drain_seconds: float = Field(default=120, ge=0)  # for answers under way when a replica leaves
    stream_ms: float = Field(default=0, ge=0)  # pieces of a stream sent together; 0: as they come
    engine: Literal["batched", "reference"] = "batched"  # reference: plain and slow, the oracle
    max_adapters: int = Field(default=256, ge=1)  # known to a replica; then the oldest is unloaded
    slots: int = Field(default=32, ge=1)  # adapters on the device at once; a miss is loaded first
    host_bytes: int = Field(default=2 << 30, ge=0)  # of adapters kept in host memory
    eviction: Literal["lru", "gdsf"] = "lru"  # who leaves a slot; gdsf minds what a load costs
    max_rank: int = Field(default=64, ge=1)  # of an adapter; memory and time grow with it
    max_batch: int = Field(default=32, ge=1)  # requests in one forward pass
    pass_tokens: int = Field(
        default=512, ge=2
    )  # in one forward pass; others wait for a long prompt
    kv_tokens: int = Field(default=32_768, ge=1)  # of all running requests and of kept prefixes
    cuda_graphs: bool = True  # on a GPU: generating rows by replay; off saves some memory
    max_waiting: int = Field(default=256, ge=0)  # requests queued per replica, then 429
    num_cpus: float = Field(default=1, ge=0)  # per replica; also the threads of the model on a CPU
    num_gpus: float = Field(default=0, ge=0)  # per replica
    accelerator: str | None = None  # Ray's name of their type of GPU, such as A100; None: any

    @model_validator(mode="after")
    def _accelerator_is_a_gpu(self) -> Self:
        if self.accelerator is not None and self.num_gpus == 0:
            raise ValueError(
                f"accelerator is {self.accelerator} and num_gpus 0: a replica that takes no GPU "
                "needs none of a type; set num_gpus=1, or leave accelerator out"
            )
        return self

    @model_validator(mode="after")
    def _grows_upwards(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas is {self.max_replicas} and replicas {self.replicas}, the least; "
                "raise max_replicas, or leave it out for a fixed number"
            )
        return self

    @model_validator(mode="after")
    def _prompts_go_on(self) -> Self:
        if self.pass_tokens <= self.max_batch:
            raise ValueError(
                f"pass_tokens is {self.pass_tokens} and max_batch {self.max_batch}: requests that "
                "generate would use up every pass; raise pass_tokens above max_batch"
            )
        return self

    @field_validator("name")
    @classmethod
    def _legal(cls, name: str) -> str:
        if not is_part(name):
            raise ValueError(f"'{name}' cannot be a base's name; use a-z, 0-9, '.', '_' and '-'")
        return name


class Limits(_Settings):
    """What one HTTP request may ask for."""

    body_bytes: int = Field(default=4 << 20, ge=1)  # far more than any context of the catalogue
    header_bytes: int = Field(default=16 << 10, ge=1)  # address and headers; real ones are far less
    prompt_characters: int = Field(default=1_000_000, ge=1)  # of all prompts of one request
    prompts: int = Field(default=32, ge=1)  # in one completions request
    choices: int = Field(default=8, ge=1)  # `n`, for each prompt
    new_tokens: int = Field(default=2048, ge=1)  # per choice; also a chat answer without max_tokens
    requests: int = Field(default=900, ge=1)  # under way in one gateway, then 429
    body_seconds: float = Field(default=30, gt=0)  # until a request has come whole, then 408
    first_token_seconds: float = Field(default=120, gt=0)  # with queue and adapter; then 504
    request_seconds: float = Field(default=600, gt=0)  # from its first byte to its last token


class ApplicationSettings(_Settings):
    """What all bases of an application share."""

    storage: str | None = None  # where the registry is; None: LORALAND_STORAGE, or ~/.loraland
    limits: Limits = Limits()
    access: AccessMode = "auto"  # API keys: required unless HTTP listens on loopback alone
    cache_seconds: float = Field(default=1.0, ge=0)  # until a moved alias or a new adapter is seen
    gateways: int = Field(default=1, ge=1)  # replicas of the HTTP side
    # Where adapters may be brought in from at run time: folders, s3://BUCKET/PREFIX, gs://..., and
    # hf://OWNER or hf://OWNER/NAME. None by default.
    sources: tuple[str, ...] = ()

    @field_validator("sources")
    @classmethod
    def _readable_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        Sources(sources)
        return sources


class ServingConfig(ApplicationSettings):
    """A whole application."""

    bases: Annotated[tuple[BaseSettings, ...], Field(min_length=1)] = (BaseSettings(),)

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
