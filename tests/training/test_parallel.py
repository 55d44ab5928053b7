"""One run over several workers: its parts alone, and on a real local cluster."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import distributed

from loraland.adapters.card import CurvePoint
from loraland.adapters.folder import CONFIG, WEIGHTS, content_hash
from loraland.bases.tiny import load_tiny, write_tiny
from loraland.errors import CheckpointMismatch, InvalidConfiguration, TrainingDiverged
from loraland.storage import Storage
from loraland.tasks.task import Item
from loraland.training.checkpoint import CheckpointStore
from loraland.training.examples import Example, encode
from loraland.training.loop import TrainedAdapter, train
from loraland.training.parallel import Devices, train_parallel
from loraland.training.recipe import Recipe, get_recipe
from loraland.training.shares import shares
from loraland.training.strategies import INSTALL_DEEPSPEED, StrategyName, check_strategy
from loraland.training.worker import Job, Stopped, Workers, train_worker

# 16 examples, 5 in an update: the last of an epoch has one, so that most workers have none.
RECIPE = get_recipe(
    "quick",
    precision="fp32",
    dropout=0.0,
    rank=4,
    learning_rate=0.01,
    examples_per_update=5,
    micro_batch_tokens=64,
    max_epochs=2,
    evaluate_every=2,
    checkpoint_every=2,
)
UPDATES = 8
CLOSE = (1e-4, 1e-4)  # of losses (up to 16) and weights; sums come in another order
WIDE_RECIPE = RECIPE.model_copy(update={"learning_rate": 0.001, "gradient_checkpointing": True})


class Killed(BaseException):
    """Stands for a caller that is lost."""


@pytest.fixture
def examples(tiny_folders: dict[str, Path]) -> list[Example]:
    tokenizer = load_tiny("llama", tiny_folders["llama"]).tokenizer
    found = [encode(Item(f"Double {n}:", str(2 * n), {}), tokenizer) for n in range(20)]
    return [example for example in found if isinstance(example, Example)]


def plain(base: Path, examples: list[Example], folder: Path, recipe: Recipe) -> TrainedAdapter:
    loaded = load_tiny("llama", base, recipe.precision)
    return train(loaded, examples[:16], examples[16:], recipe, folder)


def parallel(
    base: Path,
    examples: list[Example],
    place: Path,
    strategy: StrategyName,
    count: int = 2,
    recipe: Recipe = RECIPE,
    key: str = "a",
    die_at: int | None = None,
    on_update: Any = None,
) -> TrainedAdapter:
    def watch(point: CurvePoint, total: int) -> None:
        if on_update is not None:
            on_update(point, total)
        if point.step == die_at:
            raise Killed

    return train_parallel(
        str(base),
        examples[:16],
        examples[16:],
        recipe,
        place / "adapter",
        devices=Devices(count, cpus=0.5),
        strategy=strategy,
        storage_uri=str(place / "storage"),
        checkpoints="runs/a/checkpoint",
        run_key=key,
        on_update=watch,
    )


def assert_same(
    found: TrainedAdapter, expected: TrainedAdapter, loss_tolerance: float, weight_tolerance: float
) -> None:
    """The same curve and best update, and weights of the same names, shapes and types."""
    for one, other in zip(found.curve, expected.curve, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, abs=loss_tolerance)
        assert (one.validation_loss is None) == (other.validation_loss is None)
        if other.validation_loss is not None:
            assert one.validation_loss == pytest.approx(other.validation_loss, abs=loss_tolerance)
        assert (one.step, one.tokens, one.learning_rate) == (
            other.step,
            other.tokens,
            other.learning_rate,
        )
    assert (found.best_step, found.stopped_early) == (expected.best_step, expected.stopped_early)
    assert (found.folder / CONFIG).read_bytes() == (expected.folder / CONFIG).read_bytes()
    mine, theirs = load_file(found.folder / WEIGHTS), load_file(expected.folder / WEIGHTS)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert mine[name].dtype == tensor.dtype
        torch.testing.assert_close(mine[name], tensor, atol=weight_tolerance, rtol=0)


def needs_deepspeed(strategy: str) -> None:
    if strategy != "ddp" and find_spec("deepspeed") is None:
        pytest.skip(f"DeepSpeed is not installed: {INSTALL_DEEPSPEED}")


# How an update is shared out


@given(
    lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40),
    workers=st.integers(1, 9),
    rows=st.integers(1, 8),
    tokens=st.integers(1, 600),
)
def test_every_example_is_dealt_once_and_all_workers_pass_equally_often(
    lengths: list[int], workers: int, rows: int, tokens: int
) -> None:
    recipe = RECIPE.model_copy(update={"micro_batch_examples": rows, "micro_batch_tokens": tokens})
    dealt = shares(list(range(len(lengths))), lengths, recipe, workers)
    assert len(dealt) == workers
    assert sorted(i for groups in dealt for group in groups for i in group) == list(
        range(len(lengths))
    )
    assert len({len(groups) for groups in dealt}) == 1
    counts = [sum(map(len, groups)) for groups in dealt]
    assert max(counts) - min(counts) <= 1
    for groups in dealt:
        for group in groups:
            assert len(group) <= rows
            assert len(group) <= 1 or len(group) * max(lengths[i] for i in group) <= tokens


# What cannot be is refused before anything is started


def test_what_is_not_possible_is_refused_with_what_is() -> None:
    check_strategy("ddp")
    with pytest.raises(InvalidConfiguration, match="possible: ddp, zero2, zero3"):
        check_strategy("fsdp")
    with pytest.raises(InvalidConfiguration, match="0 workers with 1 CPUs"):
        Devices(0)
    with pytest.raises(InvalidConfiguration, match="2 GPUs each"):
        Devices(1, gpus=2)


def test_without_deepspeed_the_error_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loraland.training.strategies.find_spec", lambda name: None)
    with pytest.raises(InvalidConfiguration, match=r"pip install .*deepspeed==0\.19\.8"):
        check_strategy("zero2")


# The worker's part, as the only one


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Workers]:
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1
    )
    yield Workers(0, 1, torch.device("cpu"))
    distributed.destroy_process_group()


def job(base: Path, storage: Path, recipe: Recipe = RECIPE) -> Job:
    values = recipe.model_dump(mode="json")
    threads = torch.get_num_threads()
    return Job(str(base), values, 0, "ddp", str(storage), "runs/a/checkpoint", "a", threads)


def test_one_worker_alone_does_what_the_plain_loop_does(
    alone: Workers, tiny_folders: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    expected = plain(tiny_folders["llama"], examples, tmp_path / "plain", RECIPE)
    told: list[int] = []

    def tell(point: CurvePoint, total: int) -> bool:
        told.append(point.step)
        return point.step < 5

    orders = job(tiny_folders["llama"], tmp_path / "storage")
    with pytest.raises(Stopped):
        train_worker(orders, alone, examples[:16], examples[16:], tell)
    assert told == [1, 2, 3, 4, 5]  # the next one was computed and thrown away
    train_worker(orders, alone, examples[:16], examples[16:], lambda *_: True)
    # The caller finds the adapter in storage and starts no worker.
    found = parallel(tiny_folders["llama"], examples, tmp_path, "ddp")
    assert_same(found, expected, *CLOSE)
    with pytest.raises(CheckpointMismatch, match="holds the adapter of run a, not b"):
        parallel(tiny_folders["llama"], examples, tmp_path, "ddp", key="b")


def test_the_plain_loop_goes_on_from_a_worker_s_checkpoint(
    alone: Workers, tiny_folders: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    expected = plain(tiny_folders["llama"], examples, tmp_path / "plain", RECIPE)
    orders = job(tiny_folders["llama"], tmp_path / "storage")
    with pytest.raises(Stopped):
        train_worker(orders, alone, examples[:16], examples[16:], lambda p, _: p.step < 4)
    store = CheckpointStore(Storage.open(orders.storage_uri), orders.checkpoints, "a")
    base = load_tiny("llama", tiny_folders["llama"])
    found = train(base, examples[:16], examples[16:], RECIPE, tmp_path / "x", checkpoints=store)
    assert_same(found, expected, *CLOSE)


def test_dropout_of_a_resumed_run_is_that_of_a_whole_one(
    alone: Workers, tiny_folders: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    recipe = RECIPE.model_copy(update={"dropout": 0.3, "max_epochs": 1})
    base = tiny_folders["llama"]
    ends = []
    for name, die_at in (("whole", None), ("resumed", 3)):
        orders = job(base, tmp_path / name / "storage", recipe)
        if die_at is not None:
            with pytest.raises(Stopped):
                train_worker(orders, alone, examples[:16], examples[16:], lambda p, _: p.step < 3)
        train_worker(orders, alone, examples[:16], examples[16:], lambda *_: True)
        ends.append(parallel(base, examples, tmp_path / name, "ddp", recipe=recipe))
    assert content_hash(ends[0].folder) == content_hash(ends[1].folder)
    without = recipe.model_copy(update={"dropout": 0.0})
    other = plain(base, examples, tmp_path / "without", without)
    assert other.curve[-1].train_loss != pytest.approx(ends[0].curve[-1].train_loss, abs=CLOSE[0])


# Several workers on a cluster


@pytest.fixture(scope="session")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base with matrices so large that ZeRO-3 releases them between uses."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = write_tiny("llama", tmp_path_factory.mktemp("wide") / "tiny-llama")
    config = AutoConfig.from_pretrained(folder)
    config.hidden_size, config.intermediate_size, config.head_dim = 512, 512, 128
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "precision", "tolerances"),
    [
        ("ddp", "fp32", CLOSE),
        pytest.param("zero2", "fp32", CLOSE, marks=pytest.mark.long),
        ("zero3", "fp32", CLOSE),
        pytest.param("ddp", "nf4", CLOSE, marks=pytest.mark.long),
        pytest.param("zero2", "nf4", CLOSE, marks=pytest.mark.long),
        pytest.param("zero3", "nf4", CLOSE, marks=pytest.mark.long),
        # Gradients that meet in bf16 are added in another order, which 8 bits tell: 1 % of each.
        pytest.param("zero3", "bf16", (0.3, 0.004), marks=pytest.mark.long),
    ],
)
def test_two_workers_give_the_losses_of_one_process(
    ray_cluster: Any,
    wide: Path,
    examples: list[Example],
    tmp_path: Path,
    strategy: StrategyName,
    precision: str,
    tolerances: tuple[float, float],
) -> None:
    needs_deepspeed(strategy)
    recipe = WIDE_RECIPE.model_copy(update={"precision": precision})
    expected = plain(wide, examples, tmp_path / "plain", recipe)
    told: list[tuple[int, int]] = []
    found = parallel(
        wide,
        examples,
        tmp_path,
        strategy,
        recipe=recipe,
        on_update=lambda point, total: told.append((point.step, total)),
    )
    assert told == [(step, UPDATES) for step in range(1, UPDATES + 1)]
    assert_same(found, expected, *tolerances)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_run_goes_on_under_other_strategies_and_with_other_numbers_of_workers(
    ray_cluster: Any, wide: Path, examples: list[Example], tmp_path: Path
) -> None:
    needs_deepspeed("zero3")
    expected = plain(wide, examples, tmp_path / "plain", WIDE_RECIPE)
    for strategy, count, die_at in (("zero3", 2, 3), ("zero2", 3, 5), ("zero3", 3, 7)):
        with pytest.raises(Killed):
            parallel(wide, examples, tmp_path, strategy, count, WIDE_RECIPE, die_at=die_at)  # type: ignore[arg-type]
        kept = CheckpointStore(
            Storage.open(str(tmp_path / "storage")), "runs/a/checkpoint", "a"
        ).load()
        assert kept is not None
        assert kept[0].update == die_at - 1  # every second update is kept
    found = parallel(wide, examples, tmp_path, "ddp", 1, WIDE_RECIPE)
    assert_same(found, expected, *CLOSE)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.long
def test_a_worker_that_is_killed_costs_nothing_but_time(
    ray_cluster: Any, tiny_folders: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    base = tiny_folders["llama"]
    expected = plain(base, examples, tmp_path / "plain", RECIPE)
    killed: list[int] = []
    seen: list[int] = []

    def kill_once(point: CurvePoint, total: int) -> None:
        seen.append(point.step)
        if point.step == 3 and not killed:
            victims = [
                process
                for process in psutil.Process().children(recursive=True)
                if "RayTrainWorker" in " ".join(process.cmdline())
            ]
            victims[-1].send_signal(signal.SIGKILL)
            killed.append(point.step)

    found = parallel(base, examples, tmp_path, "ddp", on_update=kill_once)
    assert killed == [3]
    assert seen == [1, 2, 3, 3, 4, 5, 6, 7, 8]
    assert_same(found, expected, *CLOSE)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_that_diverges_says_why_and_is_not_tried_again(
    ray_cluster: Any, tiny_folders: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    base = load_tiny("llama", tiny_folders["llama"])
    with torch.no_grad():
        base.model.get_output_embeddings().weight[5, 5] = math.nan
    base.model.save_pretrained(tmp_path / "broken")
    base.tokenizer.save_pretrained(tmp_path / "broken")
    with pytest.raises(TrainingDiverged, match="the loss is nan at update 1"):
        parallel(tmp_path / "broken", examples, tmp_path, "ddp")


@pytest.mark.ray
@pytest.mark.slow
def test_a_tune_trial_can_train_over_several_workers_and_reports_every_update(
    ray_cluster: Any, tiny_folders: dict[str, Path], examples: list[Example], tmp_path: Path
) -> None:
    from ray import tune
    from ray.tune.logger import JsonLoggerCallback

    base = tiny_folders["llama"]
    expected = plain(base, examples, tmp_path / "plain", RECIPE)

    def trial(config: dict[str, Any]) -> None:
        def report(point: CurvePoint, total: int) -> None:
            tune.report({"step": point.step, "loss": point.train_loss})

        found = parallel(base, examples, tmp_path, "ddp", on_update=report)
        tune.report({"step": UPDATES, "curve": json.dumps([p.train_loss for p in found.curve])})

    results = tune.Tuner(
        tune.with_resources(trial, {"cpu": 0.1}),
        run_config=tune.RunConfig(
            storage_path=str(tmp_path / "tune"),
            callbacks=[JsonLoggerCallback()],  # the rest of the suite turns the automatic ones off
            verbose=0,
        ),
    ).fit()
    assert results.num_errors == 0
    frame = results[0].metrics_dataframe
    assert list(frame["step"]) == [*range(1, UPDATES + 1), UPDATES]
    losses = json.loads(results[0].metrics["curve"])
    assert losses == pytest.approx([p.train_loss for p in expected.curve], abs=CLOSE[0])
