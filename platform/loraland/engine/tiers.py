"""The words of residency: tiers, loads from one to the next, and what is known of each adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Tier(StrEnum):
    """Where an adapter is nearest to use."""

    DEVICE = "device"  # in a slot: rows can run
    HOST = "host"  # checked tensors in memory
    DISK = "disk"  # a local folder
    REGISTRY = "registry"  # has to be fetched


@dataclass(frozen=True, slots=True)
class Load:
    """One step of an adapter toward the device. As long as it has not begun, it is a proposal."""

    version: str
    from_tier: Tier
    to_tier: Tier  # HOST (from DISK or REGISTRY) or DEVICE (from HOST)
    slot: int | None = None  # 1..slots, for DEVICE
    victim: str | None = None  # whose slot it is until the load commits; None for a free slot


class Resident(NamedTuple):
    """One known adapter."""

    version: str
    leases: int  # requests under way
    size_bytes: int  # in its tier; for DISK and REGISTRY as it was made known
    tier: Tier = Tier.DEVICE
    slot: int | None = None  # 1..slots
    running: int = 0  # rows in the batch
    pinned: bool = False
    retired: bool = False
    host_bytes: int = 0  # its copy in host memory, which a device slot has beside it
    hits: int = 0  # leases that found it on the device
    misses: int = 0  # leases that did not
    reads: int = 0  # completed loads into host memory
    loads: int = 0  # completed loads into a slot
    failures: int = 0
    evictions: int = 0  # from a slot
    read_ms: float = 0.0  # the last one
    load_ms: float = 0.0  # the last one
    last_used_s: float = 0.0  # on the caller's clock


@dataclass(slots=True)
class Copy:
    """An adapter in a slot, or in host memory."""

    size_bytes: int
    uses: int
    age: float


@dataclass(slots=True)
class Record:
    """What is known of one version."""

    version: str
    home: Tier  # DISK or REGISTRY: what is left when no copy is held
    known_bytes: int  # as made known, or as last read
    last_used_s: float
    copies: dict[Tier, Copy] = field(default_factory=dict)  # DEVICE and HOST
    slot: int | None = None
    load: Load | None = None  # under way
    leases: int = 0
    running: int = 0
    pinned: bool = False
    retired: bool = False
    hits: int = 0
    misses: int = 0
    reads: int = 0
    loads: int = 0
    failures: int = 0
    evictions: int = 0
    read_ms: float = 0.0
    load_ms: float = 0.0

    @property
    def tier(self) -> Tier:
        """The nearest to use."""
        return next((tier for tier in (Tier.DEVICE, Tier.HOST) if tier in self.copies), self.home)

    @property
    def size_bytes(self) -> int:
        """In its tier."""
        copy = self.copies.get(self.tier)
        return copy.size_bytes if copy else self.known_bytes

    @property
    def host_bytes(self) -> int:
        """Of its copy in host memory; 0 without one."""
        copy = self.copies.get(Tier.HOST)
        return copy.size_bytes if copy else 0

    @property
    def is_over(self) -> bool:
        """Whether nothing needs it any more."""
        return self.retired and not self.leases and self.load is None

    def report(self) -> Resident:
        """What others may see of it."""
        return Resident(**{name: getattr(self, name) for name in Resident._fields})
