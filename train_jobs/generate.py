"""Missing answers of a space as a Ray job: every base is a task, several of them at a time.

ray job submit --working-dir . -- python -m train_jobs.generate --space paper --max-items 1000

Takes the options of `loraland generate`. LORALAND_STORAGE must name a place that all nodes see
(s3://, gs://, or a shared folder) on a cluster of several nodes. Submitted again after anything was
lost, it asks only what has no answer yet.
"""

from __future__ import annotations

from typing import Annotated

import typer

from loraland import cli_generation, cli_matrix


def main(
    space: Annotated[str, typer.Option(help="A shipped space, or the path of a YAML file.")],
    base: cli_generation.Bases = None,
    max_items: cli_generation.MaxItems = None,
    cpus: cli_matrix.Cpus = None,
    gpus: cli_matrix.Gpus = None,
    accelerator: cli_matrix.Accelerator = None,
) -> None:
    """Ask and score; prints what was done as JSON. Exits with 1 when a cell has failed."""
    cli_generation.generate(space, base, max_items, True, cpus, gpus, accelerator, json_=True)


if __name__ == "__main__":
    typer.run(main)
