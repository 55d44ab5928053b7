"""Strata in storage: `strata.safetensors` with every fitted array, then `strata.json`.

The manifest holds settings, decisions and the hash of the arrays, so that half a model is never
read. Nothing is pickled; what is read is checked before anything stands on it.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from loraland.errors import StorageCorrupt
from loraland.storage import Storage
from loraland.strata.clusterer import Clustering
from loraland.strata.overclustering import Part
from loraland.strata.reduction import Reducer
from loraland.strata.scan import KScore
from loraland.strata.settings import StrataSettings
from loraland.strata.superclass import Decision, SuperclassStrata

if TYPE_CHECKING:
    from loraland.strata.model import StrataModel

ARRAYS, MANIFEST = "strata.safetensors", "strata.json"
FORMAT = 1

Arrays = dict[str, NDArray[Any]]
Parts = tuple[StrataSettings, int, int, tuple[SuperclassStrata, ...], tuple[Decision, ...]]


def save_model(model: StrataModel, storage: Storage, folder: str) -> None:
    """Write a model to a folder below the storage root, the manifest last."""
    arrays: Arrays = {}
    for number, one in enumerate(model.superclasses):
        arrays |= {f"{number}/{name}": array for name, array in _arrays_of(one).items()}
    content = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    storage.write(f"{folder}/{ARRAYS}", content)
    storage.write_json(
        f"{folder}/{MANIFEST}",
        {
            "format": FORMAT,
            "sha256": hashlib.sha256(content).hexdigest(),
            "settings": model.settings.model_dump(mode="json"),
            "dimensions": model.dimensions,
            "classes": model.classes,
            "superclasses": [one.reducer.facts() for one in model.superclasses],
            "decisions": [decision_json(one) for one in model.decisions],
        },
    )


def load_parts(storage: Storage, folder: str) -> Parts:
    """The fields of a stored model. Raises FileNotFoundError, StorageCorrupt."""
    manifest = storage.read(f"{folder}/{MANIFEST}")
    content = storage.read(f"{folder}/{ARRAYS}")
    try:
        return _parts(json.loads(manifest), content)
    except (ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise StorageCorrupt(
            f"{storage.describe(folder)} holds no whole strata ({type(error).__name__}: {error}); "
            "find them again"
        ) from None


def decision_json(decision: Decision) -> dict[str, Any]:
    """A decision as JSON values, names and all."""
    return decision._asdict() | {
        "scores": [score._asdict() for score in decision.scores],
        "parts": [part._asdict() | {"is_kept": part.is_kept} for part in decision.parts],
    }


def _decision(values: dict[str, Any]) -> Decision:
    parts = [{k: v for k, v in part.items() if k != "is_kept"} for part in values["parts"]]
    return Decision(
        **values
        | {
            "scores": tuple(KScore(**score) for score in values["scores"]),
            "parts": tuple(Part(**part | {"reasons": tuple(part["reasons"])}) for part in parts),
            "train_counts": tuple(values["train_counts"]),
            "validation_counts": tuple(values["validation_counts"]),
        }
    )


def _arrays_of(one: SuperclassStrata) -> Arrays:
    arrays: Arrays = {f"reducer/{name}": array for name, array in one.reducer.arrays().items()}
    arrays["strata"] = one.strata
    if one.base is not None:
        arrays |= {f"base/{name}": array for name, array in one.base.arrays().items()}
    for number, part in enumerate(one.parts):
        if part is not None:
            arrays |= {f"part-{number}/{name}": array for name, array in part.arrays().items()}
    return arrays


def _parts(about: dict[str, Any], content: bytes) -> Parts:
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']} is not {FORMAT}")
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise ValueError("the arrays are not those of the manifest")
    settings = StrataSettings.model_validate(about["settings"])
    arrays = load(content)
    found = tuple(
        _superclass(_under(str(number), arrays), facts, settings)
        for number, facts in enumerate(about["superclasses"])
    )
    decisions = tuple(_decision(values) for values in about["decisions"])
    if not found or len(found) != len(decisions):
        raise ValueError("superclasses and decisions differ in number")
    return settings, int(about["dimensions"]), int(about["classes"]), found, decisions


def _superclass(
    arrays: Arrays, facts: dict[str, Any], settings: StrataSettings
) -> SuperclassStrata:
    fitted: dict[str, Any] = facts | _under("reducer", arrays)
    reducer, strata = Reducer(**fitted), arrays["strata"]
    base = _under("base", arrays)
    if not base:
        return SuperclassStrata(reducer, None, (), strata, settings.factor)
    clustering = Clustering(**base)
    parts: tuple[Clustering | None, ...] = ()
    if len(strata) != clustering.k:
        parts = tuple(_clustering(f"part-{number}", arrays) for number in range(clustering.k))
        if len(strata) != settings.factor * clustering.k:
            raise ValueError("there are not as many strata as parts")
    return SuperclassStrata(reducer, clustering, parts, strata, settings.factor)


def _clustering(name: str, arrays: Arrays) -> Clustering | None:
    found = _under(name, arrays)
    return Clustering(**found) if found else None


def _under(prefix: str, arrays: Arrays) -> Arrays:
    start = len(prefix) + 1
    return {name[start:]: one for name, one in arrays.items() if name.startswith(f"{prefix}/")}
