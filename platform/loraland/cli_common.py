"""What every command shares: how errors end it, the option --json, the storage in use."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

import typer

from loraland import settings
from loraland.errors import LoraLandError, StorageUnavailable

P = ParamSpec("P")
R = TypeVar("R")

Json = Annotated[bool, typer.Option("--json", help="One JSON document instead of a table.")]
# Of commands that compare adapters with the base, with each other and with others.
Correction = Annotated[
    Literal["holm", "bh"],
    typer.Option(help="Over all comparisons: holm (no false claim) or bh (few among many)."),
]
Endpoints = Annotated[
    list[str] | None,
    typer.Option(help="Compare with this outside endpoint too; its samples are in storage."),
]
Published = Annotated[
    bool, typer.Option("--published", help="Show the LoRA Land report's figures beside ours.")
]


def teaches(command: Callable[P, R]) -> Callable[P, R]:
    """Errors of ours end a command with their message and exit code 1; Ctrl-C with 130."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        from loraland.display import err

        try:
            try:
                return command(*args, **kwargs)
            except OSError as error:
                raise _ours(error) from error
        except LoraLandError as error:
            if kwargs.get("json_"):
                print(json.dumps({"error": {"code": error.code, "message": error.message}}))
            err.print(f"[bold red]error[/] ({error.code})", highlight=False)
            err.print(error.message, markup=False, highlight=False)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            err.print("interrupted; start the same command again to go on", highlight=False)
            raise typer.Exit(130) from None

    return run


def _ours(error: OSError) -> LoraLandError:
    """What a user can do about an error of the operating system."""
    if isinstance(error, LoraLandError):
        return error
    return StorageUnavailable(
        f"a file or the storage {settings.storage_uri()} cannot be used: {error}. When that is "
        "mended, start the same command again: it goes on where it was"
    )


def print_json(value: Any) -> None:
    """One document on standard output."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def open_storage() -> Any:
    """The storage that LORALAND_STORAGE names."""
    from loraland.storage import Storage

    return Storage.open(settings.storage_uri())
