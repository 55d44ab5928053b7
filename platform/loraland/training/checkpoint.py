"""The state of a run between two updates, so that a killed run goes on as if nothing had happened.

One safetensors file: weights, optimiser moments, the best weights so far and the random state as
tensors, counters and the curve as JSON in its metadata. It is replaced as a whole, so that there is
no moment at which a killed run, or two runs at once, leave half a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from loraland.adapters.card import CurvePoint
from loraland.errors import CheckpointMismatch, StorageCorrupt
from loraland.storage import Storage

Tensors = dict[str, Tensor]

_FILE = "checkpoint.safetensors"


@dataclass(slots=True)
class RunState:
    """Everything about a run but its tensors."""

    update: int = 0  # finished updates; also the data cursor
    tokens: int = 0  # tokens seen, prompts included
    losses: list[float] = field(default_factory=list)  # one per update
    validation: list[tuple[int, float]] = field(default_factory=list)  # (update, loss)
    curve: list[CurvePoint] = field(default_factory=list)
    group: str = ""  # of the runs that were trained together; empty for a run alone
    tick: int = 0  # finished updates of that group

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "update": self.update,
            "tokens": self.tokens,
            "losses": self.losses,
            "validation": [list(pair) for pair in self.validation],
            "curve": [point.model_dump() for point in self.curve],
            "group": self.group,
            "tick": self.tick,
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
            group=values.get("group", ""),
            tick=values.get("tick", 0),
        )


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The newest checkpoint of one run, one file in a folder of its own."""

    storage: Storage
    folder: str  # "runs/<run key>/checkpoint"
    run_key: str
    file: str = _FILE

    @property
    def path(self) -> str:
        """Where the checkpoint lies, below the storage root."""
        return f"{self.folder}/{self.file}"

    def save(self, state: RunState, tensors: Tensors) -> None:
        """Store a checkpoint over the one before, which stays until this one is whole."""
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {
            "run": self.run_key,
            "sha256": _digest(kept),
            "state": json.dumps(state.to_json()),
        }
        self.storage.write(self.path, save(kept, metadata))

    def load(self) -> tuple[RunState, Tensors] | None:
        """The newest checkpoint, or None. Raises CheckpointMismatch, StorageCorrupt."""
        try:
            content = self.storage.read(self.path)
        except FileNotFoundError:
            return None
        try:
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            metadata, tensors = header["__metadata__"], load(content)
            intact = metadata["sha256"] == _digest(tensors)
        except (SafetensorError, ValueError, KeyError):
            intact = False
        if not intact:
            raise StorageCorrupt(
                f"{self.storage.describe(self.path)} is damaged; delete it to train from the start"
            )
        if metadata["run"] != self.run_key:
            raise CheckpointMismatch(
                f"{self.storage.describe(self.path)} belongs to run {metadata['run']}, "
                f"not {self.run_key}; delete it to start this run anew"
            )
        return RunState.from_json(json.loads(metadata["state"])), tensors

    def clear(self) -> None:
        """Remove the checkpoint of a finished run, with anything a killed write left beside it."""
        self.storage.delete_folder(self.folder)


def _digest(tensors: Tensors) -> str:
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors whose names begin with `prefix/`, without it."""
    start = len(prefix) + 1
    return {
        name[start:]: tensor for name, tensor in tensors.items() if name.startswith(f"{prefix}/")
    }


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
