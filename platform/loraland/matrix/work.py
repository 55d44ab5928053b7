"""One cell with its data read and checked: each stage of its way, one method each.

Every stage leaves its result in storage before the next begins. Knows nothing of the order in which
cells are run, of records about them, or of Ray.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from loraland import settings
from loraland.adapters.card import Card, CurvePoint, DataStamp, Score, utc_now
from loraland.adapters.folder import content_hash, version_of
from loraland.adapters.names import ModelName
from loraland.adapters.registry import Registry
from loraland.bases.catalogue import Base
from loraland.bases.fingerprint import fingerprint, tokenizer_digest
from loraland.bases.inference import prepare_for_inference
from loraland.bases.loading import LoadedBase, find_base, find_folder, load_base, load_tokenizer
from loraland.errors import UnknownModel
from loraland.evaluation.exam import Exam
from loraland.evaluation.judge import judge
from loraland.matrix import provenance
from loraland.matrix.arithmetic import Products, products_on, training_products
from loraland.matrix.cell import Cell, CellEvent, CellResult, Loop, run_key
from loraland.matrix.judging import task_of
from loraland.storage import Storage
from loraland.tasks.sources import Split, load_split
from loraland.tasks.task import Item, Task
from loraland.training.checkpoint import CheckpointStore
from loraland.training.effect import measure_canary
from loraland.training.examples import Example
from loraland.training.gate import GateReport, inspect
from loraland.training.groups import with_groups
from loraland.training.loop import TrainedAdapter, train
from loraland.training.parallel import Devices, train_parallel
from loraland.training.strategies import StrategyName

OnEvent = Callable[[CellEvent], None]

WORKERS = "workers.json"  # of a parallel run, in its folder


@dataclass(frozen=True, slots=True)
class Work:
    """A cell with its data read and checked."""

    cell: Cell
    storage: Storage
    on_event: OnEvent
    device: str | None
    task: Task
    entry: Base
    train_split: Split
    test_split: Split
    report: GateReport
    key: str
    products: Products  # that it is trained on

    @classmethod
    def prepare(
        cls,
        cell: Cell,
        storage: Storage,
        on_event: OnEvent,
        device: str | None,
        loop: Loop = "plain",
    ) -> Work:
        """Read and check a cell's data. `loop` is the one that will train it.

        Raises DataRefused, BaseUnavailable, SourceUnavailable, and more.
        """
        on_event(CellEvent(cell.label, "data", 0, 0))
        entry, recipe, rehearsal = find_base(cell.base), cell.recipe, cell.data == "rehearsal"
        task = task_of(cell)
        train_split = load_split(
            task, "train", limit=cell.max_examples, seed=cell.seed, rehearsal=rehearsal
        )
        test_split = load_split(
            task, "test", limit=cell.max_items, seed=cell.seed, rehearsal=rehearsal
        )
        on_event(CellEvent(cell.label, "base", 0, 0, note="reading the base"))
        tokenizer = load_tokenizer(entry)
        report = inspect(
            task,
            train_split.items(),
            test_split.items(),
            tokenizer,
            held_out=rest_of(test_split),
            max_length=min(recipe.max_length, entry.context_tokens),
            drop_long=recipe.too_long == "drop",
            drop_overlap=recipe.overlap == "drop",
        )
        report.require_pass(task.name)
        products = products_on(device, loop)
        key = run_key(
            cell,
            task,
            fingerprint(find_folder(entry)),
            tokenizer_digest(tokenizer),
            train_split.fingerprint,
            test_split.fingerprint,
            loop,
            products,
        )
        splits = train_split, test_split
        return cls(cell, storage, on_event, device, task, entry, *splits, report, key, products)

    @property
    def folder(self) -> str:
        """Of the run, below the storage root."""
        return f"runs/{self.key}"

    def tell(self, stage: str, done: int, total: int, point: CurvePoint | None = None) -> None:
        """Say how far a stage is."""
        losses = (None, None) if point is None else (point.train_loss, point.validation_loss)
        self.on_event(CellEvent(self.cell.label, stage, done, total, *losses))

    def finished_model(self) -> ModelName | None:
        """The adapter that this run published before, if it still is in the registry."""
        if not self.storage.exists(f"{self.folder}/result.json"):
            return None
        name = ModelName.parse(self.storage.read_json(f"{self.folder}/result.json")["model"])
        try:
            return Registry(self.storage).resolve(name)
        except UnknownModel:
            return None

    @property
    def checkpoints(self) -> CheckpointStore:
        """Of its training; cleared when the adapter is published."""
        return CheckpointStore(self.storage, f"{self.folder}/checkpoint", self.key)

    def load_base(self) -> LoadedBase:
        """The base at the precision of the recipe."""
        return load_base(self.entry, self.cell.recipe.precision, self.device)

    def examples(self) -> tuple[list[Example], list[Example]]:
        """(training, validation), with their groups where the recipe has any.

        Raises DataRefused when there are none that fit.
        """
        dro = self.cell.recipe.group_dro
        return split_validation(with_groups(self.report.examples, dro, self.storage), self.cell)

    def on_update(self, point: CurvePoint, total: int) -> None:
        """What a training loop calls after each update."""
        self.tell("train", point.step, total, point)

    def train_and_publish(self, base: LoadedBase) -> ModelName:
        """Train with the plain loop. Raises TrainingDiverged, NoEffect, StorageCorrupt."""
        training, validation = self.examples()
        with (
            training_products(base),
            tempfile.TemporaryDirectory(prefix="loraland-") as place,
        ):
            trained = train(
                base,
                training,
                validation,
                self.cell.recipe,
                Path(place) / "adapter",
                seed=self.cell.seed,
                checkpoints=self.checkpoints,
                on_update=self.on_update,
            )
            return self.publish(base, trained)

    def train_on_workers(
        self, devices: Devices, strategy: StrategyName, place: Path
    ) -> TrainedAdapter:
        """Train on several devices of the connected Ray cluster, into a folder below `place`.

        Once that was done the result is only fetched, until the checkpoints are cleared.
        """
        training, validation = self.examples()
        self._note_workers(f"{devices.count} workers ({strategy})")
        return train_parallel(
            self.cell.base,
            training,
            validation,
            self.cell.recipe,
            place / "adapter",
            seed=self.cell.seed,
            devices=devices,
            strategy=strategy,
            storage_uri=settings.storage_uri(),
            checkpoints=self.checkpoints.folder,
            run_key=self.key,
            on_update=self.on_update,
        )

    def workers(self) -> list[str]:
        """Who has trained the run: workers and how they shared, one entry for each change."""
        try:
            found: list[str] = self.storage.read_json(f"{self.folder}/{WORKERS}")["workers"]
        except FileNotFoundError:
            return []
        return found

    def _note_workers(self, who: str) -> None:
        """Put down who trains from here on; before training, so that a kill hides nobody."""
        known = self.workers()
        if known[-1:] != [who]:
            self.storage.write_json(f"{self.folder}/{WORKERS}", {"workers": [*known, who]})

    def publish(self, base: LoadedBase, trained: TrainedAdapter) -> ModelName:
        """Check that an adapter does anything, and put it into the registry. Raises NoEffect."""
        self.tell("publish", 0, 1)
        training, validation = self.examples()
        first = validation[0]
        canary = measure_canary(base, trained.folder, first.ids[: first.prompt_tokens])
        card = self._card(base, trained, len(training), len(validation), canary=canary)
        name = Registry(self.storage).publish(trained.folder, card)
        self.storage.write_json(f"{self.folder}/result.json", {"model": str(name)})
        return name

    def _card(
        self,
        base: LoadedBase,
        trained: TrainedAdapter,
        train_rows: int,
        validation_rows: int,
        **parts: object,
    ) -> Card:
        commit, dirty = provenance.git_state()
        return Card(
            base=self.entry.name,
            base_fingerprint=base.fingerprint,
            hub_id=self.entry.hub_id,
            precision=base.precision,
            task=self.task.name,
            version=version_of(content_hash(trained.folder)),
            recipe=self.cell.recipe.model_dump(mode="json"),
            seed=self.cell.seed,
            data=DataStamp(
                fingerprint=self.train_split.fingerprint,
                source=self.train_split.source,
                train_rows=train_rows,
                validation_rows=validation_rows,
                dropped_long=self.report.dropped_long,
                dropped_overlap=self.report.dropped_overlap,
            ),
            curve=trained.curve,
            best_step=trained.best_step,
            packages=provenance.package_versions(),
            git_commit=commit,
            git_dirty=dirty,
            hardware=self._hardware(),
            created=utc_now(),
            **parts,  # type: ignore[arg-type]
        )

    def _hardware(self) -> str:
        """The machine, and of what else the last digits of the weights depend."""
        products = ["products by oneDNN"] if self.products == "onednn" else []
        workers = [f"trained by {', then '.join(who)}"] if (who := self.workers()) else []
        return "; ".join([provenance.hardware(), *products, *workers])

    def exam(self, name: ModelName) -> Exam:
        """The items that its adapter and its base are judged on."""
        card = Registry(self.storage).card(name)
        fingerprint, precision = card.base_fingerprint, card.precision
        return Exam.of(self.task, self.test_split, self.entry.name, fingerprint, precision)

    def stored_score(self, name: ModelName) -> Score | None:
        """The score on these very items, when the card has it and its samples are there."""
        path = self.exam(name).path(name.version)
        scores = Registry(self.storage).card(name).scores
        found = [score for score in scores if score.samples == path]
        return found[0] if found and self.storage.exists(path) else None

    def judge(self, base: LoadedBase, name: ModelName) -> Score:
        """Ask base and adapter all items; the base is fit for inference only, afterwards."""
        registry = Registry(self.storage)
        prepare_for_inference(base)
        with tempfile.TemporaryDirectory(prefix="loraland-") as place:
            folder = registry.fetch(name, Path(place))
            score = judge(
                base,
                folder,
                str(name.version),
                self.exam(name),
                self.storage,
                on_answer=lambda done, total: self.tell("judge", done, total),
            )
        registry.put_card(name, registry.card(name).with_score(score))
        return score

    def result(self, name: ModelName, score: Score, *, trained: bool) -> CellResult:
        """What the finished cell leaves."""
        warnings = tuple(str(finding) for finding in self.report.warnings)
        return CellResult(self.cell.label, str(name), score, self.folder, trained, warnings)


def rest_of(split: Split) -> list[Item]:
    """The items of a finite test split that the cell is not judged on, but others may be.

    Train and test rows of a generator are disjoint by construction.
    """
    if split.source.startswith(("generator:", "rehearsal:")):
        return []
    return load_split(split.task, "test", limit=None).items()[len(split.rows) :]


def split_validation(
    examples: Sequence[Example], cell: Cell
) -> tuple[list[Example], list[Example]]:
    """(training, validation): a seeded sample is held out of the train split, at most a fifth of
    it.

    The only example of a data set of one serves as both.
    """
    order = list(range(len(examples)))
    random.Random(f"validation/{cell.seed}").shuffle(order)
    held = max(1, min(cell.recipe.validation_examples, len(order) // 5))
    validation = [examples[index] for index in order[:held]]
    return [examples[index] for index in order[held:]] or validation, validation
