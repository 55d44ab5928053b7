"""What int8 base layers on a CPU cost in quality and save in time, on real tasks with adapters.

    LORALAND_DATA=FOLDER python -m benchmarks.int8_quality --adapters STORAGE \
        --tasks viggo wikisql bc5cdr [--parts products agreement scores] [--cpu-time] [--out FILE]

`products`: milliseconds of each matrix product, and of all linear layers of the base in one pass.
`agreement`: base and adapter read the gold texts of held-out items; how often the likeliest next
token is that of fp32, and the Kullback-Leibler divergence from fp32 in nats per answer token, for
each way of rounding. `scores`: the tasks' own scores in fp32 and int8 on the same items, with the
paired difference. Prints one JSON line. One thread unless `--threads` says otherwise; `--cpu-time`
counts the thread's own time, for a machine that is busy with other work.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.int8_agreement import (
    Subject,
    measure_agreement,
    measure_canaries,
    measure_peaks,
)
from benchmarks.int8_candidates import replaced
from benchmarks.int8_speed import Clock, measure_products
from benchmarks.report import report
from loraland.adapters.registry import Registry
from loraland.bases.expansion import expand_for_inference
from loraland.bases.int8 import quantise_for_inference
from loraland.bases.int8_products import best_product, weight_levels
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.engine.batched import BatchedEngine
from loraland.engine.canary import COARSE
from loraland.engine.settings import EngineLimits
from loraland.engine.text import stop_token_ids
from loraland.errors import InvalidConfiguration
from loraland.evaluation.answering import answer
from loraland.evaluation.samples import Sample
from loraland.evaluation.statistics import mean_interval, paired_interval
from loraland.storage import Storage
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.training.examples import Example, encode

BASE = "smollm2-135m"


def subjects_of(
    base: LoadedBase, storage: Storage, tasks: Sequence[str], texts: int, into: Path
) -> list[Subject]:
    """The newest adapter of each task, and gold texts of its test split."""
    registry, found = Registry(storage), []
    for name in tasks:
        resolved = registry.resolve(f"{BASE}/{name}")
        card = registry.card(resolved)
        if card.base_fingerprint != base.fingerprint:
            raise InvalidConfiguration(f"{resolved} was trained on another base than {BASE}")
        if card.precision != base.precision:
            raise InvalidConfiguration(
                f"{resolved} was trained in {card.precision}, this run has {base.precision}"
            )
        split = load_split(get_task(name), "test", limit=2 * texts)
        encoded = [encode(item, base.tokenizer) for item in split.items()]
        examples = [e for e in encoded if isinstance(e, Example) and e.prompt_tokens > 1]
        folder = registry.fetch(resolved, into / name)
        found.append(Subject(name, folder, card, examples[:texts]))
    return found


async def ask(
    base: LoadedBase, subjects: Sequence[Subject], items: int
) -> dict[str, tuple[list[Sample], float]]:
    """The graded answers of each adapter to held-out items, and the seconds they took."""
    engine = BatchedEngine.of(base, EngineLimits(rows=32, pass_tokens=512), tolerance=COARSE)
    stops = stop_token_ids(base.tokenizer, base.model)
    found = {}
    try:
        for subject in subjects:
            task = get_task(subject.name)
            split = load_split(task, "test", limit=items)
            asked = [task.for_split("test").item(row) for row in split.rows]
            await engine.load(subject.name, subject.folder)
            begun = time.perf_counter()
            samples = await answer(engine, base.tokenizer, stops, task, asked, subject.name)
            found[subject.name] = (samples, time.perf_counter() - begun)
            print(subject.name, "asked", file=sys.stderr, flush=True)
        return found
    finally:
        await engine.close()


def measure_scores(base: LoadedBase, subjects: Sequence[Subject], items: int) -> dict[str, Any]:
    """The scores in fp32 and in int8 on the same items, the paired difference with its interval."""
    exact = asyncio.run(ask(base, subjects, items))
    with replaced(base, quantise_for_inference):
        rounded = asyncio.run(ask(base, subjects, items))
    found: dict[str, Any] = {}
    for name in exact:
        (theirs, their_s), (ours, our_s) = exact[name], rounded[name]
        our_scores, their_scores = ([s.score for s in samples] for samples in (ours, theirs))
        found[name] = {
            "items": len(ours),
            "metric": get_task(name).metric,
            "fp32": mean_interval(their_scores)._asdict(),
            "int8": mean_interval(our_scores)._asdict(),
            "int8_minus_fp32": paired_interval(our_scores, their_scores)._asdict(),
            "same_output": sum(a.output == b.output for a, b in zip(ours, theirs, strict=True)),
            "fp32_s": round(their_s, 1),
            "int8_s": round(our_s, 1),
        }
    return found


def measure(given: argparse.Namespace, clock: Clock) -> dict[str, Any]:
    """The parts that were asked for."""
    found: dict[str, Any] = {"product": best_product(), "levels": weight_levels(best_product())}
    if "products" in given.parts:
        found["products"] = measure_products(given.repeats, clock)
    if not {"agreement", "scores"} & set(given.parts):
        return found
    base = load_base(find_base(BASE), given.precision, "cpu")
    expand_for_inference(base)
    with tempfile.TemporaryDirectory() as place:
        storage = Storage.open(given.adapters)
        subjects = subjects_of(base, storage, given.tasks, given.texts, Path(place))
        found["adapters"] = {s.name: s.folder.name for s in subjects}
        if "agreement" in given.parts:
            found["peak_over_median"] = measure_peaks(base)
            found["canary_difference"] = measure_canaries(base, subjects)
            found["agreement"] = measure_agreement(base, subjects, given.attempts)
        if "scores" in given.parts:
            found["scores"] = measure_scores(base, subjects, given.items)
    return found


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    every = ["products", "agreement", "scores"]
    parser.add_argument("--parts", nargs="+", choices=every, default=every)
    parser.add_argument("--adapters", help="storage with adapters of the base, at one precision")
    parser.add_argument("--tasks", nargs="+", default=["viggo", "wikisql", "bc5cdr"])
    parser.add_argument("--precision", default="nf4", help="that the adapters were trained at")
    parser.add_argument("--texts", type=int, default=40, help="gold texts per task")
    parser.add_argument("--items", type=int, default=100, help="scored items per task")
    parser.add_argument("--attempts", nargs="*", default=[], help="of agreement; default all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    given = parser.parse_args()
    if given.adapters is None and given.parts != ["products"]:
        parser.error("--adapters is needed for agreement and scores")
    if given.cpu_time and given.threads != 1:
        parser.error("--cpu-time counts one thread; leave --threads at 1")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    clock = time.thread_time if given.cpu_time else time.perf_counter
    found = {"threads": given.threads, "clock": clock.__name__, **measure(given, clock)}
    report("int8_quality", found, given.out)


if __name__ == "__main__":
    main()
