"""Waterbirds and CelebA from folders as their authors publish them.

Tables are read here, pictures when they are asked for. Nothing is downloaded.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from loraland.errors import DataRefused, SourceUnavailable
from loraland.strata.features import Whole
from loraland.strata.images.pictures import Framing, ImageData, ImageSplit, InFiles, inside

SPLITS = {0: "train", 1: "validation", 2: "test"}
WATERBIRDS = Framing(None, (256, 256), 224)  # as the public code of GEORGE frames them
CELEBA = Framing(178, (224, 224), None)


def load_waterbirds(folder: Path) -> ImageData:
    """Land- and water-birds (Sagawa et al. 2020); true subclasses are species x background.

    Reads metadata.csv with columns img_filename, y, place and split (0 train, 1 validation, 2
    test), and pictures below the folder. Raises SourceUnavailable, DataRefused.
    """
    table = folder / "metadata.csv"
    with _opened(table).open(newline="") as file:
        rows = list(csv.DictReader(file))
    missing = {"img_filename", "y", "place", "split"} - set(rows[0] if rows else ())
    if missing:
        raise DataRefused(f"{table} has no columns {sorted(missing)}")
    return _data(
        "waterbirds",
        [(row["img_filename"], row["y"], row["place"], row["split"]) for row in rows],
        InFiles(folder, (), WATERBIRDS),
        table,
        ("land bird", "water bird"),
        ("land bird on land", "land bird on water", "water bird on land", "water bird on water"),
    )


def load_celeba(folder: Path, target: str = "Blond_Hair", other: str = "Male") -> ImageData:
    """Faces with or without `target` (Liu et al. 2015); true subclasses are `target` x `other`.

    Reads list_attr_celeba and list_eval_partition, as .txt (a count, names, then -1 or 1) or .csv
    (names, then -1 or 1), and pictures in img_align_celeba. Raises SourceUnavailable, DataRefused.
    """
    attributes, parts = _table(folder, "list_attr_celeba"), _table(folder, "list_eval_partition")
    names = next(iter(attributes.values()), {})
    if missing := {target, other} - set(names):
        raise DataRefused(f"{folder}: list_attr_celeba has no attributes {sorted(missing)}")
    rows = []
    for name, about in attributes.items():
        part = next(iter(parts.get(name, {}).values()), "absent from list_eval_partition")
        rows.append((name, _as_bit(about[target]), _as_bit(about[other]), part))
    return _data(
        "celeba",
        rows,
        InFiles(folder / "img_align_celeba", (), CELEBA),
        folder / "list_attr_celeba",
        (f"not {target}", target),
        tuple(f"{a} and {b}" for a in (f"not {target}", target) for b in (f"not {other}", other)),
    )


def _data(
    name: str,
    rows: list[tuple[str, str, str, str]],
    pictures: InFiles,
    table: Path,
    superclasses: tuple[str, ...],
    subclasses: tuple[str, ...],
) -> ImageData:
    """Splits of rows of (file, superclass, attribute, split)."""
    splits = {}
    try:
        numbers = np.array([[int(value) for value in row[1:]] for row in rows], np.int64)
    except ValueError as error:
        raise DataRefused(f"{table}: {error}; classes and splits are whole numbers") from None
    if not len(numbers) or numbers.min() < 0 or numbers[:, :2].max() > 1 or numbers[:, 2].max() > 2:
        raise DataRefused(
            f"{table}: classes are 0 or 1 and splits 0, 1 or 2, and there must be some"
        )
    for number, split in SPLITS.items():
        places: Whole = np.flatnonzero(numbers[:, 2] == number)
        files = tuple(rows[place][0] for place in places)
        for file in files:
            inside(pictures.root, file)
        y, other = numbers[places, 0], numbers[places, 1]
        found = InFiles(pictures.root, files, pictures.framing)
        splits[split] = ImageSplit(split, files, found, y, 2 * y + other)
    return ImageData(name, **splits, superclass_names=superclasses, subclass_names=subclasses)


def _table(folder: Path, name: str) -> dict[str, Mapping[str, str]]:
    """A CelebA table by picture, from whichever of its two forms is there."""
    if (comma := folder / f"{name}.csv").exists():
        with comma.open(newline="") as file:
            header, *rows = list(csv.reader(file)) or [[]]
        return _rows(header[1:], rows, comma)
    lines = _opened(folder / f"{name}.txt").read_text().splitlines()
    split = [line.split() for line in lines if line.strip()]
    if split and len(split[0]) == 1:  # the number of pictures, then the names of attributes
        return _rows(split[1] if len(split) > 1 else [], split[2:], folder / f"{name}.txt")
    return _rows(["partition"], split, folder / f"{name}.txt")


def _rows(
    header: list[str], rows: Iterable[list[str]], table: Path
) -> dict[str, Mapping[str, str]]:
    found: dict[str, Mapping[str, str]] = {}
    for row in rows:
        if len(row) != len(header) + 1:
            raise DataRefused(
                f"{table}: '{' '.join(row)[:60]}' is not a name and {len(header)} values"
            )
        found[row[0]] = dict(zip(header, row[1:], strict=True))
    return found


def _as_bit(value: str) -> str:
    return {"-1": "0", "0": "0", "1": "1"}.get(value, value)


def _opened(path: Path) -> Path:
    if not path.is_file():
        raise SourceUnavailable(f"no {path}; give the folder as its authors publish it")
    return path
