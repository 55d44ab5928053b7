"""One run over several workers, through Ray Train: gloo on CPUs, NCCL on GPUs.

The same recipe, data order, losses and folder as the plain loop. Everything that must last lies in
our storage, so that workers, or the caller, may be lost at any moment; the run goes on with any
number of workers. Knows Ray; what a worker does stands in `worker`.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loraland import settings
from loraland.adapters.card import CurvePoint
from loraland.adapters.folder import CONFIG, WEIGHTS
from loraland.bases.loading import find_base
from loraland.errors import CheckpointMismatch, InvalidConfiguration, error_of
from loraland.storage import Storage
from loraland.training.examples import Example
from loraland.training.loop import OnUpdate, TrainedAdapter
from loraland.training.recipe import Recipe
from loraland.training.strategies import StrategyName, check_strategy
from loraland.training.worker import MANIFEST, Job

RETRIES = 2  # of all workers together, after one of them or its machine was lost
POLL_S = 0.2  # how often the caller looks whether the workers have ended
STOP_S = 60.0  # how long it waits for workers that were told to stop

_News = tuple[int, dict[str, Any], int]  # number of the message, curve point, updates in all


@dataclass(frozen=True, slots=True)
class Devices:
    """What a run occupies beside its caller."""

    count: int  # workers
    cpus: float = 1  # of each
    gpus: float = 0  # of each: 0 or 1
    accelerator: str | None = None  # Ray's name of a GPU type, such as A10G; None: any

    def __post_init__(self) -> None:
        """Raises InvalidConfiguration."""
        if self.count < 1 or self.cpus <= 0 or self.gpus not in (0, 1):
            raise InvalidConfiguration(
                f"{self.count} workers with {self.cpus:g} CPUs and {self.gpus:g} GPUs each cannot "
                "be; possible: 1 worker or more, some share of a CPU, no GPU or one whole"
            )


def train_parallel(
    base: str,
    training: Sequence[Example],
    validation: Sequence[Example],
    recipe: Recipe,
    folder: Path,
    *,
    seed: int = 0,
    devices: Devices,
    strategy: StrategyName,
    storage_uri: str,
    checkpoints: str,
    run_key: str,
    on_update: OnUpdate | None = None,
) -> TrainedAdapter:
    """Train one adapter on the connected Ray cluster and write it to `folder`, as `train` does.

    `base` is a name of the catalogue, or a folder that all nodes see. Resumes from `checkpoints`
    (a folder below the storage root), which workers of any number, or the plain loop, wrote. May be
    called in a Tune trial: the workers come beside the trial, which should ask for next to nothing
    itself. `on_update` is called in the caller's thread, and the workers wait for it; after a
    worker was lost it sees the updates since the checkpoint again. Raises what `train` raises, and
    InvalidConfiguration, NotEnoughMemory, BaseUnavailable; ray.train.TrainingFailedError when
    workers were lost more than RETRIES times, after which the same call goes on.
    """
    check_strategy(strategy)
    storage = Storage.open(storage_uri)
    if storage.exists(f"{checkpoints}/{MANIFEST}"):  # the caller was lost after the workers' end
        return _fetch(storage, checkpoints, run_key, folder)
    job = Job(
        base=str(Path(base).expanduser().resolve()) if find_base(base).folder else base,
        recipe=recipe.model_dump(mode="json"),
        seed=seed,
        strategy=strategy,
        storage_uri=storage_uri if "://" in storage_uri else storage.root,
        checkpoints=checkpoints,
        run_key=run_key,
        threads=max(1, int(devices.cpus)),
    )
    _run_workers(job, training, validation, devices, storage, on_update)
    return _fetch(storage, checkpoints, run_key, folder)


def _run_workers(
    job: Job,
    training: Sequence[Example],
    validation: Sequence[Example],
    devices: Devices,
    storage: Storage,
    on_update: OnUpdate | None,
) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    with _mailbox() as mailbox:
        trainer = TorchTrainer(
            _on_worker,
            train_loop_config={
                "job": job._asdict(),
                "examples": ray.put((list(training), list(validation))),
                "mailbox": mailbox,
            },
            scaling_config=ScalingConfig(
                num_workers=devices.count,
                use_gpu=devices.gpus > 0,
                resources_per_worker={"CPU": devices.cpus, "GPU": devices.gpus},
                accelerator_type=devices.accelerator,
            ),
            run_config=RunConfig(
                name=f"{job.run_key}-{uuid.uuid4().hex[:6]}",
                storage_filesystem=storage.filesystem,
                storage_path=storage.locate(f"{job.checkpoints}/ray"),
                failure_config=FailureConfig(max_failures=RETRIES),
                worker_runtime_env={"env_vars": _environment(devices)},
            ),
        )
        fit = _Background(trainer.fit)
        try:
            while fit.is_running(0):
                news = ray.get(mailbox.take.remote(POLL_S))
                if news is None:
                    continue
                number, point, total = news
                if on_update is not None:
                    on_update(CurvePoint(**point), total)
                ray.get(mailbox.answer.remote(number))
        except BaseException:
            ray.get(mailbox.stop.remote())
            fit.is_running(STOP_S)
            raise
        outcome = fit.result().return_value
    if outcome is not None:
        raise error_of(outcome["code"], outcome["message"])


def _on_worker(config: dict[str, Any]) -> dict[str, str] | None:
    """The train function: returns an error that would only come again, raises any other.

    Ray Train starts all workers again after one that was raised.
    """
    import ray
    from ray.train import get_context
    from ray.train.torch import get_device

    from loraland.errors import LoraLandError
    from loraland.training.worker import Stopped, Workers, train_worker

    context = get_context()
    training, validation = ray.get(config["examples"])

    def tell(point: CurvePoint, total: int) -> bool:
        return bool(ray.get(config["mailbox"].put.remote(point.model_dump(), total)))

    try:
        train_worker(
            Job(**config["job"]),
            Workers(context.get_world_rank(), context.get_world_size(), get_device()),
            training,
            validation,
            tell,
        )
    except LoraLandError as error:
        return {"code": error.code, "message": error.message}
    except Stopped:
        pass  # the caller knows why
    return None


def _environment(devices: Devices) -> dict[str, str]:
    """The caller's places, and what DeepSpeed must know before it is imported."""
    places = {
        name: value
        for name in (settings.CACHE, settings.STORAGE)
        if (value := os.environ.get(name)) is not None
    }
    return places | ({} if devices.gpus else {"DS_ACCELERATOR": "cpu"})


class _Mailbox:
    """An actor between the first worker, which waits for an answer, and the caller, who gives it.

    Ray Train's own reports wait for its controller, which looks every two seconds: too slow for
    every update.
    """

    def __init__(self) -> None:
        self._news: asyncio.Queue[_News] = asyncio.Queue()
        self._answers: dict[int, asyncio.Future[bool]] = {}
        self._is_stopped = False

    async def put(self, point: dict[str, Any], total: int) -> bool:
        """Leave an update; returns, when the caller has seen it, whether more are wanted."""
        if self._is_stopped:
            return False
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._news.put((number, point, total))
        return await self._answers[number]

    async def take(self, wait_s: float) -> _News | None:
        """The next update, or None when there is none in that time."""
        try:
            return await asyncio.wait_for(self._news.get(), wait_s)
        except TimeoutError:
            return None

    async def answer(self, number: int) -> None:
        """More updates are wanted after that one."""
        if not self._answers[number].done():
            self._answers[number].set_result(True)

    async def stop(self) -> None:
        """No more updates are wanted."""
        self._is_stopped = True
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_result(False)


@contextmanager
def _mailbox() -> Iterator[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(num_cpus=0)(_Mailbox).options(scheduling_strategy=here).remote()
    try:
        yield actor
    finally:
        ray.kill(actor)


class _Background:
    """A call in a thread of its own; a daemon, so that it never keeps the caller from ending."""

    def __init__(self, call: Any) -> None:
        self._outcome: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(call,), daemon=True)
        self._thread.start()

    def _run(self, call: Any) -> None:
        try:
            self._outcome = call()
        except BaseException as error:
            self._error = error

    def is_running(self, wait_s: float) -> bool:
        """Whether the call still runs after at most that long."""
        self._thread.join(wait_s)
        return self._thread.is_alive()

    def result(self) -> Any:
        """What the call returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._outcome


def _fetch(storage: Storage, checkpoints: str, run_key: str, folder: Path) -> TrainedAdapter:
    """The finished adapter, from storage into a local folder."""
    manifest = storage.read_json(f"{checkpoints}/{MANIFEST}")
    if manifest["run"] != run_key:
        raise CheckpointMismatch(
            f"{storage.describe(checkpoints)} holds the adapter of run {manifest['run']}, "
            f"not {run_key}; delete it to start this run anew"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, WEIGHTS):
        (folder / name).write_bytes(storage.read(f"{checkpoints}/{name}"))
    curve = [CurvePoint(**point) for point in manifest["curve"]]
    return TrainedAdapter(folder, curve, manifest["best_step"], manifest["stopped_early"])
