"""MNIST's two parts from a folder: .npz files, or the idx files in which it was published.

Files come from outside: sizes are looked at before anything is unpacked, and no pickle is opened.
"""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from loraland.errors import DataRefused, SourceUnavailable
from loraland.strata.images.pictures import Bytes

Part = Literal["train", "test"]

SIDE = 28  # pixels
MOST_BYTES = 1 << 30  # of an array of a file, before it is read
PUBLISHED: dict[Part, str] = {"train": "train", "test": "t10k"}  # how idx files call the parts
UNSIGNED_BYTE = 0x08  # the type that an idx header names third


class Digits(NamedTuple):
    """Pictures of digits, as they are in the files."""

    images: Bytes  # (n, 28, 28)
    labels: NDArray[np.integer]  # (n,): 0..9


def read_part(folder: Path, part: Part) -> Digits:
    """`part`.npz with arrays images and labels, else a pair of idx files, plain or .gz.

    Raises SourceUnavailable when neither is there, DataRefused for anything but MNIST.
    """
    archive = folder / f"{part}.npz"
    pair = [_idx(folder, PUBLISHED[part], kind) for kind in ("images-idx3", "labels-idx1")]
    if archive.is_file():
        path, found = archive, _npz(archive)
    elif pair[0] is not None and pair[1] is not None:
        path, found = pair[0], Digits(_unpacked(pair[0]), _unpacked(pair[1]))
    else:
        raise SourceUnavailable(
            f"no {archive}, and no {PUBLISHED[part]}-images-idx3-ubyte beside "
            f"{PUBLISHED[part]}-labels-idx1-ubyte (or .gz); MNIST is expected as either"
        )
    images, labels = found
    fits = images.dtype == np.uint8 and images.shape[1:] == (SIDE, SIDE) and images.ndim == 3
    if not fits or labels.shape != (len(images),) or set(np.unique(labels)) - set(range(10)):
        raise DataRefused(
            f"{path}: images are {images.dtype} {images.shape}, labels {labels.shape}; uint8 "
            f"(n, {SIDE}, {SIDE}) and (n,) of 0..9 are needed"
        )
    return found


def _npz(path: Path) -> Digits:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [member.file_size for member in archive.infolist()]
        if max(sizes, default=0) > MOST_BYTES:
            raise DataRefused(f"{path} unpacks to {max(sizes):,} bytes; MNIST is far smaller")
        with np.load(path, allow_pickle=False) as file:
            return Digits(file["images"], file["labels"])
    except DataRefused:
        raise
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise DataRefused(f"{path} holds no arrays images and labels: {error}") from None


def _idx(folder: Path, part: str, kind: str) -> Path | None:
    names = [folder / f"{part}-{kind}-ubyte{end}" for end in ("", ".gz")]
    return next((path for path in names if path.is_file()), None)


def _unpacked(path: Path) -> Bytes:
    """The array of an idx file: two zero bytes, type, rank, the sizes, the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, rank = int.from_bytes(file.read(2), "big"), *file.read(2)
            shape = tuple(int.from_bytes(file.read(4), "big") for _ in range(rank))
            count = math.prod(shape)
            if zeros or kind != UNSIGNED_BYTE or not 0 < count <= MOST_BYTES:
                raise DataRefused(f"{path} is no idx file of unsigned bytes, or far too large")
            values = file.read(count + 1)
    except DataRefused:
        raise
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataRefused(f"{path} is no idx file: {error}") from None
    if len(values) != count:
        raise DataRefused(f"{path} promises {shape}, which its length does not bear out")
    return np.frombuffer(values, np.uint8).reshape(shape)
