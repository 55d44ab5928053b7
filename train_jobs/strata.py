"""Strata as a Ray job: whom does an adapter fail, and adapters that do not; searches are tasks.

ray job submit --working-dir . -- python -m train_jobs.strata audit smollm2-135m/topics
ray job submit --working-dir . -- python -m train_jobs.strata train AUDIT --mode george

Takes the options of `loraland strata audit` and `train`. LORALAND_STORAGE must name a place that
all nodes see (s3://, gs://, or a shared folder) on a cluster of several nodes. Submitted again
after anything was lost, it goes on from what is kept.
"""

from __future__ import annotations

from typing import Annotated

import typer

from loraland import cli_strata

app = typer.Typer(no_args_is_help=True)


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="BASE/TASK, BASE/TASK:ALIAS or BASE/TASK@VERSION.")],
    preset: cli_strata.Preset = "default",
    change: cli_strata.Change = None,
    max_items: Annotated[int, typer.Option(help="Held-out items to score.", min=20)] = 1000,
    max_train: Annotated[int, typer.Option(help="Training examples to look at.", min=20)] = 5000,
    base: cli_strata.BasePath = None,
) -> None:
    """Find strata of a published adapter and score each; prints the audit as JSON."""
    cli_strata.audit(
        model,
        preset,
        change,
        max_items=max_items,
        max_train=max_train,
        base=base,
        ray=True,
        json_=True,
    )


@app.command()
def train(
    audit_id: Annotated[str, typer.Argument(metavar="[AUDIT]", help="The id of an audit.")] = "",
    mode: Annotated[
        list[str] | None,
        typer.Option(help="erm, superclass, random, george or oracle; repeatable."),
    ] = None,
    base: cli_strata.BasePath = None,
    images: Annotated[
        str | None, typer.Option(help="In place of AUDIT: digits, or DATA:FOLDER.")
    ] = None,
    image_recipe: Annotated[
        str, typer.Option(help="With --images: the name of its recipe.")
    ] = "u-mnist-small",
    seed: Annotated[int, typer.Option(help="With --images.")] = 0,
) -> None:
    """Train over an audit's strata, or all modes on images; prints the results as JSON."""
    cli_strata.train(
        audit_id,
        mode,
        base=base,
        ray=True,
        images=images,
        image_recipe=image_recipe,
        seed=seed,
        json_=True,
    )


if __name__ == "__main__":
    app()
