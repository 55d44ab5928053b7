"""Models in storage: a version by content, the manifest last, nothing that could run code.

    palates/<name>/versions/<version>/items.parquet, arrays.safetensors, words.json, manifest.json
    palates/<name>/latest.json

Arrays are safetensors, words and facts JSON, items Parquet. What is read is held against the
manifest's hashes and limits before it is used.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from loraland.adapters.names import is_part, is_version
from loraland.errors import InvalidName, StorageCorrupt, UnknownModel, did_you_mean
from loraland.palate.catalogue import Catalogue
from loraland.palate.clusters import Mixture
from loraland.palate.features import Features, FeatureSettings
from loraland.palate.model import Palate, PalateModel
from loraland.palate.pricing import PricingSettings
from loraland.storage import Storage

ROOT = "palates"
ITEMS, ARRAYS, WORDS, MANIFEST = (
    "items.parquet",
    "arrays.safetensors",
    "words.json",
    "manifest.json",
)
FORMAT = 1
MAX_BYTES = {ITEMS: 2 * 1024**3, ARRAYS: 4 * 1024**3, WORDS: 64 * 1024**2, MANIFEST: 8 * 1024**2}


def save(model: PalateModel, storage: Storage, name: str) -> str:
    """Keep a model, point `latest` at it, return its version.

    The same content gives the same version, and saving it twice changes nothing. Killed at any
    moment, `latest` names a whole model. Raises InvalidName.
    """
    _check_name(name)
    files = _files(model)
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    version = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:12]
    folder = _folder(name, version)
    if not storage.exists(f"{folder}/{MANIFEST}"):
        for file, content in files.items():
            storage.write(f"{folder}/{file}", content)
        manifest = {"format": FORMAT, "version": version, "files": hashes, "facts": model.facts}
        storage.write_json(f"{folder}/{MANIFEST}", manifest)
    storage.write_json(f"{ROOT}/{name}/latest.json", {"version": version})
    return version


def load(storage: Storage, name: str, version: str | None = None) -> PalateModel:
    """A kept model, the latest by default.

    Raises InvalidName, UnknownModel that says what there is, and StorageCorrupt for files that are
    not what the manifest says.
    """
    _check_name(name)
    version = version or latest(storage, name)
    if not is_version(version):
        raise InvalidName(f"'{version[:40]}' is no version (12 hex digits)")
    folder = _folder(name, version)
    try:
        manifest = json.loads(_read(storage, folder, MANIFEST))
    except FileNotFoundError:
        there = storage.names(f"{ROOT}/{name}/versions")
        raise UnknownModel(
            f"no version {version} of palates '{name}'; {did_you_mean(version, there)}"
        ) from None
    except ValueError as error:
        raise StorageCorrupt(f"{storage.describe(folder)}/{MANIFEST} is no JSON") from error
    try:
        contents = {
            file: _checked(storage, folder, file, manifest) for file in (ITEMS, ARRAYS, WORDS)
        }
        return _model(contents, manifest, version)
    except (KeyError, TypeError, ValueError, SafetensorError, pa.ArrowException, OSError) as error:
        if isinstance(error, StorageCorrupt):
            raise
        raise StorageCorrupt(
            f"palates '{name}@{version}' in {storage.uri} cannot be read ({error}); fit them anew"
        ) from error


def latest(storage: Storage, name: str) -> str:
    """The version that `latest` names. Raises as `load` does."""
    _check_name(name)
    try:
        content = storage.read_json(f"{ROOT}/{name}/latest.json")
        version = content["version"]
    except FileNotFoundError:
        raise UnknownModel(
            f"no palates '{name}' in {storage.uri}; {did_you_mean(name, names(storage))}; "
            "`loraland palate fit` makes some"
        ) from None
    except (ValueError, TypeError, KeyError) as error:
        raise StorageCorrupt(f"{storage.describe(ROOT)}/{name}/latest.json names none") from error
    if not isinstance(version, str) or not is_version(version):
        raise StorageCorrupt(f"{storage.describe(ROOT)}/{name}/latest.json names no version")
    return version


def names(storage: Storage) -> list[str]:
    """The models that are kept."""
    return [name for name in storage.names(ROOT) if storage.exists(f"{ROOT}/{name}/latest.json")]


def _files(model: PalateModel) -> dict[str, bytes]:
    items = io.BytesIO()
    pq.write_table(model.catalogue.to_table(), items, compression="zstd")
    mixture, features = model.mixture, model.features
    arrays = {
        "places": model.places,
        "idf": features.idf,
        "components": features.components,
        "metadata_mean": features.metadata_mean,
        "metadata_scale": features.metadata_scale,
        "weights": mixture.weights,
        "means": mixture.means,
        "variances": mixture.variances,
        "centres": mixture.centres,
        "scalars": np.asarray([mixture.temperature, mixture.bic]),
    }
    words = {
        "terms": features.terms,
        "identity": sorted(features.identity),
        "features": asdict(features.settings),
        "pricing": asdict(model.pricing),
        "palates": [palate._asdict() for palate in model.palates],
    }
    return {
        ITEMS: items.getvalue(),
        ARRAYS: save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()}),
        WORDS: json.dumps(words, ensure_ascii=False, sort_keys=True).encode(),
    }


def _model(contents: dict[str, bytes], manifest: dict[str, Any], version: str) -> PalateModel:
    catalogue = Catalogue.from_table(pq.read_table(io.BytesIO(contents[ITEMS])))
    arrays, words = load_arrays(contents[ARRAYS]), json.loads(contents[WORDS])
    features = Features(
        FeatureSettings(**words["features"]),
        tuple(words["terms"]),
        arrays["idf"],
        arrays["components"],
        frozenset(words["identity"]),
        arrays["metadata_mean"],
        arrays["metadata_scale"],
    )
    temperature, bic = arrays["scalars"].tolist()
    mixture = Mixture(
        weights=arrays["weights"],
        means=arrays["means"],
        variances=arrays["variances"],
        centres=arrays["centres"],
        temperature=temperature,
        bic=bic,
    )
    palates = tuple(
        Palate(one["id"], one["name"], tuple(one["terms"]), one["items"])
        for one in words["palates"]
    )
    _check_shapes(catalogue, features, mixture, arrays["places"], palates)
    pricing = PricingSettings(**words["pricing"])
    return PalateModel(
        catalogue, features, mixture, arrays["places"], palates, pricing, manifest["facts"], version
    )


def _check_shapes(
    catalogue: Catalogue, features: Features, mixture: Mixture, places: Any, palates: Any
) -> None:
    k, dimensions = len(palates), places.shape[1]
    wanted = {
        "places": (places.shape, (len(catalogue), dimensions)),
        "idf": (features.idf.shape, (len(features.terms),)),
        "components": (features.components.shape[1:], (len(features.terms),)),
        "weights": (mixture.weights.shape, (k,)),
        "means": (mixture.means.shape, (k, dimensions)),
        "variances": (mixture.variances.shape, (k, dimensions)),
        "centres": (mixture.centres.shape, (k, dimensions)),
    }
    for name, (found, right) in wanted.items():
        if tuple(found) != right:
            raise ValueError(f"{name} has shape {tuple(found)}, not {right}")


def with_version(model: PalateModel, version: str) -> PalateModel:
    """The same model under the version that `save` gave."""
    return replace(model, version=version)


def _checked(storage: Storage, folder: str, file: str, manifest: dict[str, Any]) -> bytes:
    content = _read(storage, folder, file)
    if hashlib.sha256(content).hexdigest() != manifest["files"][file]:
        raise StorageCorrupt(f"{storage.describe(folder)}/{file} is not what its manifest says")
    return content


def _read(storage: Storage, folder: str, file: str) -> bytes:
    size = storage.size_bytes(f"{folder}/{file}")
    if size > MAX_BYTES[file]:
        raise StorageCorrupt(f"{storage.describe(folder)}/{file} has {size} bytes, too many")
    return storage.read(f"{folder}/{file}")


def _folder(name: str, version: str) -> str:
    return f"{ROOT}/{name}/versions/{version}"


def _check_name(name: str) -> None:
    if not is_part(name):
        raise InvalidName(
            f"'{name[:80]}' cannot name palates; use lower-case letters, digits, '.', '_' and '-'"
        )
