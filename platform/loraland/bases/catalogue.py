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


TINY = "tiny-"  # before a base's name: a random model of its architecture, for rehearsals
TINY_PARAMETERS = 150_000  # about, whatever the architecture; bases/tiny.py decides
TINY_CONTEXT_TOKENS = 2048


class Shape(BaseModel):
    """The sizes of a decoder, as its published configuration gives them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: int = Field(gt=0)
    hidden: int = Field(gt=0)
    intermediate: int = Field(gt=0)
    heads: int = Field(gt=0)
    kv_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    vocabulary: int = Field(gt=0)
    tied: bool = False  # the output head is the embedding


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
    tiny: bool = False  # random weights, written into the cache on first use
    shape: Shape | None = None  # None: not known without reading its configuration


@cache
def _catalogue() -> dict[str, Base]:
    text = resources.files(__package__).joinpath("catalogue.yaml").read_text(encoding="utf-8")
    return {name: Base(name=name, **fields) for name, fields in yaml.safe_load(text).items()}


def all_bases() -> list[Base]:
    """Every base of the catalogue, the embedded one first."""
    return list(_catalogue().values())


def get_base(name: str) -> Base:
    """The base of that name, or the random one of `tiny-` and that name. Raises UnknownBase."""
    if name in _catalogue():
        return _catalogue()[name]
    if name.removeprefix(TINY) in _catalogue():
        return _tiny(_catalogue()[name.removeprefix(TINY)])
    known = [TINY + other for other in _catalogue()] if name.startswith(TINY) else _catalogue()
    raise UnknownBase(
        f"no base is called '{name}'; {did_you_mean(name, known)} "
        "`loraland bases list` shows all of them"
    )


def _tiny(base: Base) -> Base:
    return Base(
        name=TINY + base.name,
        hub_id=TINY + base.name,
        architecture=base.architecture,
        parameters=TINY_PARAMETERS,
        context_tokens=TINY_CONTEXT_TOKENS,
        chat=base.chat,
        tiny=True,
    )
