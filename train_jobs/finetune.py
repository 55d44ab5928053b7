"""One cell as a Ray job: train, judge and publish an adapter on the cluster that runs the job.

ray job submit --working-dir . -- python -m train_jobs.finetune --base smollm2-135m --task dates

Takes the options of `loraland train`. LORALAND_STORAGE must name a place that all nodes see (s3://,
gs://, or a shared folder) on a cluster of several nodes.
"""

from __future__ import annotations

from typing import Annotated

import typer

from loraland import cli


def main(
    base: Annotated[str, typer.Option(help="A base of the catalogue, or a folder all nodes see.")],
    task: Annotated[str, typer.Option(help="A task of the catalogue.")],
    recipe: Annotated[str, typer.Option(help="quick, report, or a YAML file.")] = "quick",
    max_examples: Annotated[
        int | None, typer.Option(help="Rows of the train split.", min=2)
    ] = None,
    max_items: Annotated[int, typer.Option(help="Held-out items to judge on.", min=1)] = 100,
    seed: Annotated[int, typer.Option(help="Of shuffling, initial weights and dropout.")] = 0,
    cpus: Annotated[float | None, typer.Option(help="CPU cores of the trial.")] = None,
    gpus: Annotated[float | None, typer.Option(help="GPUs of the trial.")] = None,
) -> None:
    """Train, judge and publish one adapter; prints the result as JSON."""
    cli.train(base, task, recipe, max_examples, max_items, seed, cpus, gpus, False, json_=True)


if __name__ == "__main__":
    typer.run(main)
