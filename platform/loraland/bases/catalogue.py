"""The bases that can be trained and served.

Names, hub ids, sizes. Data only; loads no weights, imports no torch.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from loraland.errors import UnknownBase, did_you_mean

Precision = Literal["fp32", "bf16", "nf4"]


class Base(BaseModel):
    """One base model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # in our words, e.g. "mistral-7b"
    hub_id: str  # e.g. "mistralai/Mistral-7B-v0.1"; also the name that adapters record for PEFT
    architecture: str  # as transformers names it, e.g. "llama"
    parameters: int = Field(gt=0)
    context_tokens: int = Field(gt=0)
    chat: bool = False  # tuned for chat, with a template
    gated: bool = False  # the hub asks for consent before it gives the weights
    licence: str = ""
    embedded: bool = False  # the weights come with the installation
    folder: str | None = None  # a local folder in place of the hub


@cache
def _catalogue() -> dict[str, Base]:
    text = resources.files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: Base(name=name, **fields) for name, fields in yaml.safe_load(text).items()}


def all_bases() -> list[Base]:
    """Every base of the catalogue, the embedded one first."""
    return list(_catalogue().values())


def get_base(name: str) -> Base:
    """The base of that name. Raises UnknownBase."""
    try:
        return _catalogue()[name]
    except KeyError:
        raise UnknownBase(
            f"no base is called '{name}'; {did_you_mean(name, _catalogue())} "
            "`loraland bases list` shows all of them"
        ) from None
