"""Captures a computation as a CUDA graph. The thin edge of `graphs`; knows nothing of passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from loraland.engine.graphs import Capture, Output
from loraland.engine.paged import PagedKv


def capture_for(kv: PagedKv) -> Capture | None:
    """What captures passes over this cache; None on a CPU, and where no kernel reads in place.

    Without one a captured pass would copy as many blocks as a context has, for every row.
    """
    if kv.device.type != "cuda" or kv.kernel is None or not kv.kernel.in_place:
        return None
    return cuda_capture(kv.device)


def cuda_capture(device: torch.device) -> Capture:
    """What captures on this device; all graphs share one pool of memory.

    They may: one is replayed at a time, and what it leaves is read before the next.
    """
    pool: Any = torch.cuda.graph_pool_handle()

    def capture(run: Callable[[], Output]) -> Callable[[], Output]:
        _warm(run, device)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the GPU meanwhile; only this one's calls are recorded, or refused.
        with (
            torch.cuda.device(device),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
        ):
            output = run()

        def replay() -> Output:
            graph.replay()
            return output

        return replay

    return capture


def _warm(run: Callable[[], Output], device: torch.device) -> None:
    """Once outside of a graph: libraries load, kernels are compiled, plans are made.

    On a stream of its own, as capturing wants it: https://docs.pytorch.org/docs/stable/notes/cuda.html
    """
    present = torch.cuda.current_stream(device)
    beside: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    beside.wait_stream(present)
    with torch.cuda.stream(beside):
        run()
    present.wait_stream(beside)
