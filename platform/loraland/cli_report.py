"""`loraland report`: a space as one HTML file, and as Markdown. Thin, like `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loraland.cli_common import Correction, Endpoints, Published, open_storage, teaches

report_app = typer.Typer()


@report_app.command()
@teaches
def report(
    space: Annotated[str, typer.Argument(help="A space, or the path of a YAML file.")],
    to: Annotated[Path, typer.Option("--out", help="The HTML file to write.")] = Path(
        "report.html"
    ),
    markdown: Annotated[
        Path | None, typer.Option(help="Write the same as Markdown to this file, too.")
    ] = None,
    max_samples: Annotated[
        int, typer.Option(help="Pairs of answers of a cell that the file holds.", min=0)
    ] = 24,
    correction: Correction = "holm",
    endpoint: Endpoints = None,
    published: Published = False,
) -> None:
    """SPACE as one HTML file that opens without a network: figures, tables, claims, answers.

    What the base had right and the adapter has wrong comes first among the answers. Needs no model;
    reads results, cards and samples from storage.
    """
    from loraland.display import err
    from loraland.matrix.space import load_space
    from loraland.report.content import gather
    from loraland.report.markdown import render_markdown
    from loraland.report.overlays import report_figures
    from loraland.report.page import render_html
    from loraland.storage import Storage

    content = gather(
        load_space(space),
        open_storage(),
        max_samples=max_samples,
        correction=correction,
        endpoints=endpoint or [],
        overlays=report_figures() if published else [],
    )
    written = {to: render_html(content)}
    if markdown is not None:
        written[markdown] = render_markdown(content)
    for path, text in written.items():
        Storage.open(str(path.parent)).write(path.name, text.encode())  # whole or not at all
        err.print(f"wrote {path} ({len(text.encode()) / 1e6:.1f} MB)", highlight=False)
    if not content.cells:
        err.print(f"no cell is finished; `loraland matrix run {space}` runs them", highlight=False)
