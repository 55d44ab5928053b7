"""Palates of reviews as a Ray job: the scan's trials are tasks of the cluster that runs the job.

ray job submit --working-dir . -- python -m train_jobs.palate --data /shared/winemag-v2.csv

Takes the options of `loraland palate fit`. LORALAND_STORAGE must name a place that the servers see,
and the file must lie where the job's driver runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loraland import cli_palate


def main(
    data: Annotated[
        Path | None, typer.Option(help="A .csv or .parquet file; without it, made-up reviews.")
    ] = None,
    name: cli_palate.Name = "wine",
    palates: cli_palate.Palates = None,
    rows: Annotated[int, typer.Option(help="Made-up reviews, without a file.")] = 5_000,
    planted: Annotated[int, typer.Option(help="Made-up palates, without a file.")] = 12,
    seed: cli_palate.Seed = 0,
) -> None:
    """Fit and keep; prints the palates and all facts as JSON."""
    cli_palate.fit(data, name, palates, rows, planted, seed, in_process=False, json_=True)


if __name__ == "__main__":
    typer.run(main)
