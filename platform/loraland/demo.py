"""The demo: three tasks from data to answers over HTTP, on whatever machine it finds itself.

A thin composition of what the other commands do; it starts its own Ray and stops it, whatever
happens.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from openai import OpenAI
from rich.panel import Panel
from rich.text import Text

from loraland import settings
from loraland.cluster import ray_cluster
from loraland.display import CellProgress, err, out, score_table
from loraland.engine.text import cut_at_stop
from loraland.matrix.cell import Cell, CellFailure, CellResult
from loraland.matrix.trial import default_resources, run_cells
from loraland.serving.local import running_app
from loraland.tasks.catalogue import get_task
from loraland.tasks.sources import load_split
from loraland.training.recipe import get_recipe

BASE = "smollm2-135m"
TASKS = ("dates", "topics", "sql")
EXAMPLES = 208  # 16 of them for validation, so 24 updates of 8
ITEMS = 40  # held out, answered by base and adapter


def run_demo(port: int = 0) -> None:
    """Train, judge, publish, serve, ask; print what came out and where it lies."""
    started = time.monotonic()
    recipe = get_recipe("quick")
    cells = [Cell(BASE, task, recipe, max_examples=EXAMPLES, max_items=ITEMS) for task in TASKS]
    err.print(
        f"{len(cells)} tasks on {BASE} in {recipe.precision}, through Ray Tune", highlight=False
    )
    with ray_cluster(own=True) as ray:
        with CellProgress([cell.label for cell in cells]) as progress:
            resources = default_resources(ray)
            outcomes = run_cells(cells, settings.storage_uri(), resources, progress.show)
        results = _require_all(outcomes)
        err.print("starting the server (Ray Serve, OpenAI API)", highlight=False)
        share = (resources.cpus, resources.gpus)
        with running_app(BASE, recipe.precision, "127.0.0.1", port, share) as url:
            client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
            for result in results:
                _ask_both(client, result)
    out.print(
        score_table([(r.model, r.score) for r in results], "Does each adapter beat its base?")
    )
    out.print(f"adapters, samples and scores: {settings.storage_uri()}", highlight=False)
    out.print(f"the base's copy:              {settings.cache_folder()}", highlight=False)
    out.print("next: `loraland adapters list`, `loraland serve`", highlight=False)
    err.print(f"{time.monotonic() - started:.0f} s in all", highlight=False)


def _require_all(outcomes: Sequence[CellResult | CellFailure]) -> list[CellResult]:
    for outcome in outcomes:
        if isinstance(outcome, CellFailure):
            raise outcome.error
    return [outcome for outcome in outcomes if isinstance(outcome, CellResult)]


def _ask_both(client: OpenAI, result: CellResult) -> None:
    """The first held-out item of a task, put to the base and to the adapter over HTTP."""
    task = get_task(result.cell.rsplit("/", 1)[1])
    item = task.item(load_split(task, "test", limit=1).rows[0])
    lines = Text(f"{item.prompt}\n")
    for model in (BASE, result.model):
        answer = client.completions.create(
            model=model,
            prompt=item.prompt,
            max_tokens=task.max_new_tokens,
            temperature=0,
        )
        lines.append(f"\n{answer.model}: ", style="bold")
        lines.append(cut_at_stop(answer.choices[0].text, task.stop, trim=True))
    lines.append("\nright answer: ", style="bold")
    lines.append(item.target, style="green")
    out.print(Panel(lines, title=result.cell))
