"""Trains adapters that are robust over an audit's groups, and judges all on the same strata.

The run is an ordinary cell whose recipe names the groups, so that it is checkpointed, resumed,
published and judged like any other. Knows audits and cells; where a cell runs is the caller's
choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from loraland.adapters.card import utc_now
from loraland.errors import DataRefused, InvalidConfiguration
from loraland.matrix.cell import Cell
from loraland.storage import Storage
from loraland.strata.auditing import rate, required_rate
from loraland.strata.features import Features, Whole
from loraland.strata.groups import Mode, groups_of, numbered
from loraland.strata.language.audit_adapter import held_out_features, read_splits, read_strata
from loraland.strata.language.learned import Learned
from loraland.strata.page import render_audit
from loraland.strata.record import Audit, Retrained
from loraland.strata.shelf import PAGE, folder_of, put_retrained, retrained
from loraland.training.groups import Groups
from loraland.training.recipe import GroupDro, Recipe


class Robustness(NamedTuple):
    """What group DRO is told beside its groups; see `GroupDro`."""

    eta: float = 0.01
    size_adjustment: float = 0.0
    uniform_sampling: bool = True


def robust_cell(
    audit: Audit,
    mode: Mode,
    storage: Storage,
    robustness: Robustness,
    *,
    changes: Mapping[str, Any] | None = None,
    base: str | None = None,
    max_items: int | None = None,
) -> Cell:
    """The cell of a mode: the audited adapter's own, trained anew over that mode's groups.

    `changes` are of its recipe. Mode erm has no groups: without changes it is the audited adapter's
    very run. Raises DataRefused, InvalidConfiguration, MetricUnavailable where a mode needs
    subclasses that are not known.
    """
    if audit.kind != "language":
        raise DataRefused(
            f"audit {audit.id} is of images; `loraland strata train --images` trains those"
        )
    learned = Learned.find(audit.model, storage)
    cell = learned.cell(base, max_items)
    fields = cell.recipe.model_dump() | dict(changes or {})
    fields.pop("group_dro", None)
    found = make_groups(audit, mode, storage, seed=cell.seed)
    if found is not None:
        path = f"{folder_of(audit.id)}/groups/{mode}.json"
        fields["group_dro"] = GroupDro(
            groups=path, sha256=found.write(storage, path), **robustness._asdict()
        )
    try:
        recipe = Recipe.model_validate(fields)
    except ValueError as error:
        raise InvalidConfiguration(f"the recipe of mode {mode} cannot be: {error}") from None
    return Cell(cell.base, cell.task, recipe, cell.seed, cell.max_examples, max_items, cell.data)


def make_groups(audit: Audit, mode: Mode, storage: Storage, *, seed: int) -> Groups | None:
    """The group of every training and validation example of an audit; None for erm.

    Validation examples of a group that has no training example join the largest group of their
    label, since nothing can be weighed by them.
    """
    splits, model = read_strata(audit, storage)
    if len(splits.train) < (rows := int(audit.rests_on["train_examples"])):
        raise DataRefused(
            f"audit {audit.id} looked at {len(splits.train)} of {rows} training examples; audit "
            f"again with --max-train {rows} to train on its strata"
        )
    train, validation = (
        groups_of(
            mode,
            split.superclasses,
            strata=model.assign(split),
            subclasses=split.subclasses,
            seed=seed,
        )
        for split in (splits.train, splits.validation)
    )
    if train is None or validation is None:
        return None
    names = tuple(f"{mode}/{group}" for group in np.unique(train).tolist())
    train, validation = numbered(train, validation)
    validation = _joined(train, validation, splits.train, splits.validation)
    of = dict(zip(splits.train.ids, train.tolist(), strict=True))
    of |= dict(zip(splits.validation.ids, validation.tolist(), strict=True))
    return Groups(names=names, of=of)


def judge_on_strata(
    audit: Audit, mode: Mode, model: str, storage: Storage, base: str | None = None
) -> Retrained:
    """How an adapter does on the held-out items of an audit, by its strata and known groups.

    Stored beside the audit, whose page is written anew. Raises as an audit does.
    """
    splits, strata = read_strata(audit, storage)
    own = read_splits(audit.rests_on["features"], storage).test
    learned = Learned.find(model, storage)
    right = own.correct()
    if str(learned.name) != audit.model:
        key = audit.rests_on["features"]
        right = held_out_features(str(learned.name), key, storage, base).correct()
    assigned = strata.assign(splits.test)
    found = Retrained(
        mode=mode,
        model=str(learned.name),
        overall=required_rate(right),
        strata={
            number: one
            for number in range(strata.count)
            if (one := rate(right[assigned == number])) is not None
        },
        known=_known(audit, own, right),
        right=np.packbits(right).tobytes().hex(),
        created=utc_now(),
    )
    put_retrained(audit.id, found, storage)
    page = render_audit(audit, retrained(audit.id, storage))
    storage.write(f"{folder_of(audit.id)}/{PAGE}", page.encode())
    return found


def _known(audit: Audit, own: Features, right: Any) -> dict[str, Any]:
    if own.subclasses is None:
        return {}
    return {
        group.name: one
        for number, group in enumerate(audit.known)
        if (one := rate(right[own.subclasses == number])) is not None
    }


def _joined(train: Whole, validation: Whole, seen: Features, beside: Features) -> Whole:
    found = validation.copy()
    for superclass in np.unique(beside.superclasses):
        members = train[seen.superclasses == superclass]
        if len(members):
            lost = (beside.superclasses == superclass) & (validation < 0)
            found[lost] = np.bincount(members).argmax()
    return found
