"""`loraland keys ...`: API keys of a server that requires them. Thin."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loraland.cli_common import Json, open_storage, print_json, teaches
from loraland.errors import InvalidConfiguration
from loraland.serving.access.policy import AccessMode, is_loopback, needs_keys

if TYPE_CHECKING:
    from loraland.serving.access.keys import KeyRecord
    from loraland.serving.access.store import KeyStore

keys_app = typer.Typer(
    help="API keys: who may use which models, and how much.", no_args_is_help=True
)

_SPAN = re.compile(r"([1-9][0-9]{0,4})([hd])")


@keys_app.command("create")
@teaches
def keys_create(
    name: Annotated[str, typer.Argument(help="Whose key it is; for people, and never secret.")],
    models: Annotated[
        list[str] | None,
        typer.Option(help="A pattern such as smollm2-135m/*, again for more; by default all."),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="By default no limit.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(help="Of prompts and answers; by default no limit.")
    ] = None,
    tokens_per_day: Annotated[int | None, typer.Option(help="Of a day in UTC.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests under way at once.")] = None,
    admin: Annotated[
        bool, typer.Option("--admin", help="May change what is served: load, alias, promote.")
    ] = False,
    expires: Annotated[
        str | None, typer.Option(help="A date such as 2027-01-31, or 12h or 30d from now.")
    ] = None,
    json_: Json = False,
) -> None:
    """Make a key. It is shown this once: only a hash of it is kept. Servers know it in seconds."""
    from loraland.display import err

    made = _store().create(
        name,
        models=models or ["*"],
        admin=admin,
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
        concurrent=concurrent,
        expires=None if expires is None else read_expiry(expires, datetime.now(UTC)),
    )
    if json_:
        print_json(_plain(made.record) | {"key": made.text})
        return
    print(made.text)
    err.print(
        f"key {made.record.id} of {made.record.name}: it is shown only now. A client sends it as "
        "`Authorization: Bearer KEY`, OpenAI's clients as api_key",
        markup=False,
        highlight=False,
    )


@keys_app.command("list")
@teaches
def keys_list(json_: Json = False) -> None:
    """All keys by id, with what each may; no secrets, which nobody has."""
    from loraland.display import err, out
    from loraland.display_keys import key_table

    listed = _store().listed()
    if json_:
        print_json([_plain(record) | {"revoked": revoked} for record, revoked in listed])
    elif listed:
        out.print(key_table(listed, datetime.now(UTC)))
    else:
        err.print("no keys yet; `loraland keys create NAME` makes one", highlight=False)


@keys_app.command("revoke")
@teaches
def keys_revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="From `loraland keys list`.")],
) -> None:
    """End a key; servers refuse it within seconds."""
    from loraland.display import out

    record = _store().revoke(key_id)
    out.print(f"key {record.id} of {record.name} is revoked", markup=False, highlight=False)


def tell_access(mode: AccessMode, host: str) -> None:
    """What a server on `host` will ask of its callers, where that may surprise."""
    from loraland.display import err

    if needs_keys(mode, host):
        if not _store().ids():
            err.print(
                "API keys are required here and there are none yet; "
                "`loraland keys create NAME` makes one, while this runs too",
                style="yellow",
                highlight=False,
            )
    elif not is_loopback(host):
        err.print(
            f"access is off and {host} can be reached by others: whoever does may use and change "
            "all that is served",
            style="bold yellow",
            markup=False,
            highlight=False,
        )


def read_expiry(text: str, now: datetime) -> datetime:
    """A moment from `12h`, `30d` or an ISO 8601 date or time; without a zone it is in UTC.

    Raises InvalidConfiguration, also for a moment that is over.
    """
    span = _SPAN.fullmatch(text)
    if span is not None:
        count = int(span[1])
        return now + (timedelta(hours=count) if span[2] == "h" else timedelta(days=count))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidConfiguration(
            f"'{text[:80]}' is no moment; write a date such as 2027-01-31, or 12h or 30d from now"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= now:
        raise InvalidConfiguration(f"the key would have expired at {moment}; choose a later moment")
    return moment


def _plain(record: KeyRecord) -> dict[str, Any]:
    return record.model_dump(mode="json", exclude={"sha256"})


def _store() -> KeyStore:
    from loraland.serving.access.store import KeyStore

    return KeyStore(open_storage())
