"""Audits an adapter: its features on the rows it learned from and on held-out ones, then strata.

Every stage leaves its result in storage before the next begins, under keys over all that decides
it: asked again, an audit is read, and other settings take the features that are there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from loraland.adapters.registry import Registry
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import LoadedBase, find_base, load_base, load_tokenizer
from loraland.errors import AdapterRejected, StrataMissing
from loraland.lora.weights import AdapterWeights, linears_of, read_adapter
from loraland.storage import Storage
from loraland.strata.auditing import Looks, Splits, Subject, make_audit
from loraland.strata.features import Features
from loraland.strata.language.extraction import Prompt, extract
from loraland.strata.language.learned import Learned, Rows
from loraland.strata.model import Runner, StrataModel, fit_strata, in_process
from loraland.strata.page import render_audit
from loraland.strata.record import Audit
from loraland.strata.settings import StrataSettings
from loraland.strata.shelf import FEATURES, digest, folder_of, get_audit, put_audit

Source = Literal["adapter", "base"]
OnStage = Callable[[str], None]

FORMAT = 1  # raise when the same features would come out otherwise
SPLITS = ("train", "validation", "test")
MAX_ITEMS, MAX_TRAIN = 1000, 5000
DESCRIBED = {
    "adapter": "last hidden state of the adapter where it is about to answer",
    "base": "last hidden state of the frozen base where the adapter is about to answer",
}


def audit_adapter(
    model: str,
    storage: Storage,
    settings: StrataSettings,
    *,
    source: Source = "adapter",
    base: str | None = None,
    max_items: int | None = MAX_ITEMS,
    max_train: int | None = MAX_TRAIN,
    run: Runner = in_process,
    on_stage: OnStage = lambda stage: None,
) -> Audit:
    """Whom does this adapter fail? Strata of each of its labels, with scores of held-out items.

    `source` says whose features are clustered; scores are always the adapter's. `base` is a path
    when the base is not in the catalogue. Raises UnknownModel, DataRefused, AdapterRejected,
    SourceUnavailable, BaseUnavailable.
    """
    learned = Learned.find(model, storage)
    entry = find_base(base or learned.card.base)
    on_stage("reading the rows it learned from")
    rows = learned.read(
        load_tokenizer(entry), entry.context_tokens, max_items=max_items, max_train=max_train
    )
    key = _features_key(learned, rows)
    audit_id = digest(
        {"features": key, "source": source, "settings": settings.model_dump(mode="json")}
    )
    try:
        return get_audit(audit_id, storage)
    except StrataMissing:
        pass
    missing = [one for one in needed(source) if not storage.exists(_done(key, one))]
    if missing:
        on_stage(f"loading {learned.card.base}")
        loaded = load_base(entry, learned.card.precision)
        _write_features(learned, loaded, rows, key, missing, storage, on_stage)
    splits = read_splits(key, storage)
    basis = read_splits(key, storage, "base") if source == "base" else splits
    on_stage("looking for strata")
    found = fit_strata(basis.train, basis.validation, settings, run)
    found.save(storage, f"{folder_of(audit_id)}/model")
    subject = Subject(
        id=audit_id,
        kind="language",
        model=str(learned.name),
        task=learned.task.name,
        description=learned.task.description,
        features=DESCRIBED[source],
        labels=learned.task.labels,
        rests_on={
            "features": key,
            "source": source,
            "rows": learned.card.data.source,
            "train": learned.card.data.fingerprint,
            "test": rows.test_fingerprint,
            "train_examples": str(rows.train_examples),
        },
        warnings=rows.warnings,
    )
    assigned = {name: found.assign(getattr(basis, name)) for name in SPLITS}
    looks = Looks(rows.texts, {}, rows.subclasses)
    audit = make_audit(subject, splits, found, assigned, found.place(basis.test), looks)
    put_audit(audit, render_audit(audit, []), storage)
    return audit


def read_splits(key: str, storage: Storage, source: Source = "adapter") -> Splits:
    """Stored features. Raises FileNotFoundError, StorageCorrupt."""
    return Splits(*(Features.load(storage, _place(key, source, name)) for name in SPLITS))


def read_strata(audit: Audit, storage: Storage) -> tuple[Splits, StrataModel]:
    """What an audit's strata were found in, and the model of them.

    Raises FileNotFoundError, StorageCorrupt.
    """
    source: Source = "base" if audit.rests_on.get("source") == "base" else "adapter"
    splits = read_splits(audit.rests_on["features"], storage, source)
    return splits, StrataModel.load(storage, f"{folder_of(audit.id)}/model")


def _write_features(
    learned: Learned,
    loaded: LoadedBase,
    rows: Rows,
    key: str,
    missing: Sequence[Source],
    storage: Storage,
    on_stage: OnStage,
) -> None:
    """Both kinds share their passes where both are missing."""
    require_base(learned, loaded)
    prepare_for_inference(loaded)
    weights = _weights(learned, loaded, storage)
    for name in SPLITS:
        prompts = getattr(rows, name)
        on_stage(f"reading features of {len(prompts)} {name} examples")
        with_base = "base" in missing
        found = extract(loaded, weights, rows.tokens, prompts, name, with_base=with_base)
        for source in missing:
            features: Features | None = getattr(found, source)
            assert features is not None
            features.save(storage, _place(key, source, name))
    told = {"model": str(learned.name), "tokens": list(rows.tokens), "test": rows.test}
    for source in missing:
        storage.write_json(_done(key, source), told)


def held_out_features(model: str, key: str, storage: Storage, base: str | None = None) -> Features:
    """Features of another adapter of the same base and task, of the held-out items under a key.

    Raises AdapterRejected, UnknownModel, BaseUnavailable, FileNotFoundError.
    """
    learned = Learned.find(model, storage)
    known = storage.read_json(_done(key, "adapter"))
    prompts = [Prompt(name, tuple(ids), label, sub) for name, ids, label, sub in known["test"]]
    loaded = load_base(find_base(base or learned.card.base), learned.card.precision)
    require_base(learned, loaded)
    prepare_for_inference(loaded)
    weights = _weights(learned, loaded, storage)
    return extract(loaded, weights, known["tokens"], prompts, "test", with_base=False).adapter


def require_base(learned: Learned, loaded: LoadedBase) -> None:
    """Raises AdapterRejected for another base than the one the adapter was trained on."""
    if loaded.fingerprint != learned.card.base_fingerprint:
        raise AdapterRejected(
            f"{learned.name} was trained on a base '{learned.card.base}' with fingerprint "
            f"{learned.card.base_fingerprint[:12]}, the one here has {loaded.fingerprint[:12]}; "
            "use the same weights, or train again"
        )


def _weights(learned: Learned, loaded: LoadedBase, storage: Storage) -> AdapterWeights:
    with tempfile.TemporaryDirectory(prefix="loraland-") as place:
        folder = Registry(storage).fetch(learned.name, Path(place))
        return read_adapter(folder, linears_of(loaded.model))


def needed(source: Source) -> tuple[Source, ...]:
    """Whose features an audit needs: the adapter's always, since the scores are its own."""
    return ("adapter",) if source == "adapter" else ("adapter", "base")


def _done(key: str, source: Source) -> str:
    """The manifest of all splits of one kind, with the held-out prompts."""
    return f"{FEATURES}/{key}/{source}.json"


def _place(key: str, source: Source, split: str) -> str:
    return f"{FEATURES}/{key}/{split}" if source == "adapter" else f"{FEATURES}/{key}/base-{split}"


def _features_key(learned: Learned, rows: Rows) -> str:
    stamp: dict[str, Any] = {
        "format": FORMAT,
        "model": str(learned.name),
        "base": learned.card.base_fingerprint,
        "precision": learned.card.precision,
        "tokens": rows.tokens,
        **{name: [prompt.key for prompt in getattr(rows, name)] for name in SPLITS},
        "test": rows.test_fingerprint,
    }
    return digest(stamp)
