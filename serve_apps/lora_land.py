"""LoRA Land as a Serve application: bases, and every adapter that the registry has for them.

serve run serve_apps.lora_land:app
serve run serve_apps.lora_land:build_app name=smollm2-135m precision=fp32 num_cpus=2
serve run serve_apps/lora_land.yaml
"""

# No `from __future__ import annotations` here: Serve reads the type of build_app's argument.
from typing import Any, Self

from pydantic import Field, model_validator

from loraland.serving.app import build
from loraland.serving.config import ApplicationSettings, BaseSettings, ServingConfig


class Arguments(BaseSettings, ApplicationSettings):
    """What `serve run` takes as key=value or as `args` in YAML.

    Either the settings of one base, as they are, or a list of `bases`.
    """

    bases: tuple[BaseSettings, ...] = Field(default=())

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.bases and (both := self.model_fields_set & BaseSettings.model_fields.keys()):
            raise ValueError(
                f"{', '.join(sorted(both))} beside `bases`: put the settings of a base into the "
                "list, or leave `bases` out"
            )
        return self


def build_app(arguments: Arguments) -> Any:
    """An application of these bases; `loraland.serving.config` explains each setting."""
    of_base = arguments.model_dump(include=set(BaseSettings.model_fields))
    bases = arguments.bases or (BaseSettings(**of_base),)
    shared = arguments.model_dump(include=set(ApplicationSettings.model_fields))
    return build(ServingConfig(bases=bases, **shared))


app = build()
