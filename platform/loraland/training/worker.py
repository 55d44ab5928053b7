"""One worker of a run over several: the plain loop's run, with each update's examples shared out.

All workers go through the same updates and take every decision (health, best weights, early stop)
on the same sums, so that none waits for another that has stopped. The first one writes. Knows
torch.distributed and storage; of Ray only what `train_worker` is told.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import PeftModel, set_peft_model_state_dict
from torch import distributed

from loraland.adapters.card import CurvePoint
from loraland.adapters.folder import CONFIG, WEIGHTS
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.errors import LoraLandError, error_of
from loraland.storage import Storage
from loraland.training.adapter import add_adapter, write_adapter
from loraland.training.checkpoint import (
    CheckpointStore,
    RunState,
    Tensors,
    pack_random_state,
    under,
)
from loraland.training.examples import Example
from loraland.training.group_dro import GroupSums
from loraland.training.loop import advance
from loraland.training.recipe import Recipe
from loraland.training.robust import Robust
from loraland.training.schedule import best_evaluation, gains_no_more
from loraland.training.shares import shares
from loraland.training.strategies import Strategy, StrategyName, make_strategy

MANIFEST = "trained.json"  # in the checkpoint's folder, beside the adapter; written last


class Job(NamedTuple):
    """What every worker is told; plain values, since it travels."""

    base: str  # as `find_base` takes it; a folder must be one that all nodes see
    recipe: dict[str, Any]
    seed: int
    strategy: StrategyName
    storage_uri: str
    checkpoints: str  # the folder of the run's checkpoint, below the storage root
    run_key: str
    threads: int  # of torch, per worker


class Workers(NamedTuple):
    """This worker among all: the collective questions."""

    rank: int
    size: int
    device: torch.device

    def sums(self, *values: float) -> list[float]:
        """The sum of each value over all workers, added in the same order on every worker."""
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        distributed.all_gather(everyone, mine)
        return [float(total) for total in torch.stack(everyone).sum(0)]

    def first_error(self, error: LoraLandError | None) -> LoraLandError | None:
        """The error of the lowest rank that has one, on every worker."""
        everyone: list[tuple[str, str] | None] = [None] * self.size
        distributed.all_gather_object(everyone, error and (error.code, error.message))
        found = next((pair for pair in everyone if pair is not None), None)
        return error_of(*found) if found else None


class Stopped(Exception):
    """The caller wants no more updates."""


def train_worker(
    job: Job,
    workers: Workers,
    training: Sequence[Example],
    validation: Sequence[Example],
    tell: Callable[[CurvePoint, int], bool],
) -> None:
    """This worker's part of a run, from its newest checkpoint to the adapter in storage.

    `tell` gets each update on the first worker and answers whether to go on. Raises the same
    LoraLandError on every worker, or Stopped; any other error is one worker's own.
    """
    torch.set_num_threads(job.threads)
    recipe = Recipe(**job.recipe)
    found, error = _found(job, recipe, workers)
    if (agreed := workers.first_error(error)) is not None:
        raise agreed
    assert found is not None
    run = ShardedRun.start(job, recipe, workers, found, Robust.of(recipe, training))

    def on_update(point: CurvePoint, total: int) -> None:
        if workers.rank == 0:
            run.is_unwanted = not tell(point, total)

    store = found.checkpoints if workers.rank == 0 else _Nowhere()
    advance(run, training, validation, job.seed, store, on_update)
    if workers.rank == 0:
        run.publish(found.checkpoints, total=recipe.updates(len(training)))


class _Found(NamedTuple):
    """What a worker reads before the workers meet."""

    base: LoadedBase
    checkpoints: CheckpointStore
    resumed: tuple[RunState, Tensors] | None


def _found(
    job: Job, recipe: Recipe, workers: Workers
) -> tuple[_Found | None, LoraLandError | None]:
    """The base and the checkpoint, or the error that reading them gave."""
    try:
        store = CheckpointStore(Storage.open(job.storage_uri), job.checkpoints, job.run_key)
        resumed = store.load()
        base = load_base(find_base(job.base), recipe.precision, str(workers.device))
    except LoraLandError as error:
        return None, error
    return _Found(base, store, resumed), None


class _Nowhere:
    """The checkpoints of all workers but the first, which keeps them for all."""

    def save(self, state: RunState, tensors: Tensors) -> None:
        """Keep nothing."""


@dataclass(slots=True)
class ShardedRun:
    """One adapter in training on this worker and its peers."""

    recipe: Recipe
    seed: int
    vocabulary: int  # of the output
    model: PeftModel
    workers: Workers
    strategy: Strategy
    state: RunState
    best: Tensors = field(default_factory=dict)
    robust: Robust | None = None
    is_unwanted: bool = False  # known to the first worker only, until the next update

    @classmethod
    def start(
        cls, job: Job, recipe: Recipe, workers: Workers, found: _Found, robust: Robust | None
    ) -> ShardedRun:
        """From the beginning or from a checkpoint, whatever number of workers wrote that."""
        state, tensors = found.resumed or (RunState(), {})
        if workers.sums(state.update)[0] != state.update * workers.size:
            raise RuntimeError("the workers read different checkpoints; they must start again")
        vocabulary = int(found.base.model.get_output_embeddings().weight.shape[0])
        model = add_adapter(found.base, recipe, job.seed)
        if tensors:
            set_peft_model_state_dict(model, under("adapter", tensors))
        strategy = make_strategy(job.strategy, found.base, model, recipe, workers.device)
        strategy.load_moments(tensors)
        if robust is not None and tensors:
            robust.restore(tensors)
        best = under("best", tensors)
        return cls(recipe, job.seed, vocabulary, model, workers, strategy, state, best, robust)

    def step(self, groups: Sequence[Sequence[Example]], rate: float) -> float:
        """One update over all workers; returns the mean loss per example.

        Each worker draws its dropout masks from a stream of its own, which follows from seed,
        update and rank: a resumed run finds it again on the same number of workers, and another one
        on another.
        """
        examples = [example for group in groups for example in group]
        self.model.train()
        mine = self._mine(examples)
        part = self._robust(mine) if self.robust else self._alike(mine, len(examples))
        self.strategy.update(rate)
        loss, unwanted = self.workers.sums(part, float(self.is_unwanted))
        if self.robust is not None:
            loss /= len(examples)
        if unwanted:
            raise Stopped
        self.state.update += 1
        self.state.tokens += sum(len(example.ids) for example in examples)
        self.state.losses.append(loss)
        return loss

    def _alike(self, mine: Sequence[tuple[list[Example], float]], count: int) -> float:
        """Gradients of an update in which all examples count alike; this worker's part of it."""
        self._seed_dropout()
        return sum(
            self.strategy.accumulate(group, weight / count, is_last=number == len(mine))
            for number, (group, weight) in enumerate(mine, start=1)
        )

    def _robust(self, mine: Sequence[tuple[list[Example], float]]) -> float:
        """Gradients of an update weighed by groups; the summed loss of this worker's examples.

        Two passes with the same masks: what a group counts is known only when the losses of all
        workers are.
        """
        assert self.robust is not None
        self._seed_dropout()
        losses = [self.strategy.losses(group) for group, _ in mine]
        own = [number for number, (_, weight) in enumerate(mine) if weight]  # no company in them
        weighed = self.robust.weigh(
            [mine[n][0] for n in own], [losses[n] for n in own], self.workers.device
        )
        counts = dict(zip(own, weighed, strict=True))
        self._seed_dropout()
        for number, (group, _) in enumerate(mine):
            weights = counts.get(number, torch.zeros(len(group)))
            self.strategy.accumulate_each(group, weights, is_last=number == len(mine) - 1)
        return sum(float(losses[number].sum()) for number in own)

    def _seed_dropout(self) -> None:
        stream = random.Random(f"dropout/{self.seed}/{self.state.update}/{self.workers.rank}")
        torch.manual_seed(stream.getrandbits(63))

    def evaluate(self, validation: Sequence[Example]) -> float:
        """The mean loss per validation example; keeps the weights when it is the best so far."""
        self.model.eval()
        mine = self._mine(validation)
        if self.robust is not None:
            own = [group for group, weight in mine if weight]
            losses = [self.strategy.losses(group) for group, _ in mine][: len(own)]
            sums = self.robust.sums(own, losses)
            everyone = self.workers.sums(*sums.losses.tolist(), *sums.counts.tolist())
            total = torch.tensor(everyone, dtype=torch.float64).reshape(2, -1)
            loss = self.robust.worst(GroupSums(*total))
        else:
            parts = [self.strategy.evaluate(group) * weight for group, weight in mine]
            loss = self.workers.sums(sum(parts))[0] / len(validation)
        self.state.validation.append((self.state.update, loss))
        if best_evaluation(self.state.validation)[0] == self.state.update:
            self.best = self.strategy.weights()
        return loss

    def gains_no_more(self) -> bool:
        """Whether validation says that more updates would not help."""
        return bool(self.state.validation) and gains_no_more(
            self.state.validation, self.recipe.patience
        )

    def tensors(self) -> Tensors:
        """All that a checkpoint needs, gathered from all workers, in the plain loop's form."""
        return (
            {f"adapter/{name}": tensor for name, tensor in self.strategy.weights().items()}
            | {f"best/{name}": tensor for name, tensor in self.best.items()}
            | self.strategy.moments()
            | (self.robust.tensors() if self.robust else {})
            | pack_random_state()  # for a plain loop that resumes from here
        )

    def publish(self, checkpoints: CheckpointStore, total: int) -> None:
        """Put the adapter with the best weights beside the checkpoint, its manifest last."""
        storage, place = checkpoints.storage, checkpoints.folder
        with tempfile.TemporaryDirectory(prefix="loraland-") as folder:
            write_adapter(self.model, self.best, Path(folder))
            for name in (CONFIG, WEIGHTS):
                storage.write(f"{place}/{name}", (Path(folder) / name).read_bytes())
        storage.write_json(
            f"{place}/{MANIFEST}",
            {
                "run": checkpoints.run_key,
                "curve": [point.model_dump() for point in self.state.curve],
                "best_step": best_evaluation(self.state.validation)[0],
                "stopped_early": self.state.update < total,
            },
        )

    def _mine(self, examples: Sequence[Example]) -> list[tuple[list[Example], float]]:
        """This worker's micro-batches of these examples, each with what it counts.

        Where others have more, this one goes along with the shortest example, which counts nothing.
        """
        lengths = [len(example.ids) for example in examples]
        dealt = shares(list(range(len(examples))), lengths, self.recipe, self.workers.size)
        shortest = min(examples, key=lambda example: len(example.ids))
        return [
            ([examples[index] for index in group], 1.0) if group else ([shortest], 0.0)
            for group in dealt[self.workers.rank]
        ]
