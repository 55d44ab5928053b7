"""What a space will cost before it is run: device hours, wall-clock, money, and whether it fits.

From the catalogue, recipes and hardware.yaml, and from measured probes where there are some. Asks
no hub, reads no data, touches no device.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from loraland.bases.catalogue import Base, get_base
from loraland.matrix.cell import Cell
from loraland.matrix.hardware import (
    GIB,
    Cluster,
    Device,
    Probe,
    get_device,
    get_worker,
    nearest_probe,
    prices_as_of,
)
from loraland.matrix.memory import Memory, memory_of
from loraland.matrix.space import Demand, Space
from loraland.matrix.workload import (
    JUDGED_TOGETHER,
    Lengths,
    Work,
    lengths_of,
    sweeps,
    work_of,
)
from loraland.tasks.catalogue import get_task

# Bytes of device memory that one pass over the weights moves, per parameter. NF4: 4 bits are read,
# the dequantised weight is written in bf16 and read by the product.
MOVED_BYTES = {"fp32": 4.0, "bf16": 2.0, "nf4": 0.5 + 2 + 2}
DISK_BYTES = 2.0  # per parameter: published weights are 16-bit
TINY_LAYERS = 2


class CellForecast(NamedTuple):
    """What one cell will take."""

    cell: Cell
    work: Work
    start_s: float  # process, weights from disk to device
    train_s: float
    judge_s: float
    memory: Memory | None  # None: the base's shape is not known
    fits: bool | None  # on the cluster's device; None: not judged
    group: int | None  # most adapters side by side on that device; None: not judged
    lengths: Lengths
    basis: str  # "assumed for A10G" or "probe of ..."

    @property
    def seconds(self) -> float:
        """From the start of its trial to its score."""
        return self.start_s + self.train_s + self.judge_s


class BaseForecast(NamedTuple):
    """The cells of one base together."""

    base: str
    cells: int
    tokens: int  # trained
    flops: float
    hours: float  # of one trial's place
    usd: float
    peak_gib: float | None  # of the cell that needs most
    fits: bool | None  # all of them
    group: int | None  # most adapters side by side that fit whichever cells they are of
    basis: str


@dataclass(frozen=True, slots=True)
class Forecast:
    """The whole."""

    space: str
    cluster: Cluster
    cells: tuple[CellForecast, ...]
    bases: tuple[BaseForecast, ...]
    places: int  # trials that run at the same time
    hours: float  # of places, all cells together
    wall_hours: float
    usd: float  # of workers while they work, and of the head all along
    notes: tuple[str, ...]  # what the numbers rest on


def forecast(
    space: Space,
    cluster: Cluster,
    *,
    cells: Sequence[Cell] | None = None,
    probes: Iterable[Probe] = (),
) -> Forecast:
    """The forecast of some cells of a space (None: of all) on a cluster.

    No cell stops early in it. Wall-clock: the longest cell first, each to the place that is free
    soonest (list scheduling, Graham 1969: at most 4/3 of the best). Money: a worker costs while a
    place of it works, divided by its places; with autoscaling from zero, idle minutes come on top.
    Cells on a local folder are left out, with a note: nothing is known of it without reading it.
    Raises InvalidConfiguration for an unknown worker.
    """
    worker = get_worker(cluster.worker)
    device = get_device(worker.device)
    known = list(probes)
    chosen = space.cells if cells is None else cells
    found = tuple(forecast_cell(c, device, known) for c in chosen if not c.has_local_base)
    per_worker = _places_per_worker(space, worker.devices, worker.cpus, device)
    places = max(1, cluster.workers * per_worker)
    wall = schedule([one.seconds for one in found], places) / 3600
    price = worker.spot_usd_per_hour if cluster.spot else worker.usd_per_hour
    head = 0.0 if cluster.head is None else get_worker(cluster.head).usd_per_hour
    hours = sum(one.seconds for one in found) / 3600
    return Forecast(
        space=space.name,
        cluster=cluster,
        cells=found,
        bases=tuple(_of_base(found, name, price / per_worker) for name in _bases(found)),
        places=places,
        hours=hours,
        wall_hours=wall,
        usd=hours * price / per_worker + wall * head,
        notes=_notes(found, cluster, left_out=len(chosen) - len(found)),
    )


def forecast_cell(cell: Cell, device: Device, probes: Sequence[Probe] = ()) -> CellForecast:
    """One cell on one device.

    Seconds of training are tokens over the measured tokens/s of the nearest probe, times the ratio
    of parameters; evaluations go forward only, so their tokens count 1 / sweeps. Without a probe of
    the device, `pass_s` for each micro-batch.
    """
    base = get_base(cell.base)
    work, lengths = work_of(cell, base), lengths_of(cell, base)
    probe = _probe_for(base, device, probes)
    if probe is None:
        train_s, basis = _train_s(cell, base, device, work, lengths), f"assumed for {device.name}"
    else:
        speed = probe.tokens_per_s * get_base(probe.base).parameters / base.parameters
        forward = work.validation_tokens / sweeps(cell.recipe)
        train_s = (work.tokens + forward) / speed
        basis = f"probe of {probe.base} on {device.name}: {probe.tokens_per_s:g} tokens/s"
    memory = _memory(cell, base, lengths)
    capacity = None if device.memory_gib is None else device.memory_gib * GIB
    return CellForecast(
        cell=cell,
        work=work,
        start_s=device.start_s + DISK_BYTES * base.parameters / (device.read_gb_s * 1e9),
        train_s=train_s,
        judge_s=_judge_s(cell, base, device, work),
        memory=memory,
        fits=None if memory is None or capacity is None else memory.total <= capacity,
        group=None if memory is None or capacity is None else memory.largest_group(capacity),
        lengths=lengths,
        basis=basis,
    )


def pass_s(base: Base, precision: str, device: Device, tokens: float, directions: int) -> float:
    """Seconds of one micro-batch through all weights, so many times (`directions`).

    The larger of what the host needs to launch it (layers x launch_s x directions) and what the
    device needs: weights moved / bandwidth + 2 x parameters x tokens / (flops x efficiency), each
    times directions. Short micro-batches are ruled by the first two, which is why fusing pays.
    """
    layers = TINY_LAYERS if base.shape is None else base.shape.layers
    moved = base.parameters * MOVED_BYTES[precision] / (device.bandwidth_gb_s * 1e9)
    computed = 2.0 * base.parameters * tokens / (device.flops * device.efficiency)
    return directions * max(layers * device.launch_s, moved + computed)


def schedule(seconds: Iterable[float], places: int) -> float:
    """The time until all jobs are done: longest first, each to the place that is free soonest."""
    free = [0.0] * places
    for job in sorted(seconds, reverse=True):
        heapq.heappush(free, heapq.heappop(free) + job)
    return max(free)


def _train_s(cell: Cell, base: Base, device: Device, work: Work, lengths: Lengths) -> float:
    precision, together = cell.recipe.precision, work.examples / work.passes
    tokens = together * lengths.mean
    training = work.passes * pass_s(base, precision, device, tokens, sweeps(cell.recipe))
    return training + work.validation_passes * pass_s(base, precision, device, tokens, 1)


def _judge_s(cell: Cell, base: Base, device: Device, work: Work) -> float:
    """Adapter and base each read the prompts and generate in batches, a token a pass."""
    step = pass_s(base, cell.recipe.precision, device, JUDGED_TOGETHER, 1)
    reading = 2.0 * base.parameters * work.judged_tokens / (device.flops * device.efficiency)
    return 2 * reading + (work.judged_steps + work.base_steps) * step


def _memory(cell: Cell, base: Base, lengths: Lengths) -> Memory | None:
    """Of the largest micro-batch that may come, filled with the longest examples."""
    if base.shape is None:
        return None
    recipe = cell.recipe
    rows = max(1, min(recipe.micro_batch_examples, recipe.micro_batch_tokens // lengths.most))
    tokens = max(
        lengths.most, min(recipe.micro_batch_examples * lengths.most, recipe.micro_batch_tokens)
    )
    supervised = min(tokens, rows * get_task(cell.task).max_new_tokens)
    return memory_of(base, recipe, tokens=tokens, supervised=supervised)


def _probe_for(base: Base, device: Device, probes: Sequence[Probe]) -> Probe | None:
    names = {base.name, *(probe.base for probe in probes)}
    sizes = {name: get_base(name).parameters for name in names}
    return nearest_probe(probes, device.name, sizes, base.name)


def _places_per_worker(space: Space, devices: int, cpus: int, device: Device) -> int:
    """Trials that one worker holds, by the largest demand of the space's bases."""
    demands = [space.demands.get(base, Demand()) for base in space.bases]
    most_cpus = max((d.cpus for d in demands if d.cpus), default=None)
    by_cpus = cpus if most_cpus is None else math.floor(cpus / most_cpus)
    if device.name == "cpu":
        return max(1, by_cpus if most_cpus is not None else 1)
    gpus = max((d.gpus for d in demands if d.gpus is not None), default=1.0)
    return max(1, min(by_cpus, math.floor(devices / gpus)) if gpus else by_cpus)


def _bases(found: Iterable[CellForecast]) -> list[str]:
    return list(dict.fromkeys(one.cell.base for one in found))


def _of_base(found: Iterable[CellForecast], name: str, usd_per_hour: float) -> BaseForecast:
    ours = [one for one in found if one.cell.base == name]
    hours = sum(one.seconds for one in ours) / 3600
    peaks = [one.memory.total / GIB for one in ours if one.memory is not None]
    judged = [one for one in ours if one.fits is not None]
    return BaseForecast(
        base=name,
        cells=len(ours),
        tokens=sum(one.work.tokens for one in ours),
        flops=sum(one.work.flops for one in ours),
        hours=hours,
        usd=hours * usd_per_hour,
        peak_gib=max(peaks, default=None),
        fits=all(one.fits for one in judged) if judged else None,
        group=min((one.group for one in judged if one.group is not None), default=None),
        basis=ours[0].basis,
    )


def _notes(found: Sequence[CellForecast], cluster: Cluster, *, left_out: int) -> tuple[str, ...]:
    aside = [f"{left_out} cells on local folders are left out"] if left_out else []
    if not found:
        return tuple(aside or ["nothing is left to do"])
    estimated = {one.cell.task for one in found if one.lengths.source.startswith("estimated")}
    notes = [f"speed: {basis}" for basis in dict.fromkeys(one.basis for one in found)]
    notes.append(
        f"prices: about, {prices_as_of()}, us-west-2, "
        f"{'spot' if cluster.spot else 'on demand'}; idle minutes and disks come on top"
    )
    if estimated:
        notes.append(f"lengths of {len(estimated)} tasks are estimated, others were counted")
    if tight := sorted({one.cell.base for one in found if one.fits is False}):
        notes.append(f"does not fit the device's memory: {', '.join(tight)}")
    notes.append("no cell stops early here; early stops and fused groups take less")
    return tuple(notes + aside)
