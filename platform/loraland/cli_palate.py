"""`loraland palate fit`, `recommend`, `evaluate` and what goes with them. Thin, like `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.errors import InvalidRequest

palate_app = typer.Typer(
    help="""Palates: clusters of reviews, and wines of quality for their price inside liked ones.

    A reconstruction of Grapevine (arXiv 1807.00692). Without DATA, made-up reviews are used.""",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Option(help="Under which the model is kept.")]
Keys = Annotated[
    list[str] | None,
    typer.Option(help="A key, or words of one title (`loraland palate find`); may be repeated."),
]
Count = Annotated[int, typer.Option(help="Items of the list.", min=1, max=100)]
Budget = Annotated[float | None, typer.Option(help="Most that an item may cost.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Palates = Annotated[
    int | None, typer.Option(help="How many palates; by default the scan of 8 to 40 decides.")
]
InProcess = Annotated[bool, typer.Option("--in-process", help="Scan without Ray, one by one.")]


@palate_app.command()
@teaches
def fit(
    data: Annotated[
        Path | None, typer.Argument(help="A .csv or .parquet file of the published layout.")
    ] = None,
    name: Name = "wine",
    palates: Palates = None,
    rows: Annotated[int, typer.Option(help="Made-up reviews, without DATA.")] = 5_000,
    planted: Annotated[int, typer.Option(help="Made-up palates, without DATA.")] = 12,
    seed: Seed = 0,
    in_process: InProcess = False,
    json_: Json = False,
) -> None:
    """Learn palates of reviews and keep the model; a name that exists keeps its palates' ids.

    Numbers of palates are tried as tasks of Ray.
    """
    from loraland.display import err, out
    from loraland.display_palate import palate_table
    from loraland.palate import artifact
    from loraland.palate.alignment import refit
    from loraland.palate.fitting import FitSettings
    from loraland.palate.fitting import fit as fit_model

    storage = open_storage()
    cleaned, source = _data(data, rows, planted, seed)
    for warning in cleaned.warnings:
        err.print(f"data: {warning}", style="yellow", markup=False, highlight=False)
    settings = FitSettings(k=palates, seed=seed)
    told: dict[str, Any] = {
        "source": source,
        "warnings": cleaned.warnings,
        "tell": lambda stage: err.print(stage, highlight=False),
    }
    with _runner(in_process or palates is not None) as runner:
        if name in artifact.names(storage):
            old = artifact.load(storage, name)
            model, _ = refit(cleaned.catalogue, old, settings, runner=runner, **told)
        else:
            model = fit_model(cleaned.catalogue, settings, runner=runner, **told)
    version = artifact.save(model, storage, name)
    if json_:
        palate_rows = [palate._asdict() for palate in model.palates]
        print_json({"name": name, "version": version, "palates": palate_rows, **model.facts})
        return
    out.print(palate_table(model, f"{name}@{version}"))


@palate_app.command()
@teaches
def recommend(
    name: Name = "wine",
    like: Keys = None,
    dislike: Keys = None,
    text: Annotated[str, typer.Option(help="Own words, such as 'smoky, dark plum'.")] = "",
    count: Count = 10,
    budget: Budget = None,
    soft: Annotated[bool, typer.Option("--soft", help="Dearer items fade, none is cut.")] = False,
    objective: Annotated[
        Literal["residual", "ratio", "frontier"], typer.Option(help="What value for money is.")
    ] = "residual",
    seed: Annotated[
        int | None, typer.Option(help="Lets the last place be a guess now and then.")
    ] = None,
    json_: Json = False,
) -> None:
    """What to try next, and why, from what was liked and disliked."""
    from loraland.display import err, out
    from loraland.display_palate import shelf_table
    from loraland.palate import artifact
    from loraland.palate.preference import Tastes
    from loraland.palate.recommend import recommend as ask
    from loraland.palate.scoring import Wish

    model = artifact.load(open_storage(), name)
    tastes = Tastes(_keys(model, like), _keys(model, dislike), text=text)
    wish = Wish(count, budget, "soft" if soft else "hard", objective, seed)
    shelf = ask(model, tastes, wish)
    if json_:
        print_json(_shelf(model, shelf))
        return
    out.print(shelf_table(shelf))
    for note in shelf.notes:
        err.print(note, style="yellow", markup=False, highlight=False)


@palate_app.command()
@teaches
def find(
    words: Annotated[str, typer.Argument(help="Words of a title.")],
    name: Name = "wine",
    json_: Json = False,
) -> None:
    """Items by words of their titles, with their keys and palates; the most reviewed first."""
    from loraland.display import err, out
    from loraland.display_palate import found_table
    from loraland.palate import artifact

    model = artifact.load(open_storage(), name)
    places = model.catalogue.search(words, 20)
    if json_:
        keys, titles = model.catalogue.keys, model.catalogue.titles
        print_json([{"key": keys[place], "title": titles[place]} for place in places])
    elif places:
        out.print(found_table(model, places))
    else:
        err.print(f"no title holds all of '{words}'", markup=False, highlight=False)


@palate_app.command()
@teaches
def cards(
    name: Name = "wine",
    count: Annotated[int, typer.Option(help="Cards.", min=1, max=24)] = 8,
    json_: Json = False,
) -> None:
    """A few items that tell palates apart, for somebody who has said nothing yet."""
    from loraland.display import out
    from loraland.display_palate import card_table
    from loraland.palate import artifact
    from loraland.palate.onboarding import first_cards

    found = first_cards(artifact.load(open_storage(), name), count)
    if json_:
        print_json([card._asdict() for card in found])
    else:
        out.print(card_table(found))


@palate_app.command()
@teaches
def evaluate(
    name: Name = "wine",
    people: Annotated[int, typer.Option(help="Made-up people, of made-up reviews.", min=2)] = 200,
    json_: Json = False,
) -> None:
    """This recommender beside simpler ones, on held-out likes, with intervals over people.

    Made-up reviews have made-up people with true palates. Real reviews know no users: what one
    taster says of a variety of a country stands in for one.
    """
    from loraland.display import out
    from loraland.display_palate import judged_table
    from loraland.palate import artifact
    from loraland.palate.cases import cases_of
    from loraland.palate.judging import judge
    from loraland.palate.rivals import rankers

    model = artifact.load(open_storage(), name)
    cases, who = cases_of(model, people)
    rows = judge(model, cases, rankers(model, cases))
    if json_:
        print_json({"model": f"{name}@{model.version}", "cases": who, "rankers": rows})
    else:
        out.print(judged_table(rows, f"{name}@{model.version}: {who}"))


@palate_app.command()
@teaches
def adapters(
    text: Annotated[str, typer.Argument(help="A prompt, or words that describe the work.")],
    budget: Annotated[
        float | None, typer.Option(help="Most that it may cost, in the unit of --cost.")
    ] = None,
    cost: Annotated[
        Literal["parameters", "tokens", "seconds"],
        typer.Option(help="Millions of the base's parameters; thousands trained; of training."),
    ] = "parameters",
    quality: Annotated[
        Literal["lift", "score"], typer.Option(help="What counts as quality, from the card.")
    ] = "lift",
    count: Count = 5,
    json_: Json = False,
) -> None:
    """Which adapter of the registry for this text, at this cost?"""
    from loraland.adapters.registry import Registry
    from loraland.display import err, out
    from loraland.display_palate import adapter_pick_table
    from loraland.palate.adapter_catalogue import (
        UNITS,
        catalogue_of_cards,
        choose_adapters,
        fit_adapters,
    )
    from loraland.palate.scoring import Wish

    entries = Registry(open_storage()).list()
    model = fit_adapters(catalogue_of_cards((e.card for e in entries), cost, quality))
    found = choose_adapters(model, text, Wish(count=count, budget=budget))
    if json_:
        print_json(
            [{"model": one.model, "nearness": one.nearness, **_plain(one.pick)} for one in found]
        )
    elif found:
        out.print(adapter_pick_table(found, quality, UNITS[cost]))
    else:
        err.print("no adapter's task is near that text", highlight=False)


@palate_app.command()
@teaches
def serve(
    name: Name = "wine",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="HTTP port.")] = 8000,
    make_up: Annotated[
        bool, typer.Option(help="Fit made-up reviews where the name has no model.")
    ] = True,
) -> None:
    """Serve palates to people, with a JSON API and a page, until Ctrl-C.

    People and events are kept in LORALAND_DATABASE: a path for SQLite, or
    postgresql+psycopg://USER@HOST/NAME with PGPASSWORD. `serve run serve_apps.palate:app` does the
    same on a cluster.
    """
    import signal

    from loraland import settings
    from loraland.cellar.app import build
    from loraland.cellar.config import CellarConfig
    from loraland.cellar.database import url_of
    from loraland.cellar.following import ensure_model
    from loraland.cluster import ray_cluster
    from loraland.display import err
    from loraland.palate import artifact
    from loraland.serving.local import running

    storage = open_storage()
    if make_up:
        ensure_model(storage, name)
    # What is missing is told before anything is started.
    artifact.latest(storage, name)
    url_of(settings.database_url(), storage)
    with (
        ray_cluster(own=True),
        running(lambda: build(CellarConfig(model=name)), "palate", host, port) as url,
    ):
        err.print(f"palates '{name}' at {url} ; Ctrl-C ends it", highlight=False)
        signal.pause()


def _data(data: Path | None, rows: int, planted: int, seed: int) -> tuple[Any, dict[str, Any]]:
    """Cleaned reviews and their source."""
    from loraland.palate.cleaning import catalogue_of
    from loraland.palate.generator import generate, source_of
    from loraland.palate.reviews import read_reviews

    if data is not None:
        return catalogue_of(read_reviews(data)), {"kind": "file", "file": data.name}
    return catalogue_of(generate(rows, planted, seed).reviews), source_of(rows, planted, seed)


def _runner(here: bool) -> Any:
    """A context with the runner of trials: in this process, or on Ray."""
    from contextlib import contextmanager, nullcontext

    from loraland.cluster import ray_cluster
    from loraland.palate.scan import run_here
    from loraland.palate.scan_on_ray import runner_on

    if here:
        return nullcontext(run_here)

    @contextmanager
    def on_ray() -> Any:
        with ray_cluster() as ray:
            yield runner_on(ray)

    return on_ray()


def _keys(model: Any, named: list[str] | None) -> tuple[str, ...]:
    """Keys as they are; other words find the one title that holds them all."""
    found = []
    for one in named or []:
        if one in model.catalogue.index:
            found.append(one)
            continue
        places = model.catalogue.search(one, 5)
        titles = [f"'{model.catalogue.titles[place]}'" for place in places]
        if not places:
            raise InvalidRequest(f"no item has the key '{one}' or a title with all its words")
        if len(places) > 1:
            raise InvalidRequest(
                f"'{one}' may be {', '.join(titles)}; give more words of the title, or a key"
            )
        found.append(model.catalogue.keys[places[0]])
    return tuple(dict.fromkeys(found))


def _shelf(model: Any, shelf: Any) -> dict[str, Any]:
    theta = {
        palate.id: float(t) for palate, t in zip(model.palates, shelf.profile.theta, strict=True)
    }
    return {
        "model_version": shelf.model_version,
        "theta": theta,
        "preferred": [model.palates[at].id for at in shelf.profile.preferred],
        "notes": list(shelf.notes),
        "picks": [_plain(pick) for pick in shelf.picks],
    }


def _plain(pick: Any) -> dict[str, Any]:
    return {**pick._asdict(), "why": pick.why._asdict()}
