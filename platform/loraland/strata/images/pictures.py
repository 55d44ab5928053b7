"""A split of an image data set: pictures, superclasses and, where known, true subclasses.

Pictures lie in memory or in files that are read when they are asked for. Knows no networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from loraland.errors import DataRefused, SourceUnavailable
from loraland.strata.features import Whole

Bytes = NDArray[np.uint8]

MOST_PIXELS = 50_000_000  # of a file, before it is decoded: a larger one is no photograph


class Pictures(Protocol):
    """Pictures by number, all of one size."""

    def __len__(self) -> int:
        """How many there are."""

    def take(self, places: Whole) -> Bytes:
        """Some of them: (m, channels, height, width). Raises SourceUnavailable, DataRefused."""


@dataclass(frozen=True, slots=True)
class InMemory:
    """Pictures that lie in memory: (n, channels, height, width)."""

    pixels: Bytes

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, places: Whole) -> Bytes:
        """Some of them."""
        return self.pixels[places]


class Framing(NamedTuple):
    """How a photograph becomes a square: resize, then cut out the middle, in this order or that."""

    crop_first: int | None  # side of a middle square that is cut out before resizing
    resize: tuple[int, int]  # height, width
    crop: int | None  # side of a middle square that is cut out after resizing


@dataclass(frozen=True, slots=True)
class InFiles:
    """Photographs that are read and framed when they are asked for, always RGB."""

    root: Path
    names: tuple[str, ...]  # below root
    framing: Framing

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: Whole) -> Bytes:
        """Read and frame some of them."""
        return np.stack([self._read(self.names[place]) for place in places])

    def _read(self, name: str) -> Bytes:
        from PIL import Image, UnidentifiedImageError

        path = inside(self.root, name)
        try:
            with Image.open(path) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise DataRefused(f"{path} has {file.width} x {file.height} pixels, too many")
                picture = file.convert("RGB")
        except FileNotFoundError:
            raise SourceUnavailable(f"{path} is named in the table, but not there") from None
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise DataRefused(f"{path} is no picture that can be read: {error}") from None
        if self.framing.crop_first is not None:
            picture = picture.crop(_middle(picture.size, self.framing.crop_first))
        height, width = self.framing.resize
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        if self.framing.crop is not None:
            picture = picture.crop(_middle(picture.size, self.framing.crop))
        return np.asarray(picture, np.uint8).transpose(2, 0, 1)


def inside(root: Path, name: str) -> Path:
    """A file below a folder. Raises DataRefused for a name that leads out of it."""
    path = (root / name).resolve()
    if not path.is_relative_to(root.resolve()):
        raise DataRefused(f"'{name}' would leave {root}; names of pictures lie below it")
    return path


def _middle(size: tuple[int, int], side: int) -> tuple[int, int, int, int]:
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return left, top, left + side, top + side


@dataclass(frozen=True, slots=True)
class ImageSplit:
    """Pictures with their labels. Raises DataRefused when these are not one each."""

    split: str  # "train", "validation", "test"
    ids: tuple[str, ...]
    pictures: Pictures
    superclasses: Whole  # (n,)
    subclasses: Whole | None  # (n,): true ones; training of GEORGE never looks at them

    def __post_init__(self) -> None:
        """Raises DataRefused."""
        lengths = {len(self.ids), len(self.pictures), len(self.superclasses)}
        if self.subclasses is not None:
            lengths.add(len(self.subclasses))
        if len(lengths) != 1 or 0 in lengths:
            raise DataRefused(
                f"split '{self.split}' has {len(self.ids)} ids, {len(self.pictures)} pictures and "
                f"{len(self.superclasses)} labels; there must be one of each, and some"
            )

    def __len__(self) -> int:
        return len(self.ids)


class ImageData(NamedTuple):
    """A data set, with the names of its classes."""

    name: str
    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    superclass_names: Sequence[str]
    subclass_names: Sequence[str]
