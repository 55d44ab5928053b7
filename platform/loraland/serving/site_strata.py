"""Audits as the page shows them: which there are, and one with what was retrained after it.

Everything here reads storage and blocks; it is asked of a thread. Shows every model's examples, so
the policy of keys leaves it to those that may see all.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from loraland.storage import Storage
from loraland.strata.record import Audit, AuditLine, Retrained
from loraland.strata.shelf import get_audit, lines, retrained


class AuditList(BaseModel):
    """The audits in storage."""

    object: Literal["list"] = "list"
    data: list[AuditLine]  # the newest first


class AuditDetail(BaseModel):
    """One audit: strata with scores, words and examples, and the map."""

    audit: Audit
    retrained: list[Retrained]  # the oldest first


def audit_list(storage: Storage) -> AuditList:
    """All audits that can be read."""
    return AuditList(data=lines(storage))


def audit_detail(audit_id: str, storage: Storage) -> AuditDetail:
    """One audit. Raises StrataMissing, StorageCorrupt."""
    return AuditDetail(audit=get_audit(audit_id, storage), retrained=retrained(audit_id, storage))
