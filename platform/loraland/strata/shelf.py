"""Where audits and what they stand on lie in storage.

    features/<key>/<split>, features/<key>/base-<split>   of one adapter's examples, and of its base
    strata/<id>/model/                                    the fitted strata
    strata/<id>/audit.html                                the page as one file
    strata/<id>/line.json                                 what a list tells of it
    strata/<id>/audit.json                                the manifest, written last
    strata/<id>/groups/<mode>.json                        groups that a run was trained on
    strata/<id>/trained/<mode>-<version>.json             a retrained adapter on the same strata

An audit without its manifest does not exist. Knows names and shapes; loads no model.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from pydantic import ValidationError

from loraland.errors import StorageCorrupt, StrataMissing, did_you_mean
from loraland.storage import Storage
from loraland.strata.record import ID, Audit, AuditLine, Retrained

ROOT, FEATURES = "strata", "features"
MANIFEST, PAGE, LINE = "audit.json", "audit.html", "line.json"


def digest(stamp: dict[str, Any]) -> str:
    """16 hex digits over all that decides a result."""
    return hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()[:16]


def folder_of(audit_id: str) -> str:
    """The folder of an audit. Raises StrataMissing for what is no id."""
    if re.fullmatch(ID, audit_id) is None:
        raise StrataMissing(
            f"'{audit_id[:80]}' is no id of an audit; ids have 16 hex digits, and `loraland strata "
            "list` shows them"
        )
    return f"{ROOT}/{audit_id}"


def put_audit(audit: Audit, page: str, storage: Storage) -> None:
    """Store an audit with its page; it is there once its manifest is."""
    folder = folder_of(audit.id)
    storage.write(f"{folder}/{PAGE}", page.encode())
    storage.write_json(f"{folder}/{LINE}", line_of(audit).model_dump(mode="json"))
    storage.write_json(f"{folder}/{MANIFEST}", audit.model_dump(mode="json"))


def get_audit(audit_id: str, storage: Storage) -> Audit:
    """An audit by its id. Raises StrataMissing, StorageCorrupt."""
    path = f"{folder_of(audit_id)}/{MANIFEST}"
    try:
        return Audit.model_validate_json(storage.read(path))
    except FileNotFoundError:
        raise StrataMissing(
            f"there is no audit '{audit_id}'; {did_you_mean(audit_id, audit_ids(storage))}. "
            "`loraland strata audit MODEL` makes one"
        ) from None
    except ValidationError as error:
        raise StorageCorrupt(
            f"{storage.describe(path)} is no audit ({error.error_count()} mistakes); delete the "
            "folder and audit the model again"
        ) from None


def audit_ids(storage: Storage) -> list[str]:
    """The ids of all audits, sorted."""
    names = [name for name in storage.names(ROOT) if re.fullmatch(ID, name)]
    return [name for name in names if storage.exists(f"{ROOT}/{name}/{MANIFEST}")]


def lines(storage: Storage) -> list[AuditLine]:
    """All audits, the newest first; one whose line cannot be read is passed over."""
    found = []
    for audit_id in audit_ids(storage):
        try:
            line = storage.read(f"{folder_of(audit_id)}/{LINE}")
            found.append(AuditLine.model_validate_json(line))
        except (FileNotFoundError, ValidationError):
            continue
    return sorted(found, key=lambda one: (one.created, one.id), reverse=True)


def line_of(audit: Audit) -> AuditLine:
    """An audit in a list."""
    worst = next((one for one in audit.strata if one.number == audit.worst), None)
    return AuditLine(
        id=audit.id,
        kind=audit.kind,
        model=audit.model,
        task=audit.task,
        strata=len(audit.strata),
        overall=audit.overall,
        worst=worst.test if worst else None,
        worst_name=worst.name if worst else None,
        created=audit.created,
    )


def put_retrained(audit_id: str, found: Retrained, storage: Storage) -> None:
    """Store how a retrained classifier does on an audit's strata."""
    name = f"{found.mode}-{digest({'model': found.model})}"
    storage.write_json(f"{folder_of(audit_id)}/trained/{name}.json", found.model_dump(mode="json"))


def retrained(audit_id: str, storage: Storage) -> list[Retrained]:
    """All of an audit, the oldest first; a damaged file is passed over."""
    folder = f"{folder_of(audit_id)}/trained"
    found = []
    for name in storage.names(folder):
        try:
            found.append(Retrained.model_validate_json(storage.read(f"{folder}/{name}")))
        except (FileNotFoundError, ValidationError):
            continue
    return sorted(found, key=lambda one: one.created)
