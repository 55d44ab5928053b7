"""`loraland loadtest URL`: load on a server over HTTP, measured. Thin."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraland.bases.catalogue import Precision
from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.errors import InvalidConfiguration

if TYPE_CHECKING:
    from loraland.loadtest.command import Found, Wishes

loadtest_app = typer.Typer()


@loadtest_app.command("loadtest")
@teaches
def loadtest(
    url: Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000.")],
    base: Annotated[
        str | None, typer.Option(help="The base to test; by default the server's only one.")
    ] = None,
    adapters: Annotated[
        int | None, typer.Option(help="So many of its adapters, by name; 0: the base alone.", min=0)
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="Ask these models in place of all adapters; repeat it.")
    ] = None,
    zipf: Annotated[
        float, typer.Option(help="Popularity by Zipf's law with this exponent; 0 is uniform.")
    ] = 0.0,
    rate: Annotated[
        float | None, typer.Option(help="Open loop: so many requests/s, at random (Poisson).")
    ] = None,
    clients: Annotated[
        int | None, typer.Option(help="Closed loop: so many clients; 32 unless --rate or --trace.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(help="At most so many, warm-up included; 256 unless --seconds.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help="Begin no request after so long.")] = None,
    warm_up: Annotated[
        int | None,
        typer.Option(help="First requests of a run, not counted; a quarter of them, at most 32."),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Random ids in each prompt.", min=1)] = 100,
    new_tokens: Annotated[
        int | None, typer.Option(help="Of an answer at most; 64, or as --task's answers.", min=1)
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(help="Ids are below this; by default as the base's.", min=4)
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="Prompts and lengths of this task's held-out items.")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option(help="Replay CSV or JSON lines: time, adapter, prompt_tokens, new_tokens."),
    ] = None,
    speed: Annotated[float, typer.Option(help="Replay a trace so much faster.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of arrivals, models and prompts.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 300.0,
    against_base: Annotated[
        bool, typer.Option("--against-base", help="Ask the base the same, in turns.")
    ] = False,
    rounds: Annotated[int, typer.Option(help="Runs, or pairs of them.", min=1, max=100)] = 1,
    cliff: Annotated[
        str | None, typer.Option(help="Sweep working sets over slots, such as 0.5,1,2,4.")
    ] = None,
    slots: Annotated[
        int | None, typer.Option(help="For --cliff; by default as the server says.", min=1)
    ] = None,
    synthetic: Annotated[
        int | None,
        typer.Option(
            help="Make so many adapters in the server's registry, and ask "
            "them. Needs its LORALAND_STORAGE."
        ),
    ] = None,
    rank: Annotated[int, typer.Option(help="Of synthetic adapters.")] = 8,
    precision: Annotated[
        Precision, typer.Option(help="In which the server holds the base, for --synthetic.")
    ] = "nf4",
    base_folder: Annotated[
        Path | None, typer.Option(help="Of a base outside the catalogue, for --synthetic.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave synthetic adapters there.")] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="Do not ask every model once before a run.")
    ] = False,
    key_env: Annotated[
        str | None, typer.Option(help="The name of the variable that holds the API key.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the report as JSON here too.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the cliff here.")] = None,
    json_: Json = False,
) -> None:
    """Ask a server for a while, and say what it bears: throughput, latencies, errors, fairness.

    Works with every server that has OpenAI's /v1/models and /v1/completions. Time to first token
    of hits and misses apart, and --cliff, are told by `loraland serve`. Ctrl-C gives the report so
    far.
    """  # fmt: skip
    from loraland.loadtest.command import Wishes, run_command

    wishes = Wishes(
        url=url, base=base, adapters=adapters, models=tuple(model or ()), zipf=zipf, rate=rate,
        clients=clients, requests=requests, seconds=seconds, warm_up=warm_up,
        prompt_tokens=prompt_tokens, new_tokens=new_tokens, vocabulary=vocabulary, task=task,
        trace=trace, speed=speed, seed=seed, timeout_s=timeout, against_base=against_base,
        rounds=rounds, cliff=cliff, slots=slots, cold=cold, synthetic=synthetic,
    )  # fmt: skip
    if svg is not None and cliff is None:
        raise InvalidConfiguration("--svg draws the cliff; give --cliff 0.5,1,2,4 as well")
    key = _key(key_env)
    adapters_made = _synthetic(wishes, key, rank, precision, base_folder, keep)
    with adapters_made as made, _Progress() as progress:
        found = run_command(wishes, key, made, progress.run, progress.advance)
    _show(wishes, found, json_, out, svg)
    if found.interrupted:
        raise typer.Exit(130)


def _key(variable: str | None) -> str | None:
    """The API key in a variable. Raises InvalidConfiguration where there is none."""
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise InvalidConfiguration(
            f"the variable that --key-env names is not set; `export {variable[:60]}=...` first"
        )
    return key


@contextmanager
def _synthetic(
    wishes: Wishes,
    key: str | None,
    rank: int,
    precision: Precision,
    folder: Path | None,
    keep: bool,
) -> Iterator[tuple[str, ...]]:
    """The names of synthetic adapters for as long as they are needed; none unless asked for."""
    if wishes.synthetic is None:
        yield ()
        return
    from loraland.adapters.registry import Registry
    from loraland.bases.catalogue import get_base
    from loraland.bases.loading import base_from_folder, load_base
    from loraland.display import err
    from loraland.loadtest.command import base_of
    from loraland.loadtest.synthetic import check_synthetic, synthetic_adapters

    check_synthetic(wishes.synthetic, rank)
    name = base_of(wishes, key)
    entry = get_base(name) if folder is None else base_from_folder(folder.expanduser(), name)
    err.print(f"making {wishes.synthetic} adapters for {name} in {precision}", highlight=False)
    base = load_base(entry, precision, "cpu")
    registry = Registry(open_storage())
    with synthetic_adapters(
        registry, base, wishes.synthetic, rank=rank, seed=wishes.seed, keep=keep
    ) as made:
        del base
        yield tuple(str(one) for one in made)


class _Progress:
    """One line on a terminal; nothing elsewhere but the names of runs."""

    def __enter__(self) -> _Progress:
        from loraland.display import err

        self._err = err
        self._status = err.status("")
        self._status.start()
        self._what, self._done, self._failed = "", 0, 0
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def run(self, what: str) -> None:
        self._what, self._done, self._failed = what, 0, 0
        if self._err.is_terminal:
            self._status.update(what)
        else:
            self._err.print(what, highlight=False)

    def advance(self, failed: bool) -> None:
        self._done, self._failed = self._done + 1, self._failed + failed
        wrong = f", {self._failed} failed" if self._failed else ""
        self._status.update(f"{self._what}: {self._done} answered{wrong}")


def _show(wishes: Wishes, found: Found, json_: bool, out: Path | None, svg: Path | None) -> None:
    import json

    from loraland.display import err
    from loraland.display import out as screen
    from loraland.display_loadtest import (
        adapter_table,
        against_lines,
        cliff_table,
        notes,
        run_table,
    )
    from loraland.loadtest.cliff import lines_of
    from loraland.loadtest.cliff_svg import Panel, draw

    report: Any = found.document(wishes)
    if out is not None:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if svg is not None and (lines := lines_of(found.points)):
        svg.write_text(draw([Panel("time to first token", lines)]), encoding="utf-8")
    if json_:
        print_json(report)
    elif found.points:
        screen.print(cliff_table(found.points))
    elif found.runs:
        screen.print(run_table(found.runs))
        screen.print(adapter_table(found.runs[0].figures, found.setting["base"]))
    if found.against is not None and not json_:
        for line in against_lines(found.against):
            screen.print(line, highlight=False)
    each = [(run.name, run.figures) for run in found.runs]
    each += [(f"{point.share:g} x slots", point.figures) for point in found.points]
    for name, figures in each:
        for note in notes(figures):
            err.print(f"{name}: {note}", markup=False, highlight=False)
    if found.interrupted:
        err.print("interrupted: this is what there was", highlight=False)
