"""`loraland strata`: whom a classifier fails, and training that does not. Thin, like `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from loraland import settings as places
from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.errors import InvalidConfiguration

if TYPE_CHECKING:
    from loraland.strata.groups import Mode
    from loraland.strata.record import Audit
    from loraland.strata.settings import StrataSettings

strata_app = typer.Typer(
    help="Hidden subclasses of a classifier: whom does it fail, and how is that mended.",
    no_args_is_help=True,
)

Preset = Annotated[
    str,
    typer.Option(
        "--settings",
        help="default, waterbirds (hardness), u-mnist, celeba, celeba-hardness or isic.",
    ),
]
Change = Annotated[
    list[str] | None,
    typer.Option("--set", help="Another setting, such as reduction=pca; repeatable."),
]
BasePath = Annotated[
    str | None, typer.Option("--base", help="The base's folder, if not in the catalogue.")
]
OnRay = Annotated[bool, typer.Option("--ray", help="Search every label and k as tasks on Ray.")]


@strata_app.command()
@teaches
def audit(
    model: Annotated[str, typer.Argument(help="BASE/TASK, BASE/TASK:ALIAS or BASE/TASK@VERSION.")],
    preset: Preset = "default",
    change: Change = None,
    features: Annotated[
        Literal["adapter", "base"],
        typer.Option(help="Whose features are clustered; scores are always the adapter's."),
    ] = "adapter",
    max_items: Annotated[int, typer.Option(help="Held-out items to score.", min=20)] = 1000,
    max_train: Annotated[
        int, typer.Option(help="Training examples to look at, in their order.", min=20)
    ] = 5000,
    base: BasePath = None,
    ray: OnRay = False,
    to: Annotated[
        Path | None, typer.Option("--out", help="Write the page to this HTML file, too.")
    ] = None,
    json_: Json = False,
) -> None:
    """Whom does a classification adapter fail? Finds strata of each label without group labels.

    Reads features where the adapter is about to answer, clusters them label by label, and scores
    every stratum on held-out items, the worst first, with examples and telling words. Kept in
    storage: asked again it is read. `loraland strata train` mends what it found.
    """
    from loraland.display import err, out
    from loraland.display_strata import strata_table
    from loraland.strata.language.audit_adapter import audit_adapter

    chosen = _settings(preset, change)
    with _runner(ray) as run:
        found = audit_adapter(
            model,
            open_storage(),
            chosen,
            source=features,
            base=base,
            max_items=max_items,
            max_train=max_train,
            run=run,
            on_stage=lambda stage: err.print(stage, highlight=False, markup=False),
        )
    _show(found, to, json_, strata_table(found), out)


@strata_app.command()
@teaches
def train(
    audit_id: Annotated[
        str, typer.Argument(metavar="[AUDIT]", help="The id that `loraland strata list` shows.")
    ] = "",
    mode: Annotated[
        list[str] | None,
        typer.Option(help="erm, superclass, random, george or oracle; repeatable."),
    ] = None,
    eta: Annotated[float, typer.Option(help="Step of the group weights, per update.")] = 0.1,
    size_adjustment: Annotated[
        float, typer.Option(help="C of C / sqrt(n): favours small groups, nats.")
    ] = 0.0,
    uniform: Annotated[
        bool, typer.Option(help="Draw groups alike, with replacement; or examples.")
    ] = True,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe-set", help="A change of the recipe, such as max_epochs=2."),
    ] = None,
    max_items: Annotated[int, typer.Option(help="Held-out items to judge answers on.")] = 100,
    base: BasePath = None,
    ray: Annotated[bool, typer.Option("--ray", help="Each run as a trial on Ray.")] = False,
    images: Annotated[
        str | None,
        typer.Option(
            help="In place of AUDIT: digits, or DATA:FOLDER with DATA umnist, waterbirds or celeba."
        ),
    ] = None,
    image_recipe: Annotated[
        str, typer.Option(help="With --images: u-mnist, u-mnist-small, waterbirds or celeba.")
    ] = "u-mnist-small",
    preset: Preset = "default",
    change: Change = None,
    seed: Annotated[int, typer.Option(help="With --images.")] = 0,
    json_: Json = False,
) -> None:
    """Train adapters over an audit's strata with group DRO, and judge all on the same strata.

    Modes stand side by side: erm is the audited adapter itself, superclass and random are controls,
    oracle needs true subclasses. Each is an ordinary run, published as a version of its task; its
    `latest` moves to the last one. With --images small image classifiers are trained in its place.
    """
    from loraland.display import out
    from loraland.display_strata import retrained_table, strata_table

    modes = _modes(mode)
    if (images is None) == (audit_id == ""):
        raise InvalidConfiguration("name the id of an audit, or give --images; one of the two")
    if images is not None:
        found, done = _train_images(images, image_recipe, _settings(preset, change), seed, modes)
    else:
        robustness = (eta, size_adjustment, uniform)
        found, done = _train_adapters(
            audit_id, modes, robustness, _changes(recipe, "--recipe-set"), max_items, base, ray
        )
    if json_:
        print_json({"audit": found.id, "modes": [one.model_dump(mode="json") for one in done]})
        return
    if images is not None:
        out.print(strata_table(found))
    out.print(retrained_table(done))
    out.print(f"kept in {places.storage_uri()}/strata/{found.id}", highlight=False)


@strata_app.command("list")
@teaches
def list_(json_: Json = False) -> None:
    """All audits in storage, the newest first, with the score of the worst stratum of each."""
    from loraland.display import err, out
    from loraland.display_strata import audit_table
    from loraland.strata.shelf import lines

    found = lines(open_storage())
    if json_:
        print_json([one.model_dump(mode="json") for one in found])
    elif found:
        out.print(audit_table(found))
    else:
        err.print("no audits yet; `loraland strata audit MODEL` makes one", highlight=False)


@strata_app.command()
@teaches
def show(
    audit_id: Annotated[str, typer.Argument(help="The id that `loraland strata list` shows.")],
    to: Annotated[Path | None, typer.Option("--out", help="Write the page to this file.")] = None,
    json_: Json = False,
) -> None:
    """An audit from storage, with the adapters that were trained after it; needs no model."""
    from loraland.display import out
    from loraland.display_strata import retrained_table, strata_table
    from loraland.strata.shelf import get_audit, retrained

    storage = open_storage()
    found = get_audit(audit_id, storage)
    _show(found, to, json_, strata_table(found), out)
    if not json_ and (done := retrained(audit_id, storage)):
        out.print(retrained_table(done))


def _show(found: Audit, to: Path | None, json_: bool, table: Any, out: Any) -> None:
    from loraland.display import err
    from loraland.storage import Storage
    from loraland.strata.shelf import PAGE, folder_of

    if to is not None:
        page = open_storage().read(f"{folder_of(found.id)}/{PAGE}")
        Storage.open(str(to.parent)).write(to.name, page)  # whole or not at all
        err.print(f"wrote {to} ({len(page) / 1e6:.1f} MB)", highlight=False)
    if json_:
        print_json(found.model_dump(mode="json"))
        return
    for warning in found.warnings:
        err.print(warning, style="yellow", markup=False, highlight=False)
    out.print(table)
    out.print(f"audit {found.id}, kept in {places.storage_uri()}/strata", highlight=False)


def _train_adapters(
    audit_id: str,
    modes: list[Mode],
    robustness: tuple[float, float, bool],
    changes: dict[str, Any],
    max_items: int,
    base: str | None,
    ray: bool,
) -> tuple[Audit, list[Any]]:
    from loraland.strata.language.retrain import Robustness, judge_on_strata, robust_cell
    from loraland.strata.shelf import get_audit

    storage = open_storage()
    found = get_audit(audit_id, storage)
    cells = [
        robust_cell(
            found, mode, storage, Robustness(*robustness),
            changes=changes, base=base, max_items=max_items,
        )
        for mode in modes
    ]  # fmt: skip
    done = []
    for mode, cell in zip(modes, cells, strict=True):
        model = _run(cell, ray)
        done.append(judge_on_strata(found, mode, model, storage, base))
    return found, done


def _run(cell: Any, ray: bool) -> str:
    """Bring a cell to its end; the model that came out."""
    from loraland.cluster import ray_cluster
    from loraland.display import CellProgress
    from loraland.matrix.cell import CellFailure
    from loraland.matrix.run import run_cell
    from loraland.matrix.trial import default_resources, run_cells

    if not ray:
        with CellProgress([cell.label]) as progress:
            return run_cell(cell, open_storage(), progress.show).model
    with ray_cluster() as cluster, CellProgress([cell.label]) as progress:
        resources = default_resources(cluster, None, None)
        [outcome] = run_cells([cell], places.storage_uri(), resources, progress.show)
    if isinstance(outcome, CellFailure):
        raise outcome.error
    return outcome.model


def _train_images(
    images: str, recipe: str, settings: StrataSettings, seed: int, modes: list[Mode]
) -> tuple[Audit, list[Any]]:
    from loraland.strata.audit_images import audit_images, judge_mode
    from loraland.strata.images.recipe import image_recipe
    from loraland.strata.images.study import ImageStudy

    chosen = image_recipe(recipe)
    study = ImageStudy(_pictures(images, seed), open_storage(), chosen, settings, seed)
    found = audit_images(study)
    return found, [judge_mode(found, study, mode) for mode in modes]


def _pictures(images: str, seed: int) -> Any:
    """Raises InvalidConfiguration, SourceUnavailable, DataRefused."""
    from loraland.strata.images.published import load_celeba, load_waterbirds
    from loraland.strata.images.umnist import load_umnist

    kind, _, folder = images.partition(":")
    if kind == "digits" and not folder:
        return load_umnist(None, seed)
    known = {"waterbirds": load_waterbirds, "celeba": load_celeba}
    if folder and kind == "umnist":
        return load_umnist(Path(folder), seed)
    if folder and kind in known:
        return known[kind](Path(folder))
    raise InvalidConfiguration(
        f"--images is '{images[:80]}'; write digits, umnist:FOLDER, waterbirds:FOLDER or "
        "celeba:FOLDER"
    )


def _modes(asked: list[str] | None) -> list[Mode]:
    """Raises InvalidConfiguration."""
    from loraland.strata.groups import MODES

    for one in asked or []:
        if one not in MODES:
            raise InvalidConfiguration(
                f"mode '{one[:40]}' is not known; possible: {', '.join(MODES)}"
            )
    return [mode for mode in MODES if mode in (asked or ["erm", "george"])]


def _settings(preset: str, change: list[str] | None) -> StrataSettings:
    """Raises InvalidConfiguration."""
    from loraland.strata.settings import preset as find

    return find(preset, **_changes(change, "--set"))


def _changes(given: list[str] | None, option: str) -> dict[str, Any]:
    """NAME=VALUE, the value as YAML reads it. Raises InvalidConfiguration."""
    import yaml

    found = {}
    for text in given or []:
        name, sign, value = text.partition("=")
        try:
            if not sign:
                raise ValueError
            found[name.strip()] = yaml.safe_load(value)
        except (ValueError, yaml.YAMLError):
            raise InvalidConfiguration(
                f"{option} is '{text[:80]}'; write NAME=VALUE, such as max_k=5"
            ) from None
    return found


def _runner(ray: bool) -> Any:
    """A context that gives the runner of a fit: in this process, or on Ray."""
    from contextlib import contextmanager, nullcontext

    from loraland.strata.model import in_process

    if not ray:
        return nullcontext(in_process)

    @contextmanager
    def cluster() -> Any:
        from loraland.cluster import ray_cluster
        from loraland.strata.on_ray import on_ray

        with ray_cluster():
            yield on_ray

    return cluster()
