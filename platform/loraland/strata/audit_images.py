"""Audits an image classifier of a study: strata of each class, with mean pictures and examples.

Pictures are shown grey and small. Knows a study, which trains the classifier where that was not
done.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from loraland.adapters.card import utc_now
from loraland.strata.auditing import Looks, Splits, Subject, make_audit, rate, required_rate
from loraland.strata.groups import Mode
from loraland.strata.images.pictures import ImageSplit
from loraland.strata.images.study import ImageStudy
from loraland.strata.page import render_audit
from loraland.strata.record import Audit, Retrained
from loraland.strata.shelf import PAGE, digest, folder_of, put_audit, put_retrained, retrained

SIDE = 32  # pixels of what is shown, at most
CHUNK = 512  # pictures that are read at a time


def audit_images(study: ImageStudy) -> Audit:
    """Whom does the study's ERM classifier fail? Trains it when that has not been done.

    Raises what the study raises.
    """
    splits = Splits(*(study.features(name) for name in ("train", "validation", "test")))
    found = study.strata()
    audit_id = digest({"study": study.folder, "settings": found.settings.model_dump(mode="json")})
    found.save(study.storage, f"{folder_of(audit_id)}/model")
    subject = Subject(
        id=audit_id,
        kind="images",
        model=f"{study.data.name} {study.network_name} seed {study.seed}",
        task=study.data.name,
        description="pictures, told " + " from ".join(study.data.superclass_names),
        features="what goes into the last linear layer of the classifier",
        labels=study.data.superclass_names,
        rests_on={"study": study.folder},
    )
    named = ("train", "validation", "test")
    assigned = {name: found.assign(getattr(splits, name)) for name in named}
    looks = Looks({}, small_grey(study.data.test), tuple(study.data.subclass_names))
    audit = make_audit(subject, splits, found, assigned, found.place(splits.test), looks)
    put_audit(audit, render_audit(audit, []), study.storage)
    return audit


def judge_mode(audit: Audit, study: ImageStudy, mode: Mode) -> Retrained:
    """How a mode's classifier does on the strata and the known subclasses of an audit.

    Trains it when that has not been done. Stored beside the audit, whose page is written anew.
    """
    result = study.result(mode)
    packed = np.frombuffer(bytes.fromhex(result["right"]), np.uint8)
    right = np.unpackbits(packed, count=result["test_count"]).astype(bool)
    strata, test = study.strata(), study.features("test")
    assigned = strata.assign(test)
    known = {}
    if test.subclasses is not None:
        for number, name in enumerate(study.data.subclass_names):
            known[name] = rate(right[test.subclasses == number])
    by_stratum = {number: rate(right[assigned == number]) for number in range(strata.count)}
    found = Retrained(
        mode=mode,
        model=f"{audit.model} {mode}",
        overall=required_rate(right),
        strata={number: one for number, one in by_stratum.items() if one is not None},
        known={name: one for name, one in known.items() if one is not None},
        right=result["right"],
        created=utc_now(),
    )
    put_retrained(audit.id, found, study.storage)
    page = render_audit(audit, retrained(audit.id, study.storage))
    study.storage.write(f"{folder_of(audit.id)}/{PAGE}", page.encode())
    return found


def small_grey(split: ImageSplit) -> dict[str, NDArray[np.floating[Any]]]:
    """Every picture of a split by its id, grey, 0 to 1, SIDE pixels a side at most."""
    found = {}
    for start in range(0, len(split), CHUNK):
        places = np.arange(start, min(start + CHUNK, len(split)))
        pixels = split.pictures.take(places).astype(np.float32).mean(1) / 255  # (m, height, width)
        for place, each in zip(places, pixels, strict=True):
            found[split.ids[place]] = _shrunk(each)
    return found


def _shrunk(pixels: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Means over squares, so that no side is longer than SIDE; what is left over is cut off."""
    step = max(1, -(-max(pixels.shape) // SIDE))
    rows, columns = (length // step for length in pixels.shape)
    cut = pixels[: rows * step, : columns * step].reshape(rows, step, columns, step)
    return np.asarray(cut.mean((1, 3)), dtype=np.float16)
