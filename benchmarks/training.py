"""Trained tokens per second of the plain and the fused loop beside TRL's, in one run.

    make bench-training          # or: python -m benchmarks.training --rounds 3 --out FILE

Real rows of viggo and dbpedia (LORALAND_DATA) on the embedded base: LoRA of rank 8 on all linear
layers, no dropout, updates of 8 examples. TRL's SFTTrainer gets the same examples, tokenised
alike, in batches of 8, and its own defaults for the rest (`trl_tps`: bf16 autocast and gradient
checkpointing), or the fastest of its settings at the precision of the others (`trl_lean_tps`); it
needs `pip install trl`. Tokens are those of prompts and answers, never padding; time is that of the
updates, for all alike. The plain loop is also measured once without our products for frozen layers
(`plain_mkl_tps`). Eight short generated cells are measured in the same way (`*_short_tps`), and
with everything from reading the base to the written adapter: fused on a base that is loaded once,
and one after the other on a base that each loads. The measurements of a round follow one another;
each figure is the median over the rounds. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.report import Figures, report
from loraland.bases.loading import LoadedBase, find_base, load_base
from loraland.matrix.provenance import package_versions
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.training.examples import Example, encode
from loraland.training.fused import FusedMember, train_fused
from loraland.training.loop import TrainedAdapter, train
from loraland.training.products import fast_products
from loraland.training.recipe import Recipe, get_recipe

BASE = "smollm2-135m"
TASKS = ("viggo", "dbpedia")  # real rows
PARTS = 2  # cells that each task's rows are dealt to
SHORT_TASKS, SHORT_PARTS, SHORT_EXAMPLES = ("dates", "topics"), 4, 64  # 8 cells of 16 examples

TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl_tps": {},
    "trl_lean_tps": {"bf16": False, "gradient_checkpointing": False},
}
TRL_MISSING = "TRL is not installed, and trl_tps needs it: pip install trl (or leave it: --no-trl)"


def recipe_for(precision: str) -> Recipe:
    """What all are trained with."""
    return get_recipe("quick", precision=precision, evaluate_every=10_000)


def examples_of(base: LoadedBase, task: str, count: int, recipe: Recipe) -> list[Example]:
    """The first rows of a shuffled train split that are no longer than the recipe allows."""
    items = load_split(get_task(task), "train", limit=2 * count).items()
    found = [encode(item, base.tokenizer) for item in items]
    fit = [one for one in found if isinstance(one, Example) and len(one.ids) <= recipe.max_length]
    if len(fit) < count:
        sys.exit(f"{task}: {count} rows are asked for, {len(fit)} are there and fit; use --rows")
    return fit[:count]


def cells_of(
    examples: dict[str, list[Example]], recipe: Recipe, place: Path, parts: int = PARTS
) -> list[FusedMember]:
    """Each task's examples dealt to some cells; one example of another cell is validated on."""
    return [
        FusedMember(
            f"{task}-{part}",
            rows[part::parts],
            rows[part - 1 : part] or rows[-1:],
            recipe,
            part,
            place / f"{task}-{part}",
        )
        for task, rows in examples.items()
        for part in range(parts)
    ]


def tokens_of(cells: Sequence[FusedMember]) -> int:
    """Tokens that one epoch over all cells trains on."""
    return sum(len(example.ids) for cell in cells for example in cell.training)


def plain(base: LoadedBase, cells: Sequence[FusedMember], fast: bool = True) -> float:
    """Seconds of the updates of one cell after the other."""
    with fast_products(base) if fast else nullcontext():
        return sum(_train(base, cell).curve[-1].seconds for cell in cells)


def _train(base: LoadedBase, cell: FusedMember) -> TrainedAdapter:
    return train(base, cell.training, cell.validation, cell.recipe, cell.folder, seed=cell.seed)


def fused(base: LoadedBase, cells: Sequence[FusedMember]) -> float:
    """Seconds of the updates of all cells at once."""
    with fast_products(base):
        outcomes = train_fused(base, cells, slots=len(cells))
    trained = [one for one in outcomes.values() if isinstance(one, TrainedAdapter)]
    assert len(trained) == len(cells), outcomes
    return max(one.curve[-1].seconds for one in trained)


def trl(
    base: LoadedBase, cells: Sequence[FusedMember], place: Path, changes: dict[str, Any]
) -> float:
    """Seconds of SFTTrainer's training of one cell after the other, its preparation left out."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    seconds = 0.0
    for cell in cells:
        rows = [
            {
                "input_ids": list(one.ids),
                "completion_mask": [int(i >= one.prompt_tokens) for i in range(len(one.ids))],
            }
            for one in cell.training
        ]
        recipe = cell.recipe
        how = SFTConfig(
            output_dir=str(place / "trl"),
            per_device_train_batch_size=recipe.examples_per_update,
            num_train_epochs=1,
            learning_rate=recipe.learning_rate,
            max_length=recipe.max_length,
            completion_only_loss=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=base.device.type == "cpu",
            **changes,
        )
        lora = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        )
        trainer = SFTTrainer(
            base.model,
            args=how,
            train_dataset=Dataset.from_list(rows),
            processing_class=base.tokenizer,
            peft_config=lora,
        )
        seconds += timed(trainer.train)
        trainer.model.unload()
        base.model.eval().requires_grad_(False)
    return seconds


def timed(run: Callable[[], Any]) -> float:
    """Seconds of a call."""
    gc.collect()
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


class Bench:
    """The measurements of one round."""

    def __init__(self, rows: int, precision: str, with_trl: bool, place: Path) -> None:
        self.precision, self.with_trl, self.place = precision, with_trl, place
        self.recipe = recipe_for(precision)
        self.figures = Figures()
        self.base = self.load()
        examples = {task: examples_of(self.base, task, rows, self.recipe) for task in TASKS}
        self.cells = cells_of(examples, self.recipe, place)
        short = {
            task: examples_of(self.base, task, SHORT_EXAMPLES, self.recipe) for task in SHORT_TASKS
        }
        self.short = cells_of(short, self.recipe, place, SHORT_PARTS)

    def load(self) -> LoadedBase:
        """The base, anew."""
        return load_base(find_base(BASE), self.precision)  # type: ignore[arg-type]

    def round(self) -> None:
        """Every figure once."""
        tokens, note = tokens_of(self.cells), self.figures.note
        note("plain_tps", tokens / plain(self.base, self.cells))
        note("fused_tps", tokens / fused(self.base, self.cells))
        short = tokens_of(self.short)
        note("plain_short_tps", short / plain(self.base, self.short))
        note("fused_short_tps", short / fused(self.base, self.short))
        if "plain_mkl_tps" not in self.figures.values:
            note("plain_mkl_tps", tokens / plain(self.base, self.cells, fast=False))
        for name, changes in TRL_SETTINGS.items() if self.with_trl else ():
            # A base of its own: the trainer changes what it is given.
            note(name, tokens / trl(self.load(), self.cells, self.place, changes))
        note("eight_fused_s", timed(lambda: fused(self.load(), self.short)))
        note(
            "eight_separate_s",
            timed(lambda: [plain(self.load(), [cell]) for cell in self.short]),
        )


RATIOS = {
    "plain_over_trl": ("plain_tps", "trl_tps"),
    "plain_over_trl_lean": ("plain_tps", "trl_lean_tps"),
    "plain_over_plain_mkl": ("plain_tps", "plain_mkl_tps"),
    "fused_over_plain": ("fused_tps", "plain_tps"),
    "fused_over_plain_short": ("fused_short_tps", "plain_short_tps"),
    "fused_over_trl": ("fused_tps", "trl_tps"),
    "eight_separate_over_fused": ("eight_separate_s", "eight_fused_s"),
}


def main() -> None:
    """Measure, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=48, help="real rows of each task")
    parser.add_argument("--precision", choices=["fp32", "nf4", "bf16"], default="fp32")
    parser.add_argument("--no-trl", action="store_true")
    parser.add_argument("--out", type=Path, help="also write the line to this file")
    options = parser.parse_args()
    with_trl = not options.no_trl
    if with_trl:
        try:
            metadata.version("trl")
        except metadata.PackageNotFoundError:
            sys.exit(TRL_MISSING)
    with tempfile.TemporaryDirectory() as place:
        bench = Bench(options.rows, options.precision, with_trl, Path(place))
        for _ in range(options.rounds):
            bench.round()
    found = {
        "setting": f"{BASE} {options.precision}, {options.rows} rows each of "
        f"{' and '.join(TASKS)} in {PARTS} cells, LoRA rank {bench.recipe.rank} on all linear "
        f"layers, updates of {bench.recipe.examples_per_update}",
        "tokens": tokens_of(bench.cells),
        **bench.figures.summary(RATIOS, options.rounds),
    }
    if with_trl:
        found["versions"] = package_versions() | {"trl": metadata.version("trl")}
    report("training", found, options.out)


if __name__ == "__main__":
    main()
