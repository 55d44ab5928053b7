"""A study of recurrent nets as a Ray job: runs what is missing on the cluster that runs the job.

ray job submit --working-dir . -- python -m train_jobs.recurrent --study adding

Takes the options of `loraland recurrent run`. LORALAND_STORAGE must name a place that all nodes see
(s3://, gs://, or a shared folder) on a cluster of several nodes. Submitted again after anything was
lost, it trains only what has no result.
"""

from __future__ import annotations

from typing import Annotated

import typer

from loraland import cli_recurrent


def main(
    study: Annotated[str, typer.Option(help="A shipped study, or the path of a YAML file.")],
    cpus: cli_recurrent.Cpus = 1,
) -> None:
    """Train what is missing; prints what was found as JSON."""
    cli_recurrent.recurrent_run(study, cpus, False, json_=True)


if __name__ == "__main__":
    typer.run(main)
