"""U-MNIST: digits below 5 against the others, with 95 % of the 8s taken out of training.

Built as the paper builds it, from a folder with MNIST, or from scikit-learn's own
1,797 digits. A fifth of each digit of the training part is validation; validation and test keep all
their 8s.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loraland.errors import DataRefused
from loraland.strata.features import Whole
from loraland.strata.images.mnist_files import Digits, read_part
from loraland.strata.images.pictures import Bytes, ImageData, ImageSplit, InMemory

RARE = 8
KEPT = 0.05  # of the rare digit's training examples
VALIDATION = 0.2  # of each digit of the training part
SIDE = 32  # pixels, what LeNet takes


def load_umnist(folder: Path | None = None, seed: int = 0, kept: float = KEPT) -> ImageData:
    """U-MNIST from a folder that `read_part` reads.

    Without one from scikit-learn's digits (8 x 8 pixels, enlarged to 32; a third is test), of
    which few 8s are left: `kept` may have to be larger. Raises SourceUnavailable, DataRefused.
    """
    if folder is None:
        train, test = _embedded(seed)
    else:
        train, test = (_framed(read_part(folder, "train")), _framed(read_part(folder, "test")))
    draws = np.random.default_rng([seed, 3])
    held: list[int] = []
    rest: list[int] = []
    for digit in range(10):
        places = draws.permutation(np.flatnonzero(train[1] == digit))
        if len(places) < 2:
            raise DataRefused(f"MNIST has {len(places)} training pictures of {digit}; 2 are needed")
        cut = max(1, round(VALIDATION * len(places)))
        held += places[:cut].tolist()
        mine = places[cut:]
        if digit == RARE:
            mine = mine[: max(1, round(kept * len(mine)))]
        rest += mine.tolist()
    return ImageData(
        "u-mnist",
        _split("train", train, np.sort(rest), "train"),
        _split("validation", train, np.sort(held), "train"),
        _split("test", test, np.arange(len(test[1])), "test"),
        ("below 5", "5 and above"),
        tuple(str(digit) for digit in range(10)),
    )


def _split(name: str, source: tuple[Bytes, Whole], places: Whole, part: str) -> ImageSplit:
    digits = source[1][places]
    return ImageSplit(
        name,
        tuple(f"{part}-{place}" for place in places),
        InMemory(source[0][places]),
        (digits >= 5).astype(np.int64),
        digits,
    )


def _framed(digits: Digits) -> tuple[Bytes, Whole]:
    edge = (SIDE - digits.images.shape[1]) // 2
    framed = np.pad(digits.images, ((0, 0), (edge, edge), (edge, edge)))
    return framed[:, None], digits.labels.astype(np.int64)


def _embedded(seed: int) -> tuple[tuple[Bytes, Whole], tuple[Bytes, Whole]]:
    from sklearn.datasets import load_digits

    found = load_digits()
    grey: NDArray[np.float64] = found.images  # (1797, 8, 8), 0..16
    pixels = np.rint(grey * 255 / 16).astype(np.uint8).repeat(4, axis=1).repeat(4, axis=2)[:, None]
    labels = found.target.astype(np.int64)
    order = np.random.default_rng([seed, 4]).permutation(len(labels))
    test, train = np.sort(order[: len(order) // 3]), np.sort(order[len(order) // 3 :])
    return (pixels[train], labels[train]), (pixels[test], labels[test])
