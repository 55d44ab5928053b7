"""LoRA Land as a Serve application: a base, and every adapter that the registry has for it.

serve run serve_apps.lora_land:app
serve run serve_apps.lora_land:build_app name=smollm2-135m precision=fp32 num_cpus=2
"""

# No `from __future__ import annotations` here: Serve reads the type of build_app's argument.
from typing import Any

from loraland.serving.app import build
from loraland.serving.config import BaseSettings, ServingConfig


class Arguments(BaseSettings):
    """What `serve run` takes as key=value: the settings of one base, and where the registry is."""

    storage: str | None = None  # None: LORALAND_STORAGE, or ~/.loraland


def build_app(arguments: Arguments) -> Any:
    """An application with one base; `loraland.serving.config` explains each setting."""
    fields = arguments.model_dump(exclude={"storage"})
    return build(ServingConfig(bases=(BaseSettings(**fields),), storage=arguments.storage))


app = build()
