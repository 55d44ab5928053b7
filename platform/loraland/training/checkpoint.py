"""The state of a run between two updates, so that a killed run goes on as if nothing had happened.

Weights, optimiser moments, the best weights so far and the random state as safetensors; counters
and the curve as JSON, written last: that file is the manifest, and tensors without one do not
exist.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from loraland.adapters.card import CurvePoint
from loraland.errors import CheckpointMismatch, StorageCorrupt
from loraland.storage import Storage

Tensors = dict[str, Tensor]

_MANIFEST = "checkpoint.json"


@dataclass(slots=True)
class RunState:
    """Everything about a run but its tensors."""

    update: int = 0  # finished updates; also the data cursor
    tokens: int = 0  # tokens seen, prompts included
    losses: list[float] = field(default_factory=list)  # one per update
    validation: list[tuple[int, float]] = field(default_factory=list)  # (update, loss)
    curve: list[CurvePoint] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "update": self.update,
            "tokens": self.tokens,
            "losses": self.losses,
            "validation": [list(pair) for pair in self.validation],
            "curve": [point.model_dump() for point in self.curve],
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> RunState:
        """Back from JSON values."""
        return cls(
            update=values["update"],
            tokens=values["tokens"],
            losses=list(values["losses"]),
            validation=[(int(update), float(loss)) for update, loss in values["validation"]],
            curve=[CurvePoint(**point) for point in values["curve"]],
        )


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of one run, in one folder of a storage; only the newest is kept."""

    storage: Storage
    folder: str  # "runs/<run key>"
    run_key: str

    def save(self, state: RunState, tensors: Tensors) -> None:
        """Store a checkpoint; the one before stays valid until this one is whole."""
        content = save(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        )
        name = f"checkpoint-{state.update:06d}.safetensors"
        self.storage.write(f"{self.folder}/{name}", content)
        manifest = {
            "run": self.run_key,
            "tensors": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "state": state.to_json(),
        }
        self.storage.write(f"{self.folder}/{_MANIFEST}", json.dumps(manifest).encode())
        self._delete_tensors(but=name)

    def load(self) -> tuple[RunState, Tensors] | None:
        """The newest checkpoint, or None. Raises CheckpointMismatch, StorageCorrupt."""
        if not self.storage.exists(f"{self.folder}/{_MANIFEST}"):
            return None
        manifest = self.storage.read_json(f"{self.folder}/{_MANIFEST}")
        if manifest["run"] != self.run_key:
            raise CheckpointMismatch(
                f"{self.storage.describe(self.folder)} belongs to run {manifest['run']}, "
                f"not {self.run_key}; remove that folder to start this run anew"
            )
        place = f"{self.folder}/{manifest['tensors']}"
        content = self.storage.read(place)
        if hashlib.sha256(content).hexdigest() != manifest["sha256"]:
            raise StorageCorrupt(
                f"{self.storage.describe(place)} is damaged; "
                "delete its folder to train from the start"
            )
        return RunState.from_json(manifest["state"]), load(content)

    def clear(self) -> None:
        """Remove the checkpoints of a finished run, the manifest first."""
        if self.storage.exists(f"{self.folder}/{_MANIFEST}"):
            self.storage.delete(f"{self.folder}/{_MANIFEST}")
        self._delete_tensors(but=None)

    def _delete_tensors(self, but: str | None) -> None:
        for name in self.storage.names(self.folder):
            if name.endswith(".safetensors") and name != but:
                self.storage.delete(f"{self.folder}/{name}")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """The moments and step counts of an optimiser as named tensors."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer/{index}/{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
    }


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Put back what `pack_optimizer` took."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, *rest = key.split("/")
        if kind == "optimizer":
            state.setdefault(int(rest[0]), {})[rest[1]] = tensor
    optimizer.load_state_dict(optimizer.state_dict() | {"state": state})


def pack_random_state() -> Tensors:
    """The state of torch's generators, which dropout draws from."""
    tensors = {"random/cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors["random/cuda"] = torch.cuda.get_rng_state()
    return tensors


def unpack_random_state(tensors: Tensors) -> None:
    """Put back what `pack_random_state` took."""
    torch.set_rng_state(tensors["random/cpu"])
    if "random/cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random/cuda"])
