"""Captures a computation as a CUDA graph would, on a CPU.

Every operation is recorded with the very tensors it met; a replay runs them again, without any
Python in between, and writes results where the first ones lay. What a graph forbids raises here
too: reading a tensor on the host, and bringing numbers from the host.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.utils import import_utils

aten = torch.ops.aten
FORBIDDEN = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.lift_fresh.default,
    aten.item.default,
}


class Tape(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in FORBIDDEN:
            raise RuntimeError(f"{func} is not permitted when stream is capturing")
        found = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, found))
        return found

    def replay(self):
        for func, args, kwargs, before in self.operations:
            for old, new in zip(
                tree_leaves(before), tree_leaves(func(*args, **kwargs)), strict=True
            ):
                if isinstance(old, torch.Tensor) and not _share(old, new):
                    old.copy_(new)


def _share(one, other):
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def capture(run):
    """A `Capture` for `DecodeGraphs`."""
    run()  # warm, as for a graph
    tape = Tape()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(import_utils, "is_cuda_stream_capturing", lambda: True)
        with tape:
            output = run()

    def replay():
        tape.replay()
        return output

    return replay
