"""Our LSTM layer beside torch.nn.LSTM and beside the same cell in plain autograd, in one run.

    python -m benchmarks.recurrent --out benchmarks/results/recurrent.json

Forward and backward over 100 steps of a batch of 32, as many inputs as hidden numbers, gradients of
the weights and of the input. Rounds take turns, so that all meet the same machine. torch's cell has
4 products with the recurrent state where ours, with full peepholes, has 7. Memory is what autograd
holds between forward and backward, and the most that is allocated on the way, above the weights
and the input; both from torch's own allocator. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.report import report
from loraland.recurrent.modules import AugmentedLSTM, VanillaLSTM
from loraland.recurrent.plain import plain_lstm
from loraland.recurrent.scan import Plan

STEPS, ROWS = 100, 32
MIB = 1 << 20

Forward = Callable[[Tensor], Tensor]


def contestants(hidden: int) -> dict[str, tuple[Forward, list[nn.Parameter]]]:
    """What is measured, by name: what makes the output, and its weights."""
    torch.manual_seed(0)
    vanilla, theirs = VanillaLSTM(hidden, hidden), nn.LSTM(hidden, hidden)
    augmented = AugmentedLSTM(hidden, hidden, hidden // 2, 3)
    plan, zero = Plan((ROWS,) * STEPS), torch.zeros(ROWS, hidden)
    return {
        "torch_lstm": (lambda x: theirs(x)[0], list(theirs.parameters())),
        "vanilla": (lambda x: vanilla(x)[0], list(vanilla.parameters())),
        "plain_autograd": (
            lambda x: plain_lstm(x, zero, zero, vanilla.weights(), plan)[0],
            list(vanilla.parameters()),
        ),
        "augmented": (lambda x: augmented(x)[0], list(augmented.parameters())),
    }


def timed(forward: Forward, x: Tensor) -> tuple[float, float]:
    """Milliseconds of the forward and of the backward pass."""
    begun = time.perf_counter()
    loss = forward(x).square().mean()
    middle = time.perf_counter()
    loss.backward()
    return 1000 * (middle - begun), 1000 * (time.perf_counter() - middle)


def memory_mib(forward: Forward, x: Tensor) -> dict[str, float]:
    """What is held between forward and backward, and the peak over both."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        loss = forward(x).square().mean()
        with torch.profiler.record_function("between"):
            pass
        loss.backward()
    marks = [e for e in seen.profiler.kineto_results.events() if e.name() == "between"]
    between = marks[0].start_ns()
    held, most, now = 0, 0, 0
    changes = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(changes, key=lambda e: e.start_ns()):
        now += event.nbytes()
        most = max(most, now)
        if event.start_ns() <= between:
            held = now
    return {"held_mib": round(held / MIB, 1), "peak_mib": round(most / MIB, 1)}


def measure(hidden: int, rounds: int, plain_rounds: int) -> dict[str, Any]:
    """Medians of all contestants at one size."""
    found: dict[str, list[tuple[float, float]]] = {}
    all_of_them = contestants(hidden)
    x = torch.randn(STEPS, ROWS, hidden, requires_grad=True)
    for number in range(rounds + 1):  # the first warms up
        for name, (forward, weights) in all_of_them.items():
            if name == "plain_autograd" and number > plain_rounds:
                continue
            x.grad = None
            for weight in weights:
                weight.grad = None
            took = timed(forward, x)
            if number:
                found.setdefault(name, []).append(took)
    line: dict[str, Any] = {}
    for name, (forward, _) in all_of_them.items():
        forwards, backwards = zip(*found[name], strict=True)
        both = [sum(pair) for pair in found[name]]
        line[name] = {
            "forward_ms": round(statistics.median(forwards), 2),
            "backward_ms": round(statistics.median(backwards), 2),
            "ms": round(statistics.median(both), 2),
            "fastest_ms": round(min(both), 2),
            **memory_mib(forward, x),
        }
        print(hidden, name, line[name], file=sys.stderr, flush=True)
    ours = line["vanilla"]
    line["ratios"] = {
        "vanilla_over_torch_lstm": round(ours["ms"] / line["torch_lstm"]["ms"], 3),
        "plain_autograd_over_vanilla": round(line["plain_autograd"]["ms"] / ours["ms"], 3),
        "plain_held_over_vanilla": round(line["plain_autograd"]["held_mib"] / ours["held_mib"], 3),
    }
    return line


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--plain-rounds", type=int, default=7, help="of plain autograd")
    parser.add_argument("--threads", type=int, help="of torch; by default all cores")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    found = {str(h): measure(h, options.rounds, options.plain_rounds) for h in options.hidden}
    setting = f"{STEPS} steps, {ROWS} rows, fp32, inputs as many as hidden numbers"
    report("recurrent", {"setting": setting, "hidden": found}, options.out)


if __name__ == "__main__":
    main()
