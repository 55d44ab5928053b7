"""Audits of made-up classifiers, of texts and of images, as the pages get them."""

from __future__ import annotations

import numpy as np

from loraland.storage import Storage
from loraland.strata.auditing import Looks, Splits, Subject, make_audit, rate, required_rate
from loraland.strata.features import Features
from loraland.strata.model import StrataModel, fit_strata
from loraland.strata.page import render_audit
from loraland.strata.record import Audit, Retrained
from loraland.strata.settings import StrataSettings
from loraland.strata.shelf import digest, put_audit, put_retrained

SETTINGS = StrataSettings(reduction="none", overcluster=False, max_k=4, normalise=False, floor=0.0)
LABELS = ("land", "water")
GROUPS = ("land bird by the lake", "land bird by the wood", "water bird by the lake",
          "water bird by the wood")  # fmt: skip
HOSTILE = '<script>document.title = "owned"</script><img src=x onerror=alert(1)>'


def features(split: str, counts: tuple[int, ...], seed: int) -> Features:
    """Four groups far apart, of which land by the lake is answered wrong."""
    draws = np.random.default_rng(seed)
    groups = np.repeat(np.arange(4), counts)
    middles = np.array([[4, 0], [-4, 0], [4, 9], [-4, 9]], np.float32)
    values = middles[groups] + draws.normal(0, 0.6, (len(groups), 2)).astype(np.float32)
    labels = groups // 2
    margin = np.where(groups == 0, -2.0, 3.0) + draws.normal(0, 0.8, len(groups))
    logits = np.zeros((len(groups), 2), np.float32)
    logits[np.arange(len(groups)), labels] = margin
    losses = np.log1p(np.exp(-margin)).astype(np.float32)
    ids = tuple(f"{split}-{n}" for n in range(len(groups)))
    true = groups.astype(np.int64)
    return Features(
        split, ids, values.astype(np.float32), logits, losses, labels.astype(np.int64), true
    )


def splits() -> Splits:
    """Rare groups in training, the same of each held out."""
    return Splits(
        features("train", (12, 200, 210, 14), 0),
        features("validation", (4, 40, 40, 4), 1),
        features("test", (50, 50, 50, 50), 2),
    )


def fabricate_audit(storage: Storage, *, images: bool = False, hostile: bool = True) -> Audit:
    """An audit in storage, with two retrained classifiers beside it."""
    found = splits()
    model = fit_strata(found.train, found.validation, SETTINGS)
    kind = "images" if images else "language"
    subject = Subject(
        id=digest({"made": kind}),
        kind=kind,  # type: ignore[arg-type]
        model="birds lenet seed 0" if images else "smollm2-135m/planted_shortcut@0123456789ab",
        task="birds",
        description="Water birds or land birds",
        features="last hidden state where the answer is due",
        labels=LABELS,
        rests_on={"rows": "generator:planted_shortcut"},
        warnings=["the train rows here are others"],
    )
    named = {name: getattr(found, name) for name in ("train", "validation", "test")}
    assigned = {name: model.assign(split) for name, split in named.items()}
    looks = looks_of(found, images=images, hostile=hostile)
    audit = make_audit(subject, found, model, assigned, model.place(found.test), looks)
    trained = [_retrained(mode, found, model) for mode in ("erm", "george")]
    put_audit(audit, render_audit(audit, trained), storage)
    for one in trained:
        put_retrained(audit.id, one, storage)
    return audit


def looks_of(found: Splits, *, images: bool, hostile: bool) -> Looks:
    """Sentences that name bird and place, or small pictures."""
    texts, pixels = {}, {}
    for split in (found.train, found.validation, found.test):
        assert split.subclasses is not None
        for n, (key, group) in enumerate(zip(split.ids, split.subclasses, strict=True)):
            place = "lake" if group % 2 == 0 else "wood"
            bird = "wren" if group < 2 else "teal"
            mark = HOSTILE if hostile and n % 9 == 0 else ""
            texts[key] = f"{place}\na {bird} number {n % 7} {mark}"
            pixels[key] = np.full((8, 8), group / 4)
    return Looks({}, pixels, GROUPS) if images else Looks(texts, {}, GROUPS)


def _retrained(mode: str, found: Splits, model: StrataModel) -> Retrained:
    test, assigned = found.test, model.assign(found.test)
    right = test.correct() if mode == "erm" else np.arange(len(test)) % 10 > 0
    assert test.subclasses is not None
    by_group = {name: rate(right[test.subclasses == n]) for n, name in enumerate(GROUPS)}
    by_stratum = {n: rate(right[assigned == n]) for n in range(model.count)}
    return Retrained(
        mode=mode,  # type: ignore[arg-type]
        model=f"smollm2-135m/planted_shortcut@{mode:0>12}",
        overall=required_rate(right),
        strata={n: one for n, one in by_stratum.items() if one},
        known={name: one for name, one in by_group.items() if one},
        right=np.packbits(right).tobytes().hex(),
        created="2026-11-25T12:00:00+00:00" if mode == "erm" else "2026-11-25T13:00:00+00:00",
    )
