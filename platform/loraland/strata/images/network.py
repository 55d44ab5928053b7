"""Networks for pictures, and how any torch module is asked for features.

Features are what the last linear layer is given. A LeNet for digits, a small network for
photographs, or the weights of a folder as transformers writes them, such as a ResNet-50.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from loraland.errors import BaseUnavailable, InvalidConfiguration

IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class LeNet(nn.Module):
    """LeNet-like, as in the public code of GEORGE: three 5 x 5 convolutions, one linear layer.

    Takes (n, channels, 32, 32), gives (n, classes); features are the 120 numbers before the last.
    """

    def __init__(self, classes: int = 2, channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 120, 5), nn.ReLU(), nn.Flatten()),
        )
        self.head = nn.Linear(120, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(pictures))
        return logits


class SmallConvNet(nn.Module):
    """Four 3 x 3 convolutions of stride 2 and a mean over places, for pictures of any size.

    Takes (n, channels, height, width), gives (n, classes); features are 128 numbers.
    """

    def __init__(self, classes: int = 2, channels: int = 3) -> None:
        super().__init__()
        widths = (channels, 16, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.features(pictures))
        return logits


class Pretrained(nn.Module):
    """An image classifier of transformers from a local folder, with a new last layer.

    Takes RGB pictures, gives (n, classes). Raises BaseUnavailable.
    """

    def __init__(self, folder: Path, classes: int = 2) -> None:
        super().__init__()
        from transformers import AutoModelForImageClassification

        try:
            self.model: Any = AutoModelForImageClassification.from_pretrained(
                folder, num_labels=classes, ignore_mismatched_sizes=True, local_files_only=True
            )
        except (OSError, ValueError) as error:
            raise BaseUnavailable(
                f"{folder} holds no image classifier that transformers reads: {error}"
            ) from None
        for name, values in (("mean", IMAGENET_MEAN), ("spread", IMAGENET_SPREAD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits."""
        mean, spread = self.get_buffer("mean"), self.get_buffer("spread")
        logits: Tensor = self.model(pixel_values=((pictures + 1) / 2 - mean) / spread).logits
        return logits


class NamedNetwork(NamedTuple):
    """How to make a network, and the name under which its results are kept."""

    name: str
    make: Callable[[], nn.Module]


def network_for(shape: tuple[int, ...], classes: int) -> NamedNetwork:
    """A network for pictures of (channels, height, width): LeNet for 32 x 32, else SmallConvNet."""
    if shape[1:] == (32, 32):
        return NamedNetwork("lenet", partial(LeNet, classes, shape[0]))
    return NamedNetwork("small", partial(SmallConvNet, classes, shape[0]))


def last_linear(network: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits: the last that was registered.

    Raises InvalidConfiguration for a network without any.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise InvalidConfiguration(
            f"{type(network).__name__} has no linear layer; features are what the last one is given"
        )
    return layers[-1]


@contextmanager
def features_kept(network: nn.Module) -> Iterator[list[Tensor]]:
    """While open, every pass appends what the last linear layer was given: (n, d)."""
    kept: list[Tensor] = []

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0].detach().flatten(1))

    handle = last_linear(network).register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def as_input(pixels: Tensor) -> Tensor:
    """uint8 pixels as what networks take here: -1..1."""
    return pixels.float() / 127.5 - 1.0
