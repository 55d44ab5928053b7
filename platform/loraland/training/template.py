"""What PEFT makes of a recipe on a base, asked once for all runs that differ by their seed alone.

PEFT looks at every module of a base to put an adapter in, which takes about as long as an update of
a short task. A template keeps the layers it chose and the configuration it wrote, draws initial
weights by the same calls in the same order, and writes the same files.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from loraland.adapters.folder import CONFIG, WEIGHTS
from loraland.bases.loading import LoadedBase
from loraland.errors import InvalidConfiguration
from loraland.training.adapter import add_adapter, remove_adapter, trainable, write_adapter
from loraland.training.checkpoint import Tensors
from loraland.training.recipe import Recipe


class _Layer(NamedTuple):
    """One layer that is adapted."""

    names: tuple[str, str]  # of A and B in PEFT's files
    inputs: int
    outputs: int
    dtype: torch.dtype  # that PEFT rounds initial weights to


@dataclass(frozen=True, slots=True)
class AdapterTemplate:
    """The adapters of one recipe on one base."""

    config: bytes  # of adapter_config.json
    layers: tuple[_Layer, ...]  # in the order of the model
    rank: int
    draws_as_peft: bool  # whether `draw` was seen to give PEFT's own weights

    @classmethod
    def of(cls, base: LoadedBase, recipe: Recipe) -> AdapterTemplate:
        """Ask PEFT; the base is left as it was. Raises InvalidConfiguration."""
        seed = 0
        initial, config = _ask(base, recipe, seed)
        names = list(initial)
        layers = []
        for a, b in zip(names[::2], names[1::2], strict=True):
            shapes = initial[a].shape[1], initial[b].shape[0]
            layers.append(_Layer((a, b), *shapes, _rounded_to(base)))
        template = cls(config, tuple(layers), recipe.rank, draws_as_peft=True)
        drawn = template._draw(seed)
        same = all(torch.equal(drawn[name], value.cpu()) for name, value in initial.items())
        return template if same else cls(config, tuple(layers), recipe.rank, draws_as_peft=False)

    def initial(self, base: LoadedBase, recipe: Recipe, seed: int) -> Tensors:
        """The weights that the plain loop starts from, in the order of the model."""
        return self._draw(seed) if self.draws_as_peft else _ask(base, recipe, seed)[0]

    def write(self, weights: Tensors, folder: Path) -> None:
        """Write weights, named as in files, as PEFT writes them."""
        folder.mkdir(parents=True, exist_ok=True)
        kept = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
        (folder / WEIGHTS).write_bytes(save(kept, {"format": "pt"}))
        (folder / CONFIG).write_bytes(self.config)

    def _draw(self, seed: int) -> Tensors:
        torch.manual_seed(seed)
        weights: Tensors = {}
        for layer in self.layers:
            # Layers draw when they are made, and A draws again.
            a = nn.Linear(layer.inputs, self.rank, bias=False).weight
            b = nn.Linear(self.rank, layer.outputs, bias=False).weight
            nn.init.kaiming_uniform_(a, a=math.sqrt(5))
            nn.init.zeros_(b)
            for name, value in zip(layer.names, (a, b), strict=True):
                weights[name] = value.detach().to(layer.dtype).float()
        return weights


def _ask(base: LoadedBase, recipe: Recipe, seed: int) -> tuple[Tensors, bytes]:
    """PEFT's initial weights, in the order of the model, and its configuration."""
    plain = recipe.model_copy(update={"gradient_checkpointing": False})
    try:
        model = add_adapter(base, plain, seed)
    except ValueError as error:
        raise InvalidConfiguration(
            f"recipe '{recipe.name}' cannot adapt base '{base.entry.name}': {error}"
        ) from error
    initial = {name: value.detach().clone() for name, value in trainable(model).items()}
    with tempfile.TemporaryDirectory(prefix="loraland-") as place:
        write_adapter(model, initial, Path(place))
        config = (Path(place) / CONFIG).read_bytes()
    remove_adapter(base, model, plain)
    return initial, config


def _rounded_to(base: LoadedBase) -> torch.dtype:
    return torch.bfloat16 if base.precision == "bf16" else torch.float32
