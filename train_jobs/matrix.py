"""The cells of a space as a Ray job: runs what is missing on the cluster that runs the job.

ray job submit --working-dir . -- python -m train_jobs.matrix --space paper --fuse auto

Takes the options of `loraland matrix run`. LORALAND_STORAGE must name a place that all nodes see
(s3://, gs://, or a shared folder) on a cluster of several nodes. Submitted again after anything was
lost, it goes on where it was.
"""

from __future__ import annotations

from typing import Annotated

import typer

from loraland import cli_matrix


def main(
    space: Annotated[str, typer.Option(help="A shipped space, or the path of a YAML file.")],
    fuse: cli_matrix.Fuse = "1",
    devices: cli_matrix.Devices = 1,
    strategy: cli_matrix.Strategy = "ddp",
    cpus: cli_matrix.Cpus = None,
    gpus: cli_matrix.Gpus = None,
    accelerator: cli_matrix.Accelerator = None,
    log: cli_matrix.Log = None,
) -> None:
    """Run the missing cells; prints what is done as JSON. Exits with 1 when a cell has failed."""
    cli_matrix.matrix_run(space, fuse, devices, strategy, cpus, gpus, accelerator, log, json_=True)


if __name__ == "__main__":
    typer.run(main)
