"""Waterbirds and CelebA folders, made up in the published form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loraland.errors import DataRefused, SourceUnavailable
from loraland.strata.images.pictures import Framing, InFiles
from loraland.strata.images.published import load_celeba, load_waterbirds

PIL = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def paint(path: Path, grey: int, size: tuple[int, int] = (300, 200)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.new("L", size, grey).save(path)


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    rows = ["img_id,img_filename,y,split,place,place_filename"]
    for number in range(12):
        name = f"{number:03}.Bird/{number}.jpg"
        paint(tmp_path / name, 20 * number)
        rows.append(f"{number},{name},{number % 2},{number // 4},{number // 2 % 2},/p/x.jpg")
    (tmp_path / "metadata.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def faces(folder: Path, form: str) -> Path:
    names = [f"{number:06}.jpg" for number in range(1, 13)]
    marks = [(2 * (n % 2) - 1, 2 * (n // 2 % 2) - 1) for n in range(12)]
    for number, name in enumerate(names):
        paint(folder / "img_align_celeba" / name, 20 * number, (178, 218))
    if form == "txt":
        lines = ["12", "Male Blond_Hair Smiling"]
        lines += [f"{name}  {a: d} {b: d}  1" for name, (a, b) in zip(names, marks, strict=True)]
        (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
        parts = [f"{name} {n // 4}" for n, name in enumerate(names)]
        (folder / "list_eval_partition.txt").write_text("\n".join(parts) + "\n")
    else:
        lines = ["image_id,Male,Blond_Hair,Smiling"]
        lines += [f"{name},{a},{b},1" for name, (a, b) in zip(names, marks, strict=True)]
        (folder / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
        parts = ["image_id,partition"] + [f"{name},{n // 4}" for n, name in enumerate(names)]
        (folder / "list_eval_partition.csv").write_text("\n".join(parts) + "\n")
    return folder


def test_waterbirds_are_species_by_background(birds: Path) -> None:
    data = load_waterbirds(birds)
    for split in data[1:4]:
        assert split.superclasses.tolist() == [0, 1, 0, 1]
        assert np.asarray(split.subclasses).tolist() == [0, 2, 1, 3]
    assert data.subclass_names[2] == "water bird on land"
    found = data.validation.pictures.take(np.array([3, 0]))
    assert found.shape == (2, 3, 224, 224)
    assert found[0].mean() == pytest.approx(140, abs=1) and found[1].mean() == pytest.approx(80, 1)


@pytest.mark.parametrize("form", ["txt", "csv"])
def test_celeba_is_hair_by_gender_in_both_forms(tmp_path: Path, form: str) -> None:
    data = load_celeba(faces(tmp_path, form))
    for split in data[1:4]:
        assert split.superclasses.tolist() == [0, 0, 1, 1]
        assert np.asarray(split.subclasses).tolist() == [0, 1, 2, 3]
    assert data.subclass_names[3] == "Blond_Hair and Male"
    found = data.test.pictures.take(np.array([1]))
    assert found.shape == (1, 3, 224, 224) and found.mean() == pytest.approx(180, abs=1)


def test_a_picture_is_cut_from_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60), np.uint8)
    pixels[10:30, 20:40] = 255
    PIL.fromarray(pixels).save(tmp_path / "a.png")
    inner = InFiles(tmp_path, ("a.png",), Framing(20, (20, 20), None)).take(np.array([0]))
    assert inner.min() == 255 and inner.shape == (1, 3, 20, 20)
    outer = InFiles(tmp_path, ("a.png",), Framing(None, (40, 60), 30)).take(np.array([0]))
    assert outer[0, 0, 15, 15] == 255 and outer[0, 0, 0, 0] == 0


def test_a_name_that_leads_out_of_the_folder_is_refused(birds: Path) -> None:
    table = birds / "metadata.csv"
    table.write_text(table.read_text().replace("003.Bird/3.jpg", "../secret.jpg"))
    with pytest.raises(DataRefused, match="would leave"):
        load_waterbirds(birds)


def test_missing_and_damaged_pictures_are_named(birds: Path) -> None:
    data = load_waterbirds(birds)
    (birds / "000.Bird/0.jpg").unlink()
    with pytest.raises(SourceUnavailable, match=r"0\.jpg is named in the table"):
        data.train.pictures.take(np.array([0]))
    (birds / "001.Bird/1.jpg").write_bytes(b"GIF89a, but not really")
    with pytest.raises(DataRefused, match=r"1\.jpg is no picture"):
        data.train.pictures.take(np.array([1]))


def test_a_picture_of_too_many_pixels_is_not_decoded(
    birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraland.strata.images.pictures.MOST_PIXELS", 1_000)
    with pytest.raises(DataRefused, match="too many"):
        load_waterbirds(birds).train.pictures.take(np.array([0]))


def test_missing_and_damaged_tables_are_refused(birds: Path, tmp_path_factory: Any) -> None:
    with pytest.raises(SourceUnavailable, match=r"metadata\.csv"):
        load_waterbirds(tmp_path_factory.mktemp("empty"))
    table = (birds / "metadata.csv").read_text()
    for damage in (("place,", "where,"), (",1,0,0,", ",7,0,0,"), (",1,0,0,", ",x,0,0,")):
        (birds / "metadata.csv").write_text(table.replace(*damage))
        with pytest.raises(DataRefused, match="metadata"):
            load_waterbirds(birds)
    (birds / "metadata.csv").write_text("")
    with pytest.raises(DataRefused, match="no columns"):
        load_waterbirds(birds)


def test_damaged_face_tables_are_refused(tmp_path: Path) -> None:
    folder = faces(tmp_path, "txt")
    with pytest.raises(DataRefused, match="Bald"):
        load_celeba(folder, target="Bald")
    table = folder / "list_attr_celeba.txt"
    table.write_text(table.read_text() + "000099.jpg 1\n")
    with pytest.raises(DataRefused, match="3 values"):
        load_celeba(folder)
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    with pytest.raises(DataRefused):
        load_celeba(folder)
